//! Untrusted text on a terminal or in a log: characters that would control the terminal, or disguise the
//! text, are escaped.

use std::borrow::Cow;

/// Whether a character would not show as itself: controls (escape sequences begin with one), marks that
/// change the direction of text, and line ends that a terminal does not show as such.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        )
}

/// A name, label, path or value as text of one line: `\n`, `\u{1b}`, `\u{202e}`.
#[must_use]
pub fn escaped(text: &str) -> Cow<'_, str> {
    without(text, is_hidden)
}

/// The same for text of several lines: their ends stay.
#[must_use]
pub fn escaped_lines(text: &str) -> Cow<'_, str> {
    without(text, |character| character != '\n' && is_hidden(character))
}

/// JSON with such characters escaped; it parses to the same value.
#[must_use]
pub fn escaped_json(json: &str) -> Cow<'_, str> {
    let hidden = |character: char| character != '\n' && is_hidden(character);
    if !json.contains(hidden) {
        return Cow::Borrowed(json);
    }
    let mut shown = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if hidden(character) {
            // None is above U+FFFF, and none is outside a string.
            shown.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

fn without(text: &str, hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if hidden(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_commands_a_terminal_is_written_out_and_all_else_stays() {
        let plain = "café 日本 👩\u{200d}🚀 a\\b `\"'";
        assert!(matches!(escaped(plain), Cow::Borrowed(text) if text == plain));
        let hostile = "a\x1b[31m\nb\r\u{9b}\u{202e}\u{2066}\u{7f}";
        let want = "a\\u{1b}[31m\\nb\\r\\u{9b}\\u{202e}\\u{2066}\\u{7f}";
        assert_eq!(escaped(hostile), want);
        let json = serde_json::to_string_pretty(&[hostile]).unwrap();
        let shown = escaped_json(&json);
        assert!(!shown.contains(['\u{9b}', '\u{202e}', '\u{7f}']), "{shown}");
        assert_eq!(
            serde_json::from_str::<[String; 1]>(&shown).unwrap(),
            [hostile]
        );
        assert_eq!(escaped_lines("a\nb\x1b\n"), "a\nb\\u{1b}\n");
    }
}
