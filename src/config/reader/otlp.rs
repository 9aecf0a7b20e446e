//! OpenTelemetry's standard variables: where metrics and traces are sent, and what of it this program does not do.
//!
//! The SDK reads most of them by itself, and falls back silently where it cannot; here they are judged, so that a wrong one
//! is told as any other mistake. Values of headers are never quoted: they are secrets.

use http::Uri;

use super::Reader;
use crate::config::mistakes::{Mistake, Wrong, quoted};
use crate::telemetry::otlp::OtlpSettings;

/// What switches it on. (OpenTelemetry specification, *OTLP Exporter Configuration*.)
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// A way out for all that is refused here.
const OR_OFF: &str = "or set OTEL_SDK_DISABLED=true to send nothing";

/// The variables of both signals, and of each, with these ends.
const PREFIXES: [&str; 3] = [
    "OTEL_EXPORTER_OTLP",
    "OTEL_EXPORTER_OTLP_TRACES",
    "OTEL_EXPORTER_OTLP_METRICS",
];

/// Numbers of milliseconds or of spans; the SDK takes what it cannot read for its default.
const NUMBERS: [&str; 5] = [
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_BSP_EXPORT_TIMEOUT",
];

/// The samplers that the SDK has; the argument of those with `ratio` is a share.
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

impl Reader<'_> {
    /// What is sent where; None: nothing is. Without an endpoint, or with the SDK disabled, nothing else is judged: what is
    /// there is for other programs.
    pub(super) fn otlp(&mut self) -> Option<OtlpSettings> {
        let disabled = self.standard("OTEL_SDK_DISABLED");
        if disabled.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return None;
        }
        let settings = OtlpSettings {
            metrics: self.otlp_url("METRICS", "v1/metrics"),
            traces: self.otlp_url("TRACES", "v1/traces"),
        };
        if settings == OtlpSettings::default() {
            return None;
        }
        for prefix in PREFIXES {
            self.judge(&format!("{prefix}_PROTOCOL"), protocol);
            self.judge(&format!("{prefix}_HEADERS"), headers);
            self.judge(&format!("{prefix}_COMPRESSION"), |value| match value {
                "none" => Ok(()),
                _ => Err(Wrong::new(
                    format!("{} is not spoken here", quoted(value)),
                    "give none",
                )),
            });
            self.judge(&format!("{prefix}_TIMEOUT"), number);
            for end in ["CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"] {
                self.judge(&format!("{prefix}_{end}"), |_| {
                    Err(Wrong::new(
                        "certificates of its own for the collector are not supported",
                        "name the authority's file with SSL_CERT_FILE, or send to a collector beside the relay",
                    ))
                });
            }
        }
        for name in NUMBERS {
            self.judge(name, number);
        }
        self.judge(
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
            |value| one_of(value, &["cumulative", "delta", "lowmemory"]),
        );
        self.judge("OTEL_RESOURCE_ATTRIBUTES", pairs);
        self.judge("OTEL_TRACES_SAMPLER", |value| one_of(value, &SAMPLERS));
        let sampler = self.standard("OTEL_TRACES_SAMPLER");
        if sampler.is_some_and(|name| name.ends_with("ratio")) {
            self.judge("OTEL_TRACES_SAMPLER_ARG", share);
        }
        Some(settings)
    }

    /// Where a signal is posted to; None if it is not to be sent, or nobody says where to, or that is wrong.
    fn otlp_url(&mut self, signal: &str, path: &str) -> Option<String> {
        let exporter = format!("OTEL_{signal}_EXPORTER");
        match self.standard(&exporter).as_deref() {
            None | Some("otlp") => {}
            Some("none") => return None,
            Some(other) => {
                let problem = format!("{} is no exporter that there is here", quoted(other));
                let remedy = "give otlp or none; /metrics is served in any case";
                self.mistakes.push(Mistake::new(exporter, problem, remedy));
                return None;
            }
        }
        let own = format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT");
        let (name, url) = match (self.standard(&own), self.standard(ENDPOINT)) {
            // Its own is taken as it is, the common one is only the beginning.
            (Some(url), _) => (own, url),
            (None, Some(base)) => {
                let base = base.trim_end_matches('/');
                (ENDPOINT.to_owned(), format!("{base}/{path}"))
            }
            (None, None) => return None,
        };
        match url.parse::<Uri>() {
            Ok(uri)
                if matches!(uri.scheme_str(), Some("http" | "https"))
                    && uri.host().is_some_and(|host| !host.is_empty()) =>
            {
                Some(url)
            }
            // Not quoted: a URL may hold a password.
            _ => {
                let mistake = Mistake::new(
                    name,
                    "is no URL of a collector",
                    "give http://HOST:4318 or https://HOST:4318",
                );
                // Both signals may have it from the same variable.
                if !self.mistakes.contains(&mistake) {
                    self.mistakes.push(mistake);
                }
                None
            }
        }
    }

    /// A variable that has the same name for all programs. Empty is as good as not set.
    fn standard(&self, name: &str) -> Option<String> {
        let value = self.lookup.variable(name)?;
        let value = value.to_string_lossy().trim().to_owned();
        (!value.is_empty()).then_some(value)
    }

    fn judge(&mut self, name: &str, check: impl FnOnce(&str) -> Result<(), Wrong>) {
        if let Some(value) = self.standard(name)
            && let Err(wrong) = check(&value)
        {
            let remedy = format!("{}, {OR_OFF}", wrong.remedy);
            self.mistakes
                .push(Mistake::new(name, wrong.problem, remedy));
        }
    }
}

fn protocol(value: &str) -> Result<(), Wrong> {
    match value {
        "http/protobuf" => Ok(()),
        _ => Err(Wrong::new(
            format!("{} is not spoken here", quoted(value)),
            "give http/protobuf, and the collector's port for that, usually 4318",
        )),
    }
}

fn number(value: &str) -> Result<(), Wrong> {
    match value.parse::<u32>() {
        Ok(1..) => Ok(()),
        _ => Err(Wrong::new(
            format!("{} is no whole number above 0", quoted(value)),
            "give one (times are in milliseconds)",
        )),
    }
}

fn share(value: &str) -> Result<(), Wrong> {
    match value.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(()),
        _ => Err(Wrong::new(
            format!("{} is no share", quoted(value)),
            "give a number from 0 to 1",
        )),
    }
}

fn one_of(value: &str, words: &[&str]) -> Result<(), Wrong> {
    if words.contains(&value.to_ascii_lowercase().as_str()) {
        return Ok(());
    }
    Err(Wrong::new(
        format!("{} is not known here", quoted(value)),
        format!("give one of {}", words.join(", ")),
    ))
}

fn headers(value: &str) -> Result<(), Wrong> {
    let named = |pair: &str| {
        let name = pair.split_once('=')?.0.trim().parse::<http::HeaderName>();
        name.ok()
    };
    if value
        .split(',')
        .all(|pair| pair.trim().is_empty() || named(pair).is_some())
    {
        return Ok(());
    }
    Err(Wrong::new(
        "is no list of headers",
        "give name=value, with commas between several",
    ))
}

fn pairs(value: &str) -> Result<(), Wrong> {
    let is_pair = |pair: &str| {
        pair.split_once('=')
            .is_some_and(|(name, _)| !name.trim().is_empty())
    };
    if value
        .split(',')
        .all(|pair| pair.trim().is_empty() || is_pair(pair))
    {
        return Ok(());
    }
    Err(Wrong::new(
        "is no list of attributes",
        "give name=value, with commas between several",
    ))
}
