//! Parses the text of a filter.

use std::mem;
use std::str::CharIndices;

use super::{
    FILTER_DEPTH_MAX, FILTER_TERMS_MAX, FieldCondition, FilterError, FilterField, Joint, Node, Test,
};

/// The condition that a text states, in canonical form.
pub(super) fn parse(text: &str) -> Result<Node, FilterError> {
    let mut parser = Parser {
        text,
        start: 0,
        end: 0,
        token: Token::End,
        terms: 0,
        depth: 0,
    };
    parser.advance()?;
    let root = parser.expression()?;
    if parser.token != Token::End {
        return Err(parser.unexpected(AFTER_COMPARISON, "label = \"a b\" AND id != c"));
    }
    Ok(root)
}

/// Whether a text can be written as a value or key without quotes.
pub(super) fn is_bare(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_word) && Token::keyword(text).is_none()
}

/// A token of the language. Spaces between tokens are dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    /// The content of double quotes, with escapes resolved.
    Quoted(String),
    And,
    Or,
    Not,
    In,
    Open,
    Close,
    Comma,
    Equal,
    NotEqual,
    Colon,
    Star,
    /// A character that the language does not use.
    Other(char),
    End,
}

/// Whether a character may occur in an unquoted word.
fn is_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | '.' | '-')
}

impl Token<'_> {
    fn keyword(word: &str) -> Option<Self> {
        match word {
            "AND" => Some(Self::And),
            "OR" => Some(Self::Or),
            "NOT" => Some(Self::Not),
            "IN" => Some(Self::In),
            _ => None,
        }
    }

    fn describe(&self) -> String {
        let cut = |text: &str| -> String {
            let rest = if text.chars().nth(32).is_some() {
                "..."
            } else {
                ""
            };
            let start: String = text.chars().take(32).collect();
            format!("{start}{rest}")
        };
        match self {
            Self::Word(word) => format!("`{}`", cut(word)),
            Self::Quoted(text) => format!("the string {:?}", cut(text)),
            Self::And => "AND".to_owned(),
            Self::Or => "OR".to_owned(),
            Self::Not => "NOT".to_owned(),
            Self::In => "IN".to_owned(),
            Self::Open => "`(`".to_owned(),
            Self::Close => "`)`".to_owned(),
            Self::Comma => "`,`".to_owned(),
            Self::Equal => "`=`".to_owned(),
            Self::NotEqual => "`!=`".to_owned(),
            Self::Colon => "`:`".to_owned(),
            Self::Star => "`*`".to_owned(),
            Self::Other(character) => format!("the character {character:?}"),
            Self::End => "the end".to_owned(),
        }
    }
}

const AFTER_COMPARISON: &str = "AND, OR (in capitals) or the end; text with other characters than \
                                letters, digits, `_`, `.` and `-` goes in double quotes";
const VALUE: &str = "a value (a word of letters, digits, `_`, `.` and `-` that is no keyword, or \
                     text in double quotes)";
const ESCAPE: &str = "an escape: `\\\"`, `\\\\`, `\\n`, `\\r`, `\\t` or `\\u{HEX}`";

/// Reads a filter by recursive descent, at most [`FILTER_DEPTH_MAX`] deep.
struct Parser<'a> {
    text: &'a str,
    /// The position of the token's first byte.
    start: usize,
    /// The position after its last byte.
    end: usize,
    token: Token<'a>,
    /// Number of comparisons so far.
    terms: usize,
    /// Number of open parentheses.
    depth: usize,
}

