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
