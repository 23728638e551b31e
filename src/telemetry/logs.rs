//! The set-up of logs.

use std::io::{IsTerminal, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::debug_fn;

use super::{TelemetryError, escaped, escaped_json};

/// The target of log lines about who changed what.
pub const CHANGES: &str = "matchpoint::changes";

/// Sends logs to standard error, as text or as one JSON object a line.
///
/// # Errors
/// A filter that cannot be parsed.
pub fn install_logs(filter: &str, json: bool) -> Result<(), TelemetryError> {
    let wrong = |cause: &dyn std::fmt::Display| TelemetryError::Filter {
        filter: filter.to_owned(),
        cause: cause.to_string(),
    };
    let parsed = EnvFilter::try_new(filter).map_err(|cause| wrong(&cause))?;
    // Who changed what is in every log, whatever the filter.
    let changes = format!("{CHANGES}=info").parse();
    let parsed = parsed.add_directive(changes.map_err(|cause| wrong(&cause))?);
    let logs = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let installed = if json {
        logs.json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_writer(|| EscapedJson(std::io::stderr()))
            .try_init()
    } else {
        logs.with_target(false).fmt_fields(text_fields()).try_init()
    };
    // If logs are already installed, in a process that serves twice, they stay.
    drop(installed);
    Ok(())
}

/// Writes lines of JSON so that a terminal shows them as they are: JSON itself permits marks that change
/// the direction of text. It is given whole lines.
struct EscapedJson<W>(W);

impl<W: Write> Write for EscapedJson<W> {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        self.0.write_all(escaped_json(&text).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// Fields of a log as text: what clients send must not control a terminal, nor look like a line of its own.
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

    impl Write for KeptLog {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_as_json_shows_as_it_is_and_reads_back_as_it_was() {
        let kept = KeptLog::default();
        let writer = kept.clone();
        let logs = tracing_subscriber::fmt()
            .json()
            .with_writer(move || EscapedJson(writer.clone()));
        let sent = "a\x1b[31m\n2026 \u{202e}b\u{9b}";
        tracing::subscriber::with_default(logs.finish(), || tracing::warn!(label = %sent, "x"));
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.contains(['\x1b', '\u{202e}', '\u{9b}']), "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["fields"]["label"], sent);
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
