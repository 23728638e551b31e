//! The text of the exporter as `OpenMetrics` 1.0, which Prometheus asks for first.

use std::fmt::Write;

use hyper::HeaderMap;
use hyper::header::ACCEPT;

/// The content type.
pub(super) const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Units that the names of our metrics end with.
const UNITS: [&str; 3] = ["seconds", "bytes", "ratio"];

/// Whether the client prefers it to plain text, or likes both the same.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    let (mut open, mut plain) = (0.0_f64, 0.0_f64);
    let values = headers.get_all(ACCEPT).iter();
    for range in values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
    {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
        let (mut quality, mut version) = (1.0, "1.0.0");
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name.trim() {
                "q" => quality = value.trim().parse().unwrap_or(0.0),
                "version" => version = value.trim().trim_matches('"'),
                _ => {}
            }
        }
        match media_type.as_str() {
            "application/openmetrics-text" if version == "1.0.0" => open = open.max(quality),
            "text/plain" | "text/*" | "*/*" => plain = plain.max(quality),
            _ => {}
        }
    }
    0.0 < open && plain <= open
}

/// The same samples in the other format. Sums and counts of a histogram with bounds below zero are left
/// out, since such a sum may fall.
pub(super) fn of_text(text: &str) -> String {
    let mut into = String::with_capacity(text.len() + 4096);
    let mut help = None;
    let (mut is_histogram, mut goes_below_zero) = (false, false);
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map(|(_, help)| help);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "unknown"));
            (is_histogram, goes_below_zero) = (kind == "histogram", false);
            begin_family(&mut into, name, kind, help.take());
        } else if is_histogram {
            let sample = line.split(['{', ' ']).next().unwrap_or_default();
            let bound = bound_of(line);
            goes_below_zero |= bound.is_some_and(|bound| bound.starts_with('-'));
            match bound {
                Some(bound)
                    if bound
                        .bytes()
                        .all(|byte| byte.is_ascii_digit() || byte == b'-') =>
                {
                    let (from, to) = (format!("le=\"{bound}\""), format!("le=\"{bound}.0\""));
                    push_line(&mut into, &line.replace(&from, &to));
                }
                None if goes_below_zero
                    && (sample.ends_with("_sum") || sample.ends_with("_count")) => {}
                Some(_) | None => push_line(&mut into, line),
            }
        } else {
            push_line(&mut into, line);
        }
    }
    push_line(&mut into, "# EOF");
    into
}

/// The lines about a metric before its samples. A counter is named without the suffix of its samples.
fn begin_family(into: &mut String, name: &str, kind: &str, help: Option<&str>) {
    let (name, kind) = match (kind, name.strip_suffix("_total")) {
        ("counter", Some(name)) => (name, kind),
        ("counter", None) => (name, "unknown"),
        _ => (name, kind),
    };
    // A string takes everything.
    writeln!(into, "# TYPE {name} {kind}").unwrap_or_default();
    let is_of = |unit: &&&str| {
        name.strip_suffix(**unit)
            .is_some_and(|rest| rest.ends_with('_'))
    };
    if let Some(unit) = UNITS.iter().find(is_of) {
        writeln!(into, "# UNIT {name} {unit}").unwrap_or_default();
    }
    if let Some(help) = help {
        let help = help.replace('"', "\\\"");
        writeln!(into, "# HELP {name} {help}").unwrap_or_default();
    }
}

/// The bound of a bucket's sample: the last of its labels.
fn bound_of(line: &str) -> Option<&str> {
    let (labels, _) = line.rsplit_once("\"} ")?;
    let (before, bound) = labels.rsplit_once("le=\"")?;
    before.ends_with(['{', ',']).then_some(bound)
}

fn push_line(into: &mut String, line: &str) {
    into.push_str(line);
    into.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_where_it_is_liked_at_least_as_much_as_text() {
        let asks = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            is_asked_for(&headers)
        };
        assert!(asks("application/openmetrics-text"));
        assert!(asks(
            "text/plain;q=0.5, Application/OpenMetrics-Text; version=\"1.0.0\"; q=0.5"
        ));
        // As Prometheus 3 asks.
        assert!(asks(
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
        ));
        for other in [
            "",
            "*/*",
            "text/plain",
            "application/json",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;version=2.0.0",
            "application/openmetrics-text;q=0.4, text/plain",
        ] {
            assert!(!asks(other), "{other}");
        }
        assert!(!is_asked_for(&HeaderMap::new()));
    }

    #[test]
    fn what_the_text_says_is_said_by_the_rules_of_the_other_format() {
        let text = "\
# HELP sent_bytes_total What \"was\" sent.
# TYPE sent_bytes_total counter
sent_bytes_total{to=\"a le=\\\"1\\\"} b\"} 3

# TYPE taken_seconds histogram
taken_seconds_bucket{to=\"a\",le=\"0.5\"} 1
taken_seconds_bucket{to=\"a\",le=\"1\"} 2
taken_seconds_bucket{to=\"a\",le=\"+Inf\"} 2
taken_seconds_sum{to=\"a\"} 0.75
taken_seconds_count{to=\"a\"} 2

# TYPE score histogram
score_bucket{le=\"-1\"} 0
score_bucket{le=\"+Inf\"} 1
score_sum -0.25
score_count 1

# TYPE open gauge
open NaN
";
        let expected = "\
# TYPE sent_bytes counter
# UNIT sent_bytes bytes
# HELP sent_bytes What \\\"was\\\" sent.
sent_bytes_total{to=\"a le=\\\"1\\\"} b\"} 3
# TYPE taken_seconds histogram
# UNIT taken_seconds seconds
taken_seconds_bucket{to=\"a\",le=\"0.5\"} 1
taken_seconds_bucket{to=\"a\",le=\"1.0\"} 2
taken_seconds_bucket{to=\"a\",le=\"+Inf\"} 2
taken_seconds_sum{to=\"a\"} 0.75
taken_seconds_count{to=\"a\"} 2
# TYPE score histogram
score_bucket{le=\"-1.0\"} 0
score_bucket{le=\"+Inf\"} 1
# TYPE open gauge
open NaN
# EOF
";
        assert_eq!(of_text(text), expected);
    }
}