impl Parser<'_> {
    fn expression(&mut self) -> Result<Node, FilterError> {
        let first = self.factor()?;
        let Some(joint) = self.joint() else {
            return Ok(first);
        };
        let mut parts = vec![first];
        while let Some(found) = self.joint() {
            if found != joint {
                return Err(FilterError::Mixed {
                    column: self.start + 1,
                });
            }
            self.advance()?;
            parts.push(self.factor()?);
        }
        Ok(Node::join(joint, parts))
    }

    fn joint(&self) -> Option<Joint> {
        if self.token == Token::And {
            Some(Joint::And)
        } else if self.token == Token::Or {
            Some(Joint::Or)
        } else {
            None
        }
    }

    fn factor(&mut self) -> Result<Node, FilterError> {
        let mut negated = false;
        while self.take(&Token::Not)? {
            negated = !negated;
        }
        let node = if self.token == Token::Open {
            self.group()?
        } else {
            self.comparison()?
        };
        Ok(if negated { node.negate() } else { node })
    }

    fn group(&mut self) -> Result<Node, FilterError> {
        if self.depth == FILTER_DEPTH_MAX {
            return Err(FilterError::TooDeep {
                column: self.start + 1,
                max: FILTER_DEPTH_MAX,
            });
        }
        self.depth += 1;
        self.advance()?;
        let node = self.expression()?;
        if !self.take(&Token::Close)? {
            return Err(self.unexpected("AND, OR or `)`", "(label = a OR label = b)"));
        }
        self.depth -= 1;
        Ok(node)
    }

    fn comparison(&mut self) -> Result<Node, FilterError> {
        if self.terms == FILTER_TERMS_MAX {
            return Err(FilterError::TooManyTerms {
                column: self.start + 1,
                max: FILTER_TERMS_MAX,
            });
        }
        self.terms += 1;
        let field = self.field()?;
        let in_metadata = matches!(field, FilterField::Metadata(_));
        let (negated, wanted) = if self.take(&Token::Equal)? {
            (false, FieldCondition::AnyOf(vec![self.value()?]))
        } else if self.take(&Token::NotEqual)? {
            (true, FieldCondition::AnyOf(vec![self.value()?]))
        } else if self.take(&Token::In)? {
            (false, FieldCondition::AnyOf(self.list()?))
        } else if in_metadata && self.take(&Token::Colon)? {
            if !self.take(&Token::Star)? {
                return Err(self.unexpected("`*`", "metadata.camera:*"));
            }
            (false, FieldCondition::Present)
        } else if in_metadata {
            return Err(self.unexpected("`=`, `!=`, IN or `:*`", "metadata.camera = front"));
        } else {
            return Err(self.unexpected("`=`, `!=` or IN", "label = \"x\""));
        };
        Ok(Node::Test(Test {
            field,
            negated,
            wanted,
        }))
    }

    fn field(&mut self) -> Result<FilterField, FilterError> {
        let field = if let Token::Word(word) = self.token {
            match word {
                "id" => Some(FilterField::Id),
                "label" => Some(FilterField::Label),
                "metadata." => return self.quoted_key(),
                other => other
                    .strip_prefix("metadata.")
                    .map(|key| FilterField::Metadata(key.to_owned())),
            }
        } else {
            None
        };
        let Some(field) = field else {
            let expected = "`id`, `label`, `metadata.KEY`, NOT or `(`";
            return Err(self.unexpected(expected, "label = \"x\" AND metadata.camera != front"));
        };
        self.advance()?;
        Ok(field)
    }

    /// The key after `metadata.`, which ends where a quoted string starts.
    fn quoted_key(&mut self) -> Result<FilterField, FilterError> {
        let after = self.end;
        self.advance()?;
        if self.start == after
            && let Token::Quoted(key) = &mut self.token
            && !key.is_empty()
        {
            let key = mem::take(key);
            self.advance()?;
            return Ok(FilterField::Metadata(key));
        }
        let expected = "a key right after `metadata.`";
        Err(self.unexpected(expected, "metadata.\"my key\" = x"))
    }

    fn value(&mut self) -> Result<String, FilterError> {
        let value = if let Token::Word(word) = self.token {
            word.to_owned()
        } else if let Token::Quoted(text) = &mut self.token {
            mem::take(text)
        } else {
            return Err(self.unexpected(VALUE, "label = \"a b\""));
        };
        self.advance()?;
        Ok(value)
    }

    /// The values after IN, sorted.
    fn list(&mut self) -> Result<Vec<String>, FilterError> {
        if !self.take(&Token::Open)? {
            return Err(self.unexpected("`(`", "label IN (\"a\", \"b\")"));
        }
        let mut values = vec![self.value()?];
        while self.take(&Token::Comma)? {
            values.push(self.value()?);
        }
        if !self.take(&Token::Close)? {
            return Err(self.unexpected("`,` or `)`", "label IN (\"a\", \"b\")"));
        }
        values.sort_unstable();
        values.dedup();
        Ok(values)
    }

    /// Skips the token if it is this one.
    fn take(&mut self, token: &Token<'_>) -> Result<bool, FilterError> {
        let found = self.token == *token;
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    /// Reads the next token.
    fn advance(&mut self) -> Result<(), FilterError> {
        let rest = self.text.get(self.end..).unwrap_or_default();
        let rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        self.start = self.text.len() - rest.len();
        let Some(first) = rest.chars().next() else {
            self.end = self.start;
            self.token = Token::End;
            return Ok(());
        };
        let (token, len) = match first {
            '"' => self.quoted(rest)?,
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            ',' => (Token::Comma, 1),
            '=' => (Token::Equal, 1),
            ':' => (Token::Colon, 1),
            '*' => (Token::Star, 1),
            '!' if rest.starts_with("!=") => (Token::NotEqual, 2),
            other if is_word(other) => {
                let len = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                let word = rest.get(..len).unwrap_or_default();
                (Token::keyword(word).unwrap_or(Token::Word(word)), len)
            }
            other => (Token::Other(other), other.len_utf8()),
        };
        self.end = self.start + len;
        self.token = token;
        Ok(())
    }

    /// The quoted string at the start of `rest`, and its length there in bytes.
    fn quoted(&self, rest: &str) -> Result<(Token<'static>, usize), FilterError> {
        let mut text = String::new();
        let mut characters = rest.char_indices();
        characters.next();
        while let Some((place, character)) = characters.next() {
            match character {
                '"' => return Ok((Token::Quoted(text), place + 1)),
                '\\' => match escaped(&mut characters) {
                    Some(character) => text.push(character),
                    None => {
                        let found = "`\\` before something else".to_owned();
                        return Err(syntax(self.start + place, found, ESCAPE, "id = \"a\\\"b\""));
                    }
                },
                // A control character has to be escaped, because it would be invisible in messages and logs.
                control if control.is_control() => {
                    let found = Token::Other(control).describe();
                    return Err(syntax(self.start + place, found, ESCAPE, "id = \"a\\tb\""));
                }
                other => text.push(other),
            }
        }
        let found = "a string without an end".to_owned();
        let expected = "a closing double quote";
        Err(syntax(self.start, found, expected, "label = \"a b\""))
    }

    fn unexpected(&self, expected: &'static str, example: &'static str) -> FilterError {
        syntax(self.start, self.token.describe(), expected, example)
    }
}

/// The character of an escape sequence; starts after the backslash.
fn escaped(characters: &mut CharIndices<'_>) -> Option<char> {
    match characters.next()?.1 {
        same @ ('"' | '\\') => Some(same),
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        'u' => {
            let (digits, _) = characters.as_str().strip_prefix('{')?.split_once('}')?;
            // `from_str_radix` alone would accept a sign.
            if !matches!(digits.len(), 1..=6) || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
                return None;
            }
            characters.nth(digits.len() + 1)?;
            char::from_u32(u32::from_str_radix(digits, 16).ok()?)
        }
        _ => None,
    }
}

fn syntax(
    place: usize,
    found: String,
    expected: &'static str,
    example: &'static str,
) -> FilterError {
    FilterError::Syntax {
        column: place + 1,
        found,
        expected,
        example,
    }
}
