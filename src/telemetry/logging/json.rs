//! The JSON form of an event: one flat object.
//!
//! Owns the order of the members (`timestamp`, `level`, `target`, `message`, then the event's fields, then those
//! of its spans, innermost first) and what happens when two have one name: the earlier one counts. Never writes
//! anywhere itself.

use std::{error::Error, fmt};

use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormattedFields,
        format::{FormatEvent, FormatFields, Writer},
        time::{FormatTime as _, SystemTime},
    },
    registry::LookupSpan,
};

/// Formats events; needs `JsonFields` as the formatter of span fields.
pub(super) struct FlatJson;

impl<S, N> FormatEvent<S, N> for FlatJson
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let mut members = Members::default();
        members.add("timestamp", timestamp.into());
        members.add("level", event.metadata().level().as_str().into());
        members.add("target", event.metadata().target().into());
        let mut fields = Members::default();
        event.record(&mut fields);
        // The message goes before the fields, wherever the macro has put it.
        fields.0.sort_by_key(|(name, _)| name != "message");
        for (name, value) in fields.0 {
            members.add(&name, value);
        }
        let mut span = ctx.lookup_current();
        while let Some(here) = span {
            let extensions = here.extensions();
            if let Some(fields) = extensions.get::<FormattedFields<N>>() {
                // A span without fields has an empty text there.
                let fields: Map<String, Value> =
                    serde_json::from_str(fields.as_str()).unwrap_or_default();
                for (name, value) in fields {
                    members.add(&name, value);
                }
            }
            drop(extensions);
            span = here.parent();
        }
        members.write(&mut writer)
    }
}

/// The members of the object in their order.
#[derive(Default)]
struct Members(Vec<(String, Value)>);

impl Members {
    fn add(&mut self, name: &str, value: Value) {
        if !self.0.iter().any(|(known, _)| known == name) {
            self.0.push((name.to_owned(), value));
        }
    }

    fn write(&self, writer: &mut Writer<'_>) -> fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            // `Value` displays as JSON, quotes and escapes included.
            write!(writer, "{before}{}:{value}", Value::from(name.as_str()))?;
        }
        writeln!(writer, "}}")
    }
}

impl Visit for Members {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.add(field.name(), value.to_string().into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field.name(), format!("{value:?}").into());
    }
}
