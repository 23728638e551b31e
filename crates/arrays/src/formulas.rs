//! Cells that a spreadsheet would run as formulas: written so that it does not, and read back as they were.
//!
//! A cell whose text begins with `=`, `+`, `-`, `@` (or their wide forms), a tab or an end of line is a
//! formula to a spreadsheet, whoever wrote it. An apostrophe before it makes it text, there and here. Numbers
//! stay as they are. So that reading gives back what was written, a cell that begins with apostrophes and
//! then such a character gets one more.

use std::borrow::Cow;

/// What a formula begins with.
const BEGINNINGS: [char; 11] = [
    '=', '+', '-', '@', '\t', '\r', '\n', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}',
];
const GUARD: char = '\'';

/// A cell as it has to be written.
#[must_use]
pub fn guarded(cell: &str) -> Cow<'_, str> {
    if begins_a_formula(cell.trim_start_matches(GUARD)) && !is_number(cell) {
        return Cow::Owned(format!("{GUARD}{cell}"));
    }
    Cow::Borrowed(cell)
}

/// The original cell, from what was written.
#[must_use]
pub(crate) fn unguarded(cell: Cow<'_, str>) -> Cow<'_, str> {
    let is_guarded = cell.starts_with(GUARD) && begins_a_formula(cell.trim_start_matches(GUARD));
    if !is_guarded {
        return cell;
    }
    match cell {
        Cow::Borrowed(text) => Cow::Borrowed(text.get(1..).unwrap_or_default()),
        Cow::Owned(text) => Cow::Owned(text.get(1..).unwrap_or_default().to_owned()),
    }
}

fn begins_a_formula(text: &str) -> bool {
    text.starts_with(BEGINNINGS)
}

fn is_number(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E');
    text.chars().all(plain) && text.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula_and_each_is_read_as_it_was() {
        for (meant, written) in [
            ("mug", "mug"),
            ("", ""),
            ("-0.25", "-0.25"),
            ("+1e-7", "+1e-7"),
            ("it's", "it's"),
            ("'quoted'", "'quoted'"),
            ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
            ("+1+1", "'+1+1"),
            ("-inf", "'-inf"),
            ("@SUM(1)", "'@SUM(1)"),
            ("\tx", "'\tx"),
            ("\r=1", "'\r=1"),
            ("\u{ff1d}1", "'\u{ff1d}1"),
            ("'=1", "''=1"),
            ("''=1", "'''=1"),
        ] {
            assert_eq!(guarded(meant), written);
            assert_eq!(unguarded(Cow::Borrowed(written)), meant);
        }
    }
}
