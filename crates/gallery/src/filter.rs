//! Which items a search may find: a small language over id, label and metadata.
//!
//! `docs/filters.md` describes it for callers. A filter is kept in one canonical form: NOT only at single
//! comparisons, values of one field joined in one set, everything sorted. So filters that differ only in
//! their form are equal, and cheap tests come first.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::mem;
use std::str::CharIndices;

/// Longest filter, in bytes, as written and in its canonical form: some hundred short values.
pub const FILTER_BYTES_MAX: usize = 4096;
/// Most comparisons in a filter, since each may be made with every item of a gallery. A list of
/// values after IN is one comparison.
pub const FILTER_TERMS_MAX: usize = 256;
/// Most parentheses open at once; it bounds the stack that reading and matching need.
pub const FILTER_DEPTH_MAX: usize = 16;

/// A condition on id, label and metadata. Its `Display` is its canonical form, which reads back as
/// an equal filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ItemFilter {
    root: Node,
}

/// Why a text is not a filter. Columns count bytes, from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// The text differs from what the grammar expects.
    #[error(
        "the filter cannot be read at column {column}: found {found}, expected {expected}, as in \
         `{example}`"
    )]
    Syntax {
        /// Where it begins.
        column: usize,
        /// What was found there, cut to 32 characters.
        found: String,
        /// What is expected there.
        expected: &'static str,
        /// A filter, or a part of one, that is right.
        example: &'static str,
    },
    /// AND and OR side by side; languages differ in which of them binds more tightly.
    #[error(
        "the filter mixes AND and OR at column {column}; say with parentheses which belongs \
         together, as in `label = a AND (id = b OR id = c)`"
    )]
    Mixed {
        /// Where the second kind stands.
        column: usize,
    },
    /// Too many parentheses open at once.
    #[error(
        "the filter opens more than {max} parentheses inside each other at column {column}; write \
         many values of one field as a list, as in `label IN (a, b, c)`"
    )]
    TooDeep {
        /// Where the first one too many stands.
        column: usize,
        /// Most that may be open.
        max: usize,
    },
    /// Too many comparisons.
    #[error(
        "the filter has more than {max} comparisons, the next at column {column}; write many \
         values of one field as a list, as in `label IN (a, b, c)`"
    )]
    TooManyTerms {
        /// Where the first one too many stands.
        column: usize,
        /// Most that are taken.
        max: usize,
    },
    /// Too long as it was written.
    #[error("the filter has {found} bytes; at most {max} are taken")]
    TooLong {
        /// Its length in bytes.
        found: usize,
        /// Most that are taken.
        max: usize,
    },
    /// Short enough as it was written, but not in its canonical form.
    #[error(
        "the filter has {found} bytes in its canonical form, with NOT at each comparison and \
         spaces around `=`; at most {max} are taken"
    )]
    CanonicalTooLong {
        /// The length of the canonical form in bytes.
        found: usize,
        /// Most that are taken.
        max: usize,
    },
}

impl FilterError {
    /// Where the mistake is, in bytes from 1; `None` if the whole is too long.
    #[must_use]
    pub fn column(&self) -> Option<usize> {
        match self {
            Self::Syntax { column, .. }
            | Self::Mixed { column }
            | Self::TooDeep { column, .. }
            | Self::TooManyTerms { column, .. } => Some(*column),
            Self::TooLong { .. } | Self::CanonicalTooLong { .. } => None,
        }
    }
}

