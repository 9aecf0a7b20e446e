//! The table of settings as a page for people: `docs/configuration.md` is made from it, and a test keeps it current.

use std::fmt::Write as _;

use super::env::PREFIXES;
use super::flags::{self, Group, Kind, Setting};

/// The configuration reference in Markdown: every setting with its flag, its variables, its default and what it means.
#[must_use]
pub fn reference() -> String {
    let prefixes = PREFIXES.map(|prefix| format!("`{prefix}`")).join(", then ");
    let mut page = format!(
        "{HEAD}{prefixes}, in that order of precedence; the flag itself beats them all. Below, `...` stands for any of them.\n"
    );
    let mut groups: Vec<Group> = Vec::new();
    for setting in flags::ALL {
        if !groups.contains(&setting.group) {
            groups.push(setting.group);
        }
    }
    for group in groups {
        let title = group.heading();
        // Writing to a string cannot fail.
        let _ = write!(
            page,
            "\n## {title}\n\n| flag | variable | default | meaning |\n|---|---|---|---|\n"
        );
        for setting in flags::ALL.iter().filter(|setting| setting.group == group) {
            page.push_str(&row(setting));
        }
    }
    page.push_str(TAIL);
    page
}

fn row(setting: &Setting) -> String {
    // A bar would end the cell.
    let cell = |text: &str| text.replace('|', "\\|");
    let value = match setting.kind {
        Kind::Switch => String::new(),
        Kind::Text | Kind::List | Kind::Secret => format!(" {}", cell(setting.hint)),
    };
    let short = setting.short.map(|short| format!(", `-{short}`"));
    let variable = setting.name.to_uppercase().replace('-', "_");
    let mut variables = vec![format!("`..._{variable}`")];
    variables.extend(setting.also_env.iter().map(|name| format!("`{name}`")));
    let default = match (setting.default, setting.kind) {
        (Some(default), _) => format!("`{default}`"),
        (None, Kind::Switch) => "off".to_owned(),
        (None, Kind::Text | Kind::List | Kind::Secret) => String::new(),
    };
    format!(
        "| `{}{value}`{} | {} | {default} | {} |\n",
        setting.flag(),
        short.unwrap_or_default(),
        variables.join("<br>"),
        cell(setting.help),
    )
}

const HEAD: &str = "# Configuration reference

<!-- Made from the table of settings: `TRUNKLINE_WRITE_DOCS=1 cargo test --test configuration` writes it anew. -->

Every setting is a flag and an environment variable. The variable is the flag in upper case, with `_` for `-`, behind one of three prefixes:
";

const TAIL: &str = "
## Mistakes

A value that cannot be used ends the program before it listens, with exit code 2 and one line for each mistake: what was wrong, where it came from, and
what would be right. An empty variable counts as unset, and of a flag that is given twice the last one counts.

A setting that has no effect beside the others is a warning at the start. There is none for

- a value that is the default, or a switch that is off: `--quic` without TLS is a line at `info`;
- `--cluster-port`, `--pod-ip` and the cluster's secret where there are no other pods, as they are often set in the same way for one pod and for several;
- how large a log file may grow, where the log goes elsewhere;
- a value of use that a flag or another prefix beats, and variables with `OZ_` or `NB_` that are of no setting here: other programs have them, too.
";
