//! The set-up of logs.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::debug_fn;

use super::{TelemetryError, escaped};

/// Sends logs to standard error, as text or as one JSON object a line.
///
/// # Errors
/// A filter that cannot be parsed.
pub fn install_logs(filter: &str, json: bool) -> Result<(), TelemetryError> {
    let parsed = EnvFilter::try_new(filter).map_err(|cause| TelemetryError::Filter {
        filter: filter.to_owned(),
        cause: cause.to_string(),
    })?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let installed = if json {
        logs.json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init()
    } else {
        logs.with_target(false).fmt_fields(text_fields()).try_init()
    };
    // A second installation, in a process that serves twice, keeps the first.
    drop(installed);
    Ok(())
}

/// Fields of a log as text: what clients send must not command a terminal, nor pass for a line of its
/// own.
fn text_fields() -> impl for<'a> FormatFields<'a> + 'static {
    let field = debug_fn(|writer, field, value| {
        let text = format!("{value:?}");
        let shown = escaped(&text);
        match field.name() {
            "message" => write!(writer, "{shown}"),
            name => write!(writer, "{name}={shown}"),
        }
    });
    field.delimited(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log that is kept.
    #[derive(Clone, Default)]
    struct KeptLog(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for KeptLog {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_as_text_is_one_line_whatever_a_client_sends() {
        let kept = KeptLog::default();
        let writer = kept.clone();
        let logs = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .fmt_fields(text_fields());
        let sent = "a\x1b[31m\n2026-01-01 ERROR \u{202e}b";
        tracing::subscriber::with_default(logs.finish(), || {
            let span = tracing::info_span!("request", id = %sent);
            let _entered = span.enter();
            tracing::warn!(label = %sent, count = 3, "the label {sent} is not known");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.contains(['\x1b', '\u{202e}']), "{text}");
        assert!(text.contains("label=a\\u{1b}[31m\\n2026"), "{text}");
        assert!(text.contains(" count=3"), "{text}");
        assert!(text.contains("the label a\\u{1b}"), "{text}");
    }
}