impl ItemFilter {
    /// Reads a filter. There is no empty filter: leave it out if every item may be found.
    ///
    /// # Errors
    ///
    /// The first mistake and its place, or the limit that is exceeded.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if FILTER_BYTES_MAX < text.len() {
            return Err(FilterError::TooLong {
                found: text.len(),
                max: FILTER_BYTES_MAX,
            });
        }
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
        let filter = Self { root };
        let found = filter.to_string().len();
        if FILTER_BYTES_MAX < found {
            return Err(FilterError::CanonicalTooLong {
                found,
                max: FILTER_BYTES_MAX,
            });
        }
        Ok(filter)
    }

    /// Whether the item of this id, label and metadata may be found. Allocates nothing.
    ///
    /// A metadata key that the item lacks equals no value: `=`, IN and `:*` are false, `!=` is
    /// true.
    #[must_use]
    pub fn matches(&self, id: &str, label: &str, metadata: &BTreeMap<String, String>) -> bool {
        self.root.matches(id, label, metadata)
    }

    /// The labels that a matching item can have, if the filter says so by `=` or IN; `None`
    /// if it may have others too. An empty set: no item matches.
    ///
    /// An item of such a label need not match: the rest of the filter must be asked as well.
    #[must_use]
    pub fn labels(&self) -> Option<BTreeSet<&str>> {
        self.root.labels()
    }
}

impl fmt::Display for ItemFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.fmt(f)
    }
}

/// A part of a filter. The order of the variants is the order of matching: cheap ones first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Node {
    Test(Test),
    /// At least two parts, none of them a group of the same kind.
    Group(Joint, Vec<Node>),
}

/// How the parts of a group are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Joint {
    And,
    Or,
}

/// One comparison. Sorted by field and sign first, so that what can be joined is side by side.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Test {
    field: FilterField,
    negated: bool,
    wanted: FieldCondition,
}

/// What is compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum FilterField {
    Id,
    Label,
    Metadata(String),
}

/// What it is compared with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum FieldCondition {
    /// One of these values: at least one, sorted, each once.
    AnyOf(Vec<String>),
    /// Any value at all.
    Present,
}

impl Node {
    /// Joins parts in canonical form to a whole in canonical form.
    fn join(joint: Joint, parts: Vec<Self>) -> Self {
        let mut flat = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Self::Group(inner, inside) if inner == joint => flat.extend(inside),
                other @ (Self::Test(_) | Self::Group(..)) => flat.push(other),
            }
        }
        flat.sort_unstable();
        flat.dedup();
        let mut joined: Vec<Self> = Vec::with_capacity(flat.len());
        for mut part in flat {
            if !joined
                .last_mut()
                .is_some_and(|last| last.absorb(joint, &mut part))
            {
                joined.push(part);
            }
        }
        for part in &mut joined {
            if let Self::Test(test) = part
                && let FieldCondition::AnyOf(values) = &mut test.wanted
            {
                values.sort_unstable();
                values.dedup();
            }
        }
        if joined.len() == 1 {
            joined.swap_remove(0)
        } else {
            Self::Group(joint, joined)
        }
    }

    /// Takes over the values of `next` if one set of values is equivalent to both: `x = a OR x = b`, or `x
    /// != a AND x != b`. Leaves the values to be sorted.
    fn absorb(&mut self, joint: Joint, next: &mut Self) -> bool {
        let (Self::Test(this), Self::Test(next)) = (self, next) else {
            return false;
        };
        if this.field != next.field
            || this.negated != next.negated
            || this.negated != (joint == Joint::And)
        {
            return false;
        }
        let (FieldCondition::AnyOf(values), FieldCondition::AnyOf(more)) =
            (&mut this.wanted, &mut next.wanted)
        else {
            return false;
        };
        values.append(more);
        true
    }

    /// The opposite, by De Morgan's laws.
    fn negate(self) -> Self {
        match self {
            Self::Test(test) => Self::Test(Test {
                negated: !test.negated,
                ..test
            }),
            Self::Group(joint, parts) => {
                let opposite = match joint {
                    Joint::And => Joint::Or,
                    Joint::Or => Joint::And,
                };
                Self::join(opposite, parts.into_iter().map(Self::negate).collect())
            }
        }
    }

    fn matches(&self, id: &str, label: &str, metadata: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Test(test) => test.matches(id, label, metadata),
            Self::Group(Joint::And, parts) => {
                parts.iter().all(|part| part.matches(id, label, metadata))
            }
            Self::Group(Joint::Or, parts) => {
                parts.iter().any(|part| part.matches(id, label, metadata))
            }
        }
    }

    fn labels(&self) -> Option<BTreeSet<&str>> {
        match self {
            Self::Test(test) => match (&test.field, test.negated, &test.wanted) {
                (FilterField::Label, false, FieldCondition::AnyOf(values)) => {
                    Some(values.iter().map(String::as_str).collect())
                }
                _ => None,
            },
            Self::Group(Joint::And, parts) => parts
                .iter()
                .filter_map(Self::labels)
                .reduce(|left, right| &left & &right),
            Self::Group(Joint::Or, parts) => {
                let each: Option<Vec<_>> = parts.iter().map(Self::labels).collect();
                Some(each?.into_iter().flatten().collect())
            }
        }
    }
}

