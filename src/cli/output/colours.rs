//! Colours of the deciding words at the beginning of a line.

use std::borrow::Cow;

use anstyle::{AnsiColor, Style};

/// Words and their styles. Untrusted text never begins a line with such an indent.
const WORDS: &[(&str, Style)] = &[
    ("  ACCEPT ", GOOD),
    ("  REJECT ", BAD),
    ("  REJECT,", BAD),
    ("  UNDECIDED ", DOUBTFUL),
    ("  FAR KEPT ", GOOD),
    ("  FRR KEPT ", GOOD),
    ("  FAR BROKEN ", BAD),
    ("  FRR BROKEN ", BAD),
    ("  BROKEN ", BAD),
    ("  WARNING ", DOUBTFUL),
    ("warning: ", DOUBTFUL),
    ("failed: ", BAD),
    ("refused: ", BAD),
    ("error: ", BAD),
];

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const DOUBTFUL: Style = AnsiColor::Yellow.on_default().bold();

/// Text for a terminal; untrusted control characters have already been escaped.
pub(crate) fn coloured(text: &str) -> String {
    text.split_inclusive('\n').map(line).collect()
}

fn line(line: &str) -> Cow<'_, str> {
    let found = WORDS
        .iter()
        .find_map(|(word, style)| Some((*word, *style, line.strip_prefix(word)?)));
    let Some((word, style, rest)) = found else {
        return Cow::Borrowed(line);
    };
    let shown = word.trim();
    let (before, after) = word.split_once(shown).unwrap_or((word, ""));
    Cow::Owned(format!("{before}{style}{shown}{style:#}{after}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_decides_is_coloured_and_nothing_else_of_its_line() {
        let text = "a.jpg\n  ACCEPT  best score\n    0.9  ACCEPT \nwarning: few\n";
        let shown = coloured(text);
        assert!(
            shown.contains("  \u{1b}[1m\u{1b}[32mACCEPT\u{1b}[0m  best score\n"),
            "{shown:?}"
        );
        assert!(shown.contains("    0.9  ACCEPT \n"), "{shown:?}");
        assert_eq!(shown.matches("\u{1b}[0m").count(), 2, "{shown:?}");
        let plain = anstream::adapter::strip_str(&shown).to_string();
        assert_eq!(plain, text);
    }
}
