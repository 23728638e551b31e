//! Filters: a small language over id, label and metadata that states which items a search may find.
//!
//! `docs/filters.md` describes it for callers. A filter is stored in canonical form: NOT occurs only at single
//! comparisons, values of one field are joined in one set, and everything is sorted. So filters that differ
//! only in form are equal, and cheap tests come first.

mod parser;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The highest length of a filter in bytes, as written and in canonical form; enough for some hundred short
/// values.
pub const FILTER_BYTES_MAX: usize = 4096;
/// The highest number of comparisons in a filter, because each may be made with every item of a gallery. A list
/// of values after IN is one comparison.
pub const FILTER_TERMS_MAX: usize = 256;
/// The highest nesting depth of parentheses, which limits the stack for reading and matching.
pub const FILTER_DEPTH_MAX: usize = 16;

/// A condition on id, label and metadata. `Display` writes its canonical form, which can be parsed back to an
/// equal filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ItemFilter {
    root: Node,
}

/// The reasons why a text is not a filter. Columns count bytes, from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// The text does not follow the grammar.
    #[error(
        "the filter cannot be read at column {column}: found {found}, expected {expected}, as in \
         `{example}`"
    )]
    Syntax {
        /// The column of the mistake.
        column: usize,
        /// What was found there, cut to 32 characters.
        found: String,
        /// What the grammar expects there.
        expected: &'static str,
        /// An example of a correct filter or part of one.
        example: &'static str,
    },
    /// AND and OR are mixed without parentheses; languages differ in which of them binds more tightly.
    #[error(
        "the filter mixes AND and OR at column {column}; say with parentheses which belongs \
         together, as in `label = a AND (id = b OR id = c)`"
    )]
    Mixed {
        /// The column of the second operator.
        column: usize,
    },
    /// Parentheses are nested too deeply.
    #[error(
        "the filter opens more than {max} parentheses inside each other at column {column}; write \
         many values of one field as a list, as in `label IN (a, b, c)`"
    )]
    TooDeep {
        /// The column of the first one too many.
        column: usize,
        /// The highest allowed depth.
        max: usize,
    },
    /// There are too many comparisons.
    #[error(
        "the filter has more than {max} comparisons, the next at column {column}; write many \
         values of one field as a list, as in `label IN (a, b, c)`"
    )]
    TooManyTerms {
        /// The column of the first one too many.
        column: usize,
        /// The highest allowed number.
        max: usize,
    },
    /// The text is too long.
    #[error("the filter has {found} bytes; at most {max} are taken")]
    TooLong {
        /// Its length in bytes.
        found: usize,
        /// The highest allowed length.
        max: usize,
    },
    /// The text is short enough, but its canonical form is too long.
    #[error(
        "the filter has {found} bytes in its canonical form, with NOT at each comparison and \
         spaces around `=`; at most {max} are taken"
    )]
    CanonicalTooLong {
        /// The length of the canonical form in bytes.
        found: usize,
        /// The highest allowed length.
        max: usize,
    },
}

impl FilterError {
    /// The column of the mistake, in bytes from 1; `None` if the filter as a whole is too long.
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
    /// Parses a filter. There is no empty filter; leave the filter out if every item may be found.
    ///
    /// # Errors
    ///
    /// Returns the first mistake with its column, or the limit that is exceeded.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if FILTER_BYTES_MAX < text.len() {
            return Err(FilterError::TooLong {
                found: text.len(),
                max: FILTER_BYTES_MAX,
            });
        }
        let root = parser::parse(text)?;
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
    /// A metadata key that the item does not have equals no value, so `=`, IN and `:*` are false and `!=` is
    /// true.
    #[must_use]
    pub fn matches(&self, id: &str, label: &str, metadata: &BTreeMap<String, String>) -> bool {
        self.root.matches(id, label, metadata)
    }

    /// The labels that a matching item can have, if the filter restricts them by `=` or IN; `None` if it does
    /// not. If the set is empty, no item matches.
    ///
    /// An item with such a label need not match, because the rest of the filter has to be tested too.
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

/// A part of a filter. The variants are in the order in which they are matched, cheap ones first.
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

/// A comparison. The order is by field and sign first, so that comparisons that can be joined are adjacent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Test {
    field: FilterField,
    negated: bool,
    wanted: FieldCondition,
}

/// The field that is compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum FilterField {
    Id,
    Label,
    Metadata(String),
}

/// The values that it is compared with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum FieldCondition {
    /// One of these values. There is at least one; they are sorted and distinct.
    AnyOf(Vec<String>),
    /// Any value.
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

    /// Adds the values of `next` if one set of values is equivalent to both: `x = a OR x = b`, or `x != a AND x
    /// != b`. The values are left unsorted.
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

    /// The negation, by De Morgan's laws.
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
                // There is no space after a comma, so that a long list does not exceed the limit by its
                // canonical form.
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

/// Writes a value or key as the grammar requires: without quotes if possible, otherwise in double quotes.
struct QuotedText<'a>(&'a str);

impl fmt::Display for QuotedText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if parser::is_bare(self.0) {
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