impl Test {
    fn matches(&self, id: &str, label: &str, metadata: &BTreeMap<String, String>) -> bool {
        let value = match &self.field {
            FilterField::Id => Some(id),
            FilterField::Label => Some(label),
            FilterField::Metadata(key) => metadata.get(key).map(String::as_str),
        };
        let found = match &self.wanted {
            FieldCondition::AnyOf(values) => value.is_some_and(|value| {
                values
                    .binary_search_by(|wanted| wanted.as_str().cmp(value))
                    .is_ok()
            }),
            FieldCondition::Present => value.is_some(),
        };
        found != self.negated
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (joint, parts) = match self {
            Self::Test(test) => return test.fmt(f),
            Self::Group(Joint::And, parts) => (" AND ", parts),
            Self::Group(Joint::Or, parts) => (" OR ", parts),
        };
        for (number, part) in parts.iter().enumerate() {
            if 0 < number {
                f.write_str(joint)?;
            }
            match part {
                Self::Test(test) => test.fmt(f)?,
                Self::Group(..) => write!(f, "({part})")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            field,
            negated,
            wanted,
        } = self;
        let not = if *negated { "NOT " } else { "" };
        match wanted {
            FieldCondition::Present => write!(f, "{not}{field}:*"),
            FieldCondition::AnyOf(values) => match values.as_slice() {
                [value] => {
                    let sign = if *negated { "!=" } else { "=" };
                    write!(f, "{field} {sign} {}", QuotedText(value))
                }
                // No space after a comma, so that a long list does not grow past the limit.
                values => {
                    write!(f, "{not}{field} IN ")?;
                    for (number, value) in values.iter().enumerate() {
                        let before = if number == 0 { '(' } else { ',' };
                        write!(f, "{before}{}", QuotedText(value))?;
                    }
                    f.write_str(")")
                }
            },
        }
    }
}

impl fmt::Display for FilterField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id => f.write_str("id"),
            Self::Label => f.write_str("label"),
            Self::Metadata(key) => write!(f, "metadata.{}", QuotedText(key)),
        }
    }
}

/// Shows a value or key as the grammar takes it: bare if possible, else in double quotes.
struct QuotedText<'a>(&'a str);

impl fmt::Display for QuotedText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = !self.0.is_empty() && self.0.chars().all(is_word);
        if bare && Token::keyword(self.0).is_none() {
            return f.write_str(self.0);
        }
        f.write_str("\"")?;
        for character in self.0.chars() {
            match character {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                other if other.is_control() => write!(f, "\\u{{{:x}}}", u32::from(other))?,
                other => write!(f, "{other}")?,
            }
        }
        f.write_str("\"")
    }
}

/// What a filter is written in. Spaces between tokens are dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    /// What was between double quotes, with escapes resolved.
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

