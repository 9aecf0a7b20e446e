//! Variables that look like ours and are none: a misspelt one would be ignored without a word.

use std::ffi::OsString;

use super::env::{OWN_PREFIX, variables as variables_of};
use super::flags;
use super::mistakes::Mistake;

/// From which likeness on (0 to 1) a name is what was meant.
const ALIKE: f64 = 0.75;

/// A warning for each of `names` that has our own prefix and is no setting. Those with the others' prefixes are not ours to
/// judge: other programs share them.
pub(super) fn variables(
    names: impl IntoIterator<Item = OsString>,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Vec<Mistake> {
    let also = flags::ALL.iter().flat_map(|setting| setting.also_env);
    let known: Vec<String> = flags::ALL
        .iter()
        .flat_map(|setting| variables_of(setting.name))
        .chain(also.map(|name| (*name).to_owned()))
        .filter(|name| name.starts_with(OWN_PREFIX))
        .collect();
    let mut unknown: Vec<String> = names
        .into_iter()
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.starts_with(OWN_PREFIX) && !known.contains(name))
        .filter(|name| !is_service_link(name, env))
        .collect();
    unknown.sort();
    unknown.iter().map(|name| warning(name, &known)).collect()
}

fn warning(name: &str, known: &[String]) -> Mistake {
    let likeness = |known: &String| strsim::normalized_damerau_levenshtein(name, known);
    let nearest = known
        .iter()
        .max_by(|one, other| likeness(one).total_cmp(&likeness(other)))
        .filter(|nearest| likeness(nearest) >= ALIKE);
    let remedy = match nearest {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => "see --help for what there is".to_owned(),
    };
    Mistake::new(name, "there is no such setting, and it is ignored", remedy)
}

/// What Kubernetes sets in each pod for a Service whose name begins as ours does (`trunkline`, `trunkline-pods`).
fn is_service_link(name: &str, env: &dyn Fn(&str) -> Option<OsString>) -> bool {
    let port_of = |protocol: &str| {
        let Some((before, _)) = name.split_once(protocol) else {
            return false;
        };
        before
            .rsplit_once("_PORT_")
            .is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let is_url = || {
        let value = env(name).and_then(|value| value.into_string().ok());
        value.is_some_and(|value| value.contains("://"))
    };
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || ["_TCP", "_UDP", "_SCTP"].into_iter().any(port_of)
        || (name.ends_with("_PORT") && is_url())
}