/// Whether a character may stand in a word that is not quoted.
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
    /// First byte of the token.
    start: usize,
    /// First byte after it.
    end: usize,
    token: Token<'a>,
    /// Comparisons so far.
    terms: usize,
    /// Parentheses open.
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

    /// The key after `metadata.`, which ends where the string begins.
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

    /// Goes past the token if it is this one.
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

    /// The string at the start of `rest`, and how many bytes it takes there.
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
                // A control character has to be escaped: it would be invisible in messages and logs.
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

/// The character that an escape stands for; begins after the backslash.
fn escaped(characters: &mut CharIndices<'_>) -> Option<char> {
    match characters.next()?.1 {
        same @ ('"' | '\\') => Some(same),
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        'u' => {
            let (digits, _) = characters.as_str().strip_prefix('{')?.split_once('}')?;
            // `from_str_radix` alone would take a sign.
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> ItemFilter {
        ItemFilter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn refused(text: &str) -> FilterError {
        ItemFilter::parse(text).expect_err(text)
    }

    fn metadata(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    /// Whether the filter finds the item `i-1` of label `cat` from the front camera.
    fn finds(text: &str) -> bool {
        let metadata = metadata(&[("camera", "front"), ("my key", ""), ("a.b", "say \"x\"\n")]);
        read(text).matches("i-1", "cat", &metadata)
    }

    #[test]
    fn each_comparison_says_what_the_documentation_says() {
        for (text, expected) in [
            ("label = \"cat\"", true),
            ("label=cat", true),
            ("label = Cat", false),
            ("label = \"ca\"", false),
            ("label = \"c*\"", false),
            ("label != cat", false),
            ("label IN (\"dog\", cat)", true),
            ("label IN (dog,cow)", false),
            ("NOT label IN (dog,cow)", true),
            ("id = i-1", true),
            ("id IN (i-0, i-2)", false),
            ("metadata.camera = \"front\"", true),
            ("metadata.camera IN (back, front)", true),
            ("metadata.\"camera\" = front", true),
            ("metadata.camera:*", true),
            ("metadata.camera : *", true),
            ("metadata.\"my key\":*", true),
            ("metadata.\"my key\" = \"\"", true),
            ("metadata.a.b = \"say \\\"x\\\"\\n\"", true),
            ("metadata.a.b = \"\\u{73}ay \\u{000022}x\\\"\\u{a}\"", true),
            ("\t( label\r\n=\n cat ) ", true),
        ] {
            assert_eq!(finds(text), expected, "{text}");
        }
    }

    #[test]
    fn a_missing_key_equals_nothing_and_differs_from_everything() {
        assert!(!finds("metadata.lens = x"));
        assert!(!finds("metadata.lens IN (x, \"\")"));
        assert!(!finds("metadata.lens:*"));
        assert!(finds("metadata.lens != x"));
        assert!(finds("NOT metadata.lens = x"));
        assert!(finds("NOT metadata.lens:*"));
        assert!(!finds("metadata.lens:* AND metadata.lens != x"));
    }

    #[test]
    fn not_belongs_to_the_comparison_that_follows() {
        assert!(!finds("NOT label = dog AND label = cow"));
        assert!(finds("NOT (label = dog AND label = cow)"));
        assert!(finds("NOT NOT label = cat"));
        assert!(finds("label = cat AND (id = x OR NOT id = y)"));
    }

    #[test]
    fn the_canonical_form_is_sorted_joined_and_quoted_only_where_needed() {
        for (text, canonical) in [
            ("label=\"x\"", "label = x"),
            ("label = \"a b\"", "label = \"a b\""),
            ("label = \"AND\" OR label = \"\"", "label IN (\"\",\"AND\")"),
            ("label IN (b, a, b)", "label IN (a,b)"),
            ("label IN (a, a)", "label = a"),
            ("id = b OR label = c OR id = a", "id IN (a,b) OR label = c"),
            ("id != b AND id != a", "NOT id IN (a,b)"),
            ("NOT (id = b OR NOT label = c)", "id != b AND label = c"),
            ("((id = a))", "id = a"),
            ("id = a AND (label = b AND id = a)", "id = a AND label = b"),
            (
                "(id = a OR label = b) AND id != c",
                "id != c AND (id = a OR label = b)",
            ),
            ("NOT metadata.\"a\":*", "NOT metadata.a:*"),
            (
                "metadata.\"IN\" = \"\\u{1}\\\\\"",
                "metadata.\"IN\" = \"\\u{1}\\\\\"",
            ),
        ] {
            let filter = read(text);
            assert_eq!(filter.to_string(), canonical, "{text}");
            assert_eq!(read(canonical), filter, "{text}");
        }
    }

    #[test]
    fn labels_are_known_where_every_match_must_have_one_of_them() {
        let labels = |text: &str| {
            read(text)
                .labels()
                .map(|labels| labels.into_iter().collect::<Vec<_>>().join(" "))
        };
        for (text, expected) in [
            ("label = a", Some("a")),
            ("label IN (b, a) AND metadata.camera = front", Some("a b")),
            ("label IN (a, b) AND label IN (b, c)", Some("b")),
            ("label = a AND label = b", Some("")),
            ("label = a OR (label = b AND id != c)", Some("a b")),
            ("NOT (label != a OR id = b)", Some("a")),
            ("label = a OR id = b", None),
            ("label != a", None),
            ("NOT label IN (a, b)", None),
            ("metadata.label = a", None),
        ] {
            assert_eq!(labels(text).as_deref(), expected, "{text}");
        }
    }

    /// What cannot be read; the column, and parts of its error.
    const MISTAKES: &[(&str, usize, &str, &str)] = &[
        ("", 1, "the end", "`id`, `label`"),
        ("  ", 3, "the end", "`id`, `label`"),
        ("labell = x", 1, "`labell`", "`id`, `label`"),
        ("-label = x", 1, "`-label`", "NOT"),
        ("metadata = x", 1, "`metadata`", "`metadata.KEY`"),
        (
            "metadata. \"k\" = x",
            11,
            "the string \"k\"",
            "a key right after",
        ),
        (
            "metadata.\"\" = x",
            10,
            "the string \"\"",
            "a key right after",
        ),
        ("label", 6, "the end", "`=`, `!=` or IN"),
        ("label == x", 8, "`=`", "a value"),
        ("label < x", 7, "the character '<'", "`=`, `!=` or IN"),
        ("label:*", 6, "`:`", "`=`, `!=` or IN"),
        ("label NOT IN (a)", 7, "NOT", "`=`, `!=` or IN"),
        ("metadata.k:x", 12, "`x`", "`*`"),
        ("metadata.k ~ x", 12, "the character '~'", "`:*`"),
        ("label = AND", 9, "AND", "double quotes"),
        ("label = 'x'", 9, "the character '\\''", "double quotes"),
        ("label = Zürich", 10, "the character 'ü'", "double quotes"),
        ("label = a and id = b", 11, "`and`", "in capitals"),
        ("label = a b", 11, "`b`", "AND, OR"),
        ("label IN a", 10, "`a`", "`(`"),
        ("label IN ()", 11, "`)`", "a value"),
        ("label IN (a,)", 13, "`)`", "a value"),
        ("label IN (a b)", 13, "`b`", "`,` or `)`"),
        ("(label = a", 11, "the end", "AND, OR or `)`"),
        ("label = a)", 10, "`)`", "AND, OR"),
        ("label = a AND", 14, "the end", "`id`, `label`"),
        ("label = \"a", 9, "a string without an end", "closing"),
        (
            "label = \"ü\\q\"",
            12,
            "`\\` before something else",
            "an escape",
        ),
        ("label = \"\\u{110000}\"", 10, "`\\` before", "an escape"),
        ("label = \"\\u{+41}\"", 10, "`\\` before", "an escape"),
        ("label = \"\\u{}\"", 10, "`\\` before", "an escape"),
        ("label = \"a\tb\"", 11, "the character '\\t'", "an escape"),
    ];

    #[test]
    fn an_error_says_where_what_was_found_and_what_was_expected() {
        for &(text, column, found, expected) in MISTAKES {
            let error = refused(text);
            assert_eq!(error.column(), Some(column), "{text}: {error}");
            let FilterError::Syntax {
                found: is,
                expected: wanted,
                example,
                ..
            } = error
            else {
                panic!("{text}: {error}");
            };
            assert!(is.starts_with(found), "{text}: {is}");
            assert!(wanted.contains(expected), "{text}: {wanted}");
            let whole = if let Some(list) = example.strip_prefix('(') {
                list.trim_end_matches(')')
            } else {
                example
            };
            read(whole);
        }
        assert_eq!(
            refused("label < x").to_string(),
            "the filter cannot be read at column 7: found the character '<', expected `=`, `!=` \
             or IN, as in `label = \"x\"`"
        );
        let long = refused(&"word".repeat(500)).to_string();
        assert!(
            long.contains(&format!("`{}...`", "word".repeat(8))),
            "{long}"
        );
    }

    #[test]
    fn and_beside_or_needs_parentheses() {
        assert_eq!(
            refused("id = a AND id = b OR id = c"),
            FilterError::Mixed { column: 19 }
        );
        assert_eq!(
            refused("(id = a OR NOT id = b AND id = c)").column(),
            Some(23)
        );
        assert!(finds("(id = a AND id = b) OR id = i-1"));
    }

    #[test]
    fn every_limit_holds_and_is_not_one_short() {
        let name = |len: usize| format!("id = {}", "a".repeat(len));
        read(&name(FILTER_BYTES_MAX - 5));
        assert_eq!(
            refused(&name(FILTER_BYTES_MAX - 4)),
            FilterError::TooLong {
                found: 4097,
                max: 4096
            }
        );
        let terms = |count| vec!["id=a"; count].join(" OR ");
        read(&terms(FILTER_TERMS_MAX));
        assert_eq!(
            refused(&terms(FILTER_TERMS_MAX + 1)),
            FilterError::TooManyTerms {
                column: 256 * 8 + 1,
                max: 256
            }
        );
        let nested = |depth| format!("{}id=a{}", "(".repeat(depth), ")".repeat(depth));
        read(&nested(FILTER_DEPTH_MAX));
        assert_eq!(
            refused(&nested(FILTER_DEPTH_MAX + 1)),
            FilterError::TooDeep {
                column: 17,
                max: 16
            }
        );
        assert_eq!(
            refused(&"(NOT ".repeat(800)).column(),
            Some(FILTER_DEPTH_MAX * 5 + 1)
        );
        assert!(
            read(&format!("{}label = cat", "NOT ".repeat(1000)))
                .labels()
                .is_some()
        );
        // One after another, parentheses do not add up.
        read(&vec!["(id = a)"; 200].join(" OR "));
    }

    #[test]
    fn a_list_of_any_length_is_one_comparison_and_keeps_its_length() {
        let values: Vec<_> = (1000..1800).map(|value| value.to_string()).collect();
        let text = format!("id IN ({})", values.join(","));
        let filter = read(&text);
        assert_eq!(filter.to_string(), text);
        let none = BTreeMap::new();
        for value in &values {
            assert!(filter.matches(value, "x", &none));
        }
        assert!(!filter.matches("999", "x", &none) && !filter.matches("1800", "x", &none));
    }

    #[test]
    fn a_filter_that_would_grow_past_the_limit_is_refused_with_the_reason() {
        let keys: Vec<_> = (0..220).map(|key| format!("metadata.{key}:*")).collect();
        let text = format!("NOT({})", keys.join("OR "));
        assert!(text.len() <= FILTER_BYTES_MAX);
        assert!(matches!(
            refused(&text),
            FilterError::CanonicalTooLong { found, .. } if FILTER_BYTES_MAX < found
        ));
    }

    /// A filter as someone might write it, kept as it was written.
    #[derive(Clone, Debug)]
    enum Written {
        Equal(Name, String),
        Differs(Name, String),
        In(Name, Vec<String>),
        Has(String),
        Not(Box<Written>),
        And(Vec<Written>),
        Or(Vec<Written>),
    }

    #[derive(Clone, Debug)]
    enum Name {
        Id,
        Label,
        Key(String),
    }

    struct Asked<'a> {
        id: &'a str,
        label: &'a str,
        metadata: &'a BTreeMap<String, String>,
    }

    fn quoted(text: &str) -> String {
        let escaped = text
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
            .replace('\u{7f}', "\\u{7F}");
        format!("\"{escaped}\"")
    }

    impl Name {
        fn write(&self) -> String {
            match self {
                Self::Id => "id".to_owned(),
                Self::Label => "label".to_owned(),
                Self::Key(key) => format!("metadata.{}", quoted(key)),
            }
        }

        fn of<'a>(&self, item: &Asked<'a>) -> Option<&'a str> {
            match self {
                Self::Id => Some(item.id),
                Self::Label => Some(item.label),
                Self::Key(key) => item.metadata.get(key).map(String::as_str),
            }
        }
    }

    impl Written {
        fn write(&self) -> String {
            let join = |parts: &[Self], joint: &str| {
                let parts: Vec<_> = parts.iter().map(Self::write).collect();
                format!("({})", parts.join(joint))
            };
            match self {
                Self::Equal(name, value) => format!("{} = {}", name.write(), quoted(value)),
                Self::Differs(name, value) => format!("{}!={}", name.write(), quoted(value)),
                Self::In(name, values) => {
                    let values: Vec<_> = values.iter().map(|value| quoted(value)).collect();
                    format!("{} IN({})", name.write(), values.join(" , "))
                }
                Self::Has(key) => format!("metadata.{}:*", quoted(key)),
                Self::Not(part) => format!("NOT {}", part.write()),
                Self::And(parts) => join(parts, " AND "),
                Self::Or(parts) => join(parts, " OR "),
            }
        }

        fn holds(&self, item: &Asked<'_>) -> bool {
            match self {
                Self::Equal(name, value) => name.of(item) == Some(value),
                Self::Differs(name, value) => name.of(item) != Some(value),
                Self::In(name, values) => values.iter().any(|value| name.of(item) == Some(value)),
                Self::Has(key) => item.metadata.contains_key(key),
                Self::Not(part) => !part.holds(item),
                Self::And(parts) => parts.iter().all(|part| part.holds(item)),
                Self::Or(parts) => parts.iter().any(|part| part.holds(item)),
            }
        }
    }

    /// Few values, so that they meet; some that need quotes or escapes.
    fn value() -> impl Strategy<Value = String> {
        let values = &["a", "b", "c", "IN", "a b", "", "\"\\\n", "ü\u{7f}"];
        prop::sample::select(&values[..]).prop_map(str::to_owned)
    }

    fn key() -> impl Strategy<Value = String> {
        prop::sample::select(&["k", "l", "a.b", "my key", "OR"][..]).prop_map(str::to_owned)
    }

    fn name() -> impl Strategy<Value = Name> {
        prop_oneof![
            Just(Name::Id),
            Just(Name::Label),
            Just(Name::Label),
            key().prop_map(Name::Key)
        ]
    }

    fn written() -> impl Strategy<Value = Written> {
        let term = prop_oneof![
            (name(), value()).prop_map(|(name, value)| Written::Equal(name, value)),
            (name(), value()).prop_map(|(name, value)| Written::Differs(name, value)),
            (name(), prop::collection::vec(value(), 1..5))
                .prop_map(|(name, values)| Written::In(name, values)),
            key().prop_map(Written::Has),
        ];
        term.prop_recursive(5, 40, 4, |part| {
            prop_oneof![
                part.clone().prop_map(|part| Written::Not(Box::new(part))),
                prop::collection::vec(part.clone(), 1..5).prop_map(Written::And),
                prop::collection::vec(part, 1..5).prop_map(Written::Or),
            ]
        })
    }

    type Asking = (String, String, BTreeMap<String, String>);

    fn items() -> impl Strategy<Value = Vec<Asking>> {
        let metadata = prop::collection::btree_map(key(), value(), 0..4);
        prop::collection::vec((value(), value(), metadata), 1..12)
    }

    proptest! {
        #[test]
        fn a_filter_finds_what_a_naive_reading_finds(
            written in written(), items in items()
        ) {
            let filter = read(&written.write());
            let labels = filter.labels();
            for (id, label, metadata) in &items {
                let found = filter.matches(id, label, metadata);
                prop_assert_eq!(found, written.holds(&Asked { id, label, metadata }));
                if let Some(labels) = &labels {
                    prop_assert!(!found || labels.contains(label.as_str()));
                }
            }
        }

        #[test]
        fn the_canonical_form_reads_back_as_the_same_filter(written in written()) {
            let filter = read(&written.write());
            let canonical = filter.to_string();
            let again = read(&canonical);
            prop_assert_eq!(&again, &filter);
            prop_assert_eq!(again.to_string(), canonical);
        }

        #[test]
        fn de_morgans_laws_hold(left in written(), right in written()) {
            let (left, right) = (left.write(), right.write());
            prop_assert_eq!(
                read(&format!("NOT ({left} AND {right})")),
                read(&format!("NOT {left} OR NOT {right}"))
            );
            prop_assert_eq!(
                read(&format!("NOT ({left} OR {right})")),
                read(&format!("NOT {left} AND NOT {right}"))
            );
        }

        #[test]
        fn the_order_of_parts_does_not_matter(left in written(), right in written()) {
            let (left, right) = (left.write(), right.write());
            prop_assert_eq!(
                read(&format!("{left} AND {right}")),
                read(&format!("{right} AND {left}"))
            );
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            check_any(&String::from_utf8_lossy(&bytes))?;
        }

        #[test]
        fn no_heap_of_tokens_makes_it_panic(
            tokens in prop::collection::vec(prop::sample::select(&[
                "id", "label", "metadata.", "metadata.k", "=", "!=", "!", "IN", "NOT", "AND", "OR",
                "(", ")", ",", ":", ":*", "*", "\"", "\"x\"", "\\", "\\u{41}", "\\u{", "x", "ü",
                " ", "\n", "id=a", " OR ", " AND ", "\u{0}", "\u{2028}",
            ][..]), 0..60)
        ) {
            check_any(&tokens.concat())?;
        }

        #[test]
        fn a_filter_cut_or_changed_anywhere_is_read_or_refused_in_place(
            written in written(), place in any::<prop::sample::Index>(), other in any::<char>()
        ) {
            let text: Vec<char> = written.write().chars().collect();
            let place = place.index(text.len());
            let start: String = text[..place].iter().collect();
            let rest: String = text[place + 1..].iter().collect();
            check_any(&start)?;
            check_any(&format!("{start}{other}{rest}"))?;
        }
    }

    /// A text is read and shown again, or refused at a place inside it or at its end.
    fn check_any(text: &str) -> Result<(), TestCaseError> {
        match ItemFilter::parse(text) {
            Ok(filter) => prop_assert_eq!(read(&filter.to_string()), filter),
            Err(error) => {
                let column = error.column().unwrap_or(1);
                prop_assert!(1 <= column && column <= text.len() + 1);
                prop_assert!(text.is_char_boundary(column - 1));
                prop_assert!(!error.to_string().chars().any(char::is_control));
            }
        }
        Ok(())
    }
}
