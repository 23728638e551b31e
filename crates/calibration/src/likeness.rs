//! Finds labels that are suspiciously alike. If one thing has two spellings, its mate counts as a stranger, and
//! no threshold can keep a promise on such strangers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};

use serde::Serialize;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// One edit makes a near miss only if the shorter word has at least this many letters. In shorter words, one
/// letter often separates two different things, such as goat and boat.
const LETTERS_FOR_ONE: usize = 5;
/// The same for two edits.
const LETTERS_FOR_TWO: usize = 10;
/// Words with more letters than this are compared for one edit only, because the number of forms with two
/// letters removed would be too large.
const LETTERS_FOR_TWO_MAX: usize = 32;
/// Words with more letters than this are only compared for equality. No real label is that long, and the search
/// for edits would need time that grows with the square of the length.
const LETTERS_MAX: usize = 512;
/// A label that is a near miss of more labels than this belongs to a series (class-aa, class-ab) and is not a
/// typing error.
const SERIES_FROM: usize = 3;
/// The highest number of labels that may share one shortened form; more of them are a series.
const BUCKET_MAX: usize = 32;
/// The highest number of shortened forms that are compared, at 16 bytes each: 128 MiB. A hundred thousand names
/// have 2 million forms with one letter removed. If there would be more forms than this, two edits are not
/// looked for; if there would still be more, none are.
const FORMS_MAX: usize = 8 << 20;
/// The number of pairs that a refusal names.
const EXAMPLES_MAX: usize = 5;

/// How two labels are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Likeness {
    /// The labels are the same except for capitals, Unicode form, invisible characters, word separators, or how
    /// a number is written. They are almost certainly one label.
    Spelling,
    /// The labels are the same except for one or two letters of one long word, which may be a typing error.
    NearMiss,
}

/// Two labels that are alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Alike {
    /// How they are alike.
    pub likeness: Likeness,
    /// The label that was checked.
    pub label: String,
    /// The label that it resembles.
    pub other: String,
    /// Whether `other` is enrolled; otherwise it is one of the labels that were checked.
    pub enrolled: bool,
    /// The differences in words.
    pub differ_by: Vec<&'static str>,
}

impl Alike {
    /// Shows both labels, with invisible characters written out.
    #[must_use]
    pub fn describe(&self) -> String {
        let other = if self.enrolled {
            "enrolled: "
        } else {
            "also: "
        };
        let (label, by) = (visible(&self.label), self.differ_by.join(", "));
        format!("`{label}` ({other}`{}`; {by})", visible(&self.other))
    }
}

/// Labels that differ only in spelling from each other or from enrolled labels.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "labels that are not enrolled differ from another one by spelling alone ({count} of them): \
     {examples}; as strangers they would be searches that find what they show, and every rate would \
     be wrong. Correct the labels; or, where they are different things, say so: \
     --labels-as-they-are, labels_as_they_are over gRPC"
)]
pub struct LabelsAlike {
    /// Number of such labels; at least one.
    pub count: u64,
    /// The first few, as text.
    pub examples: String,
}

/// Checks that no label differs from another only in spelling.
///
/// # Errors
/// Returns an error with the number of such labels, and the first few with both spellings.
pub fn refuse_spellings(alike: &[Alike]) -> Result<(), LabelsAlike> {
    let spellings = || {
        alike
            .iter()
            .filter(|pair| pair.likeness == Likeness::Spelling)
    };
    let count = spellings().count();
    if count == 0 {
        return Ok(());
    }
    let examples: Vec<String> = spellings()
        .take(EXAMPLES_MAX)
        .map(Alike::describe)
        .collect();
    let more = if EXAMPLES_MAX < count { ", …" } else { "" };
    Err(LabelsAlike {
        count: count as u64,
        examples: examples.join(", ") + more,
    })
}

/// Whether labels that differ only in spelling are one label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spellings {
    /// They are one label.
    OneLabel,
    /// They are different labels, as somebody who knows them has said.
    DifferentLabels,
}

impl Spellings {
    /// Takes them as different labels if somebody has said that labels are right as they are.
    #[must_use]
    pub fn said(labels_as_they_are: bool) -> Self {
        if labels_as_they_are {
            Self::DifferentLabels
        } else {
            Self::OneLabel
        }
    }
}

/// A label without anything that counts as spelling: labels that differ only in spelling have the same.
#[must_use]
pub fn without_spelling(label: &str) -> String {
    key(label, |_| true)
}

/// For each of `labels` that is among `others`: the one that it is, in the same or in another spelling.
#[must_use]
pub fn shared<'a>(
    labels: &BTreeSet<&'a str>,
    others: &BTreeSet<&'a str>,
    spellings: Spellings,
) -> Vec<SharedLabel<'a>> {
    let respelled: HashMap<String, &str> = match spellings {
        Spellings::OneLabel => {
            let others = others.iter();
            others.map(|one| (without_spelling(one), *one)).collect()
        }
        Spellings::DifferentLabels => HashMap::new(),
    };
    let found = labels.iter().filter_map(|&label| {
        let same = others.get(label);
        let other = same.or_else(|| respelled.get(&without_spelling(label)));
        let other = other.copied()?;
        Some(SharedLabel { label, other })
    });
    found.collect()
}

/// A label that is among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedLabel<'a> {
    /// The label.
    pub label: &'a str,
    /// How it is spelled among the others.
    pub other: &'a str,
}

impl SharedLabel<'_> {
    /// Whether the others spell it in another way.
    #[must_use]
    pub fn is_respelled(self) -> bool {
        self.label != self.other
    }

    /// Shows the label, and both spellings if there are two.
    #[must_use]
    pub fn describe(self) -> String {
        let label = visible(self.label);
        if self.is_respelled() {
            let by = differ_by(self.label, self.other).join(", ");
            format!("`{label}` (`{}`; {by})", visible(self.other))
        } else {
            format!("`{label}`")
        }
    }
}

/// How two labels are alike; `None` if they are equal or not alike.
#[must_use]
pub fn likeness(a: &str, b: &str) -> Option<Likeness> {
    if a == b {
        return None;
    }
    Form::of(a).likeness(&Form::of(b))
}

/// For each of `labels` that is not enrolled: the enrolled label, or the other one of `labels`, that it
/// resembles. Differences in spelling come first. Near misses of a label with more than three of them are left
/// out. The time is proportional to the number of letters in all labels, and the additional memory is limited.
#[must_use]
pub fn alike<'a>(
    labels: impl IntoIterator<Item = &'a str>,
    enrolled: impl IntoIterator<Item = &'a str>,
) -> Vec<Alike> {
    let enrolled: BTreeSet<&str> = enrolled.into_iter().collect();
    let labels: BTreeSet<&str> = labels.into_iter().collect();
    let strange = labels.into_iter().filter(|label| !enrolled.contains(label));
    // Enrolled labels come first, so that a different spelling is reported relative to them.
    let known = enrolled.iter().map(|label| (*label, true));
    let all: Vec<Labelled<'_>> = known
        .chain(strange.map(|label| (label, false)))
        .map(|(label, enrolled)| Labelled {
            label,
            enrolled,
            form: Form::of(label),
        })
        .collect();
    let mut found = spellings(&all);
    found.extend(near_misses(&all));
    found.sort();
    found
}

struct Labelled<'a> {
    label: &'a str,
    enrolled: bool,
    form: Form,
}

fn pair(label: &Labelled<'_>, other: &Labelled<'_>, likeness: Likeness) -> Alike {
    Alike {
        likeness,
        label: label.label.to_owned(),
        other: other.label.to_owned(),
        enrolled: other.enrolled,
        differ_by: match likeness {
            Likeness::Spelling => differ_by(label.label, other.label),
            Likeness::NearMiss => vec!["a letter or two"],
        },
    }
}

fn spellings(all: &[Labelled<'_>]) -> Vec<Alike> {
    let mut first_of: HashMap<&str, &Labelled<'_>> = HashMap::new();
    let mut found = Vec::new();
    for one in all {
        match first_of.get(one.form.key.as_str()) {
            Some(first) if !one.enrolled => found.push(pair(one, first, Likeness::Spelling)),
            Some(_) => {}
            None => drop(first_of.insert(&one.form.key, one)),
        }
    }
    found
}

/// Two labels that are one or two edits apart have a common form in which each lacks as many letters. Only
/// labels with a common form are compared.
fn near_misses(all: &[Labelled<'_>]) -> Vec<Alike> {
    let Some(edits) = Edits::affordable(all) else {
        return Vec::new();
    };
    let hasher = RandomState::new();
    let mut shortened: Vec<(u64, usize)> = Vec::new();
    for (place, one) in all.iter().enumerate() {
        one.form
            .shortened(edits, &hasher, &mut |form| shortened.push((form, place)));
    }
    shortened.sort_unstable();
    shortened.dedup();
    let mut pairs: BTreeSet<(usize, usize)> = BTreeSet::new();
    for bucket in shortened.chunk_by(|a, b| a.0 == b.0) {
        if BUCKET_MAX < bucket.len() {
            continue;
        }
        for (at, &(_, earlier)) in bucket.iter().enumerate() {
            for &(_, later) in bucket.iter().skip(at + 1) {
                pairs.insert((later, earlier));
            }
        }
    }
    let mut degrees: BTreeMap<usize, usize> = BTreeMap::new();
    let mut near = Vec::new();
    for (later, earlier) in pairs {
        let (Some(label), Some(other)) = (all.get(later), all.get(earlier)) else {
            continue;
        };
        if label.form.likeness(&other.form) == Some(Likeness::NearMiss) {
            for place in [later, earlier] {
                *degrees.entry(place).or_default() += 1;
            }
            near.push((later, earlier));
        }
    }
    let single = |place: &usize| degrees.get(place).is_some_and(|near| *near <= SERIES_FROM);
    let kept = near
        .into_iter()
        .filter(|(later, earlier)| single(later) && single(earlier))
        .filter_map(|(later, earlier)| Some((all.get(later)?, all.get(earlier)?)));
    kept.filter(|(label, _)| !label.enrolled)
        .map(|(label, other)| pair(label, other, Likeness::NearMiss))
        .collect()
}

/// A label prepared for comparison.
struct Form {
    /// The label without anything that counts as spelling.
    key: String,
    /// Its words. Words with a digit are numbers or codes.
    words: Vec<String>,
}

impl Form {
    fn of(label: &str) -> Self {
        let key = without_spelling(label);
        let words = key.split(|c: char| !c.is_alphanumeric() && !is_combining_mark(c));
        let words = words.filter(|word| !word.is_empty());
        Self {
            words: words.map(str::to_owned).collect(),
            key,
        }
    }

    fn likeness(&self, other: &Self) -> Option<Likeness> {
        if self.key == other.key {
            return Some(Likeness::Spelling);
        }
        self.is_near(other).then_some(Likeness::NearMiss)
    }

    /// Whether one word differs in one or two letters, or only the word boundaries differ. Words with digits
    /// must be equal: item-001 is not a near miss of item-002.
    fn is_near(&self, other: &Self) -> bool {
        if self.joined() == other.joined() {
            return LETTERS_FOR_ONE <= letters(&self.joined());
        }
        if self.words.len() != other.words.len() {
            return false;
        }
        let both = self.words.iter().zip(&other.words);
        let mut differing = both.filter(|(a, b)| a != b);
        let (Some((a, b)), None) = (differing.next(), differing.next()) else {
            return false;
        };
        if is_code(a) || is_code(b) {
            return false;
        }
        let (shorter, longer) = {
            let (a, b) = (letters(a), letters(b));
            (a.min(b), a.max(b))
        };
        if LETTERS_MAX < longer {
            return false;
        }
        match strsim::osa_distance(a, b) {
            1 => LETTERS_FOR_ONE <= shorter,
            2 => LETTERS_FOR_TWO <= shorter && longer <= LETTERS_FOR_TWO_MAX,
            _ => false,
        }
    }

    fn joined(&self) -> String {
        self.words.concat()
    }

    /// The words that can be near misses, with their positions.
    fn spoken(&self) -> impl Iterator<Item = (usize, &str)> {
        let words = self.words.iter().map(String::as_str).enumerate();
        let long = LETTERS_FOR_ONE - 1..=LETTERS_MAX;
        words.filter(move |(_, word)| !is_code(word) && long.contains(&letters(word)))
    }

    /// The approximate number of forms that [`Self::shortened`] visits.
    fn forms(&self, edits: Edits) -> usize {
        let of_word = |(_, word)| {
            let count = letters(word);
            1 + count
                + if edits.are_two(count) {
                    count * count / 2
                } else {
                    0
                }
        };
        1 + self.spoken().map(of_word).sum::<usize>()
    }

    /// Passes `take` a hash of each form with one word shortened by as many letters as may differ, and of the
    /// form without separators.
    fn shortened(&self, edits: Edits, hasher: &RandomState, take: &mut dyn FnMut(u64)) {
        take(hasher.hash_one(self.joined()));
        let words = self.words.iter().enumerate();
        let words = words.map(|word| hasher.hash_one(word));
        let all = words.fold(self.words.len() as u64, u64::wrapping_add);
        for (place, word) in self.spoken() {
            let rest = all.wrapping_sub(hasher.hash_one((place, word)));
            let mut whole = |word: &str| take(hasher.hash_one((place, rest, word)));
            whole(word);
            let twice = edits.are_two(letters(word));
            for shorter in without_one(word, 0) {
                whole(&shorter.text);
                if twice {
                    for shortest in without_one(&shorter.text, shorter.from) {
                        whole(&shortest.text);
                    }
                }
            }
        }
    }
}

/// The number of edits that are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edits {
    One,
    OneOrTwo,
}

impl Edits {
    /// The highest number of edits that memory allows; `None` if not even one.
    fn affordable(all: &[Labelled<'_>]) -> Option<Self> {
        let fits = |edits: &Self| {
            let forms = all.iter().map(|one| one.form.forms(*edits));
            forms.sum::<usize>() <= FORMS_MAX
        };
        [Self::OneOrTwo, Self::One].into_iter().find(fits)
    }

    /// Whether a word of this many letters may be two edits from another.
    fn are_two(self, letters: usize) -> bool {
        self == Self::OneOrTwo && LETTERS_FOR_TWO <= letters + 2 && letters <= LETTERS_FOR_TWO_MAX
    }
}

/// A word with one letter removed, and the position of that letter.
struct Shorter {
    text: String,
    from: usize,
}

fn without_one(word: &str, from: usize) -> impl Iterator<Item = Shorter> {
    let all: Vec<char> = word.chars().collect();
    (from..all.len()).map(move |place| {
        let kept = all.iter().enumerate().filter(|(at, _)| *at != place);
        Shorter {
            text: kept.map(|(_, c)| c).collect(),
            from: place,
        }
    })
}

fn letters(word: &str) -> usize {
    word.chars().count()
}

fn is_code(word: &str) -> bool {
    word.chars().any(char::is_numeric)
}

/// A kind of difference that counts as spelling only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    Ends,
    Invisible,
    Form,
    Case,
    Between,
    Number,
}

impl Spelling {
    const ALL: [Self; 6] = [
        Self::Ends,
        Self::Invisible,
        Self::Form,
        Self::Case,
        Self::Between,
        Self::Number,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Ends => "spaces at its ends",
            Self::Invisible => "invisible characters",
            Self::Form => "Unicode form",
            Self::Case => "capitals",
            Self::Between => "spaces, hyphens or underscores",
            Self::Number => "how a number is written",
        }
    }
}

/// The kinds of differences between two labels with equal keys.
fn differ_by(a: &str, b: &str) -> Vec<&'static str> {
    let all = || Spelling::ALL.into_iter();
    let needed = |what: &Spelling| {
        let others = |one| one != *what;
        key(a, others) != key(b, others)
    };
    let found: Vec<&str> = all().filter(needed).map(Spelling::as_str).collect();
    if !found.is_empty() {
        return found;
    }
    // No single kind is necessary, so several kinds each explain the difference alone; the first is reported.
    // For example, the angstrom sign is another Unicode form of a letter and also its capital.
    let enough = |what: &Spelling| key(a, |one| one == *what) == key(b, |one| one == *what);
    let first = all().find(enough);
    vec![first.map_or("spelling", Spelling::as_str)]
}

/// A label without the given kinds of differences.
fn key(label: &str, changes: impl Fn(Spelling) -> bool) -> String {
    let mut text = label.to_owned();
    if changes(Spelling::Invisible) {
        text.retain(|c| !is_invisible(c));
    }
    if changes(Spelling::Ends) {
        text = text.trim().to_owned();
    }
    if changes(Spelling::Form) {
        text = of_one_width(&text).nfc().collect();
    }
    if changes(Spelling::Case) {
        // Converts to capitals first, so that ß equals ss and both forms of sigma are equal.
        text = text
            .chars()
            .flat_map(char::to_uppercase)
            .flat_map(char::to_lowercase)
            .collect();
    }
    if changes(Spelling::Between) {
        text = between_as_one(&text);
    }
    if changes(Spelling::Form) {
        text = text.nfc().collect();
    }
    if changes(Spelling::Number) {
        text = without_noughts(text);
    }
    text
}

/// Replaces full-width and half-width letters, which keyboards for Chinese and Japanese write, by the ordinary
/// letters, and the apostrophes that word processors write. Other compatibility characters, such as a raised 2, may have a
/// meaning and stay.
fn of_one_width(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{ff00}'..='\u{ffef}' => plain.extend(std::iter::once(c).nfkc()),
            '\u{2bc}' | '\u{2018}' | '\u{2019}' => plain.push('\''),
            _ => plain.push(c),
        }
    }
    plain
}

/// Removes the zeros that spreadsheets drop and that tables of floats add, so that 007, 7 and 7.0 are equal.
fn without_noughts(text: String) -> String {
    let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + part.len() == 0 || !digits(whole) || !digits(part) {
        return text;
    }
    let (whole, part) = (whole.trim_start_matches('0'), part.trim_end_matches('0'));
    let whole = if whole.is_empty() { "0" } else { whole };
    if part.is_empty() {
        whole.to_owned()
    } else {
        format!("{whole}.{part}")
    }
}

/// Replaces each run of spaces, hyphens and underscores by one underscore.
fn between_as_one(text: &str) -> String {
    let mut joined = String::with_capacity(text.len());
    let mut was_between = false;
    for c in text.chars() {
        let between = c.is_whitespace() || c == '_' || is_hyphen(c);
        if !between {
            joined.push(c);
        } else if !was_between {
            joined.push('_');
        }
        was_between = between;
    }
    joined
}

fn is_hyphen(c: char) -> bool {
    matches!(
        c,
        '-' | '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{fe63}' | '\u{ff0d}'
    )
}

/// Characters that show nothing: soft hyphen, zero-width space, marks of direction, word joiner, byte-order mark, fillers,
/// and those that choose between two forms of the character before, such as an emoji in colour. Joiners of letters are
/// none, nor are tags, by which two flags differ, nor what chooses between forms of a Chinese character, which names have.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'
            | '\u{200e}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
    )
}

/// A label in which characters that are invisible or look like others are written as their code points.
fn visible(label: &str) -> String {
    let mut text = String::with_capacity(label.len());
    for c in label.chars() {
        let plain = !c.is_control() && !is_combining_mark(c) && !is_invisible(c);
        if plain && (c == ' ' || !c.is_whitespace()) {
            text.push(c);
        } else {
            text.push_str(&format!("\\u{{{:x}}}", u32::from(c)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(a: &str, b: &str) -> Option<Likeness> {
        let found = likeness(a, b);
        assert_eq!(found, likeness(b, a), "{a} {b}");
        let listed = alike([a], [b]);
        assert_eq!(listed.first().map(|pair| pair.likeness), found, "{a} {b}");
        found
    }

    #[test]
    fn spellings_of_one_label_are_told() {
        for (a, b, by) in [
            ("Anna", "anna", "capitals"),
            ("Stra\u{df}e", "STRASSE", "capitals"),
            ("ΟΔΟΣ", "οδος", "capitals"),
            ("Jos\u{e9}", "Jose\u{301}", "Unicode form"),
            ("\u{212b}ngstr\u{f6}m", "\u{c5}ngstr\u{f6}m", "Unicode form"),
            ("\u{ff21}nn\u{ff41}", "Anna", "Unicode form"),
            (
                "\u{ff8a}\u{ff9e}\u{ff97}",
                "\u{30d0}\u{30e9}",
                "Unicode form",
            ),
            (" anna ", "anna", "spaces at its ends"),
            ("an\u{200b}na", "anna", "invisible characters"),
            ("\u{2764}\u{fe0f}", "\u{2764}", "invisible characters"),
            ("\u{202a}x7\u{202c}", "x7", "invisible characters"),
            ("\u{2067}x7\u{2069}", "x7", "invisible characters"),
            ("x7\u{3164}", "x7", "invisible characters"),
            ("O\u{2019}Hara 2", "O'Hara 2", "Unicode form"),
            ("anna smith", "anna_smith", "spaces, hyphens or underscores"),
            ("7", "7.0", "how a number is written"),
            ("007", "7", "how a number is written"),
            ("007", "7.0", "how a number is written"),
            ("0", "0.00", "how a number is written"),
            ("7.50", "7.5", "how a number is written"),
            (
                "anna \u{2014} smith",
                "anna-smith",
                "spaces, hyphens or underscores",
            ),
            ("item-001", "Item-001", "capitals"),
            ("\u{130}stanbul", "i\u{307}stanbul", "capitals"),
        ] {
            assert_eq!(between(a, b), Some(Likeness::Spelling), "{a} {b}");
            assert_eq!(alike([a], [b])[0].differ_by, [by], "{a} {b}");
        }
        let both = &alike(["ANNA smith"], ["anna-smith"])[0];
        assert_eq!(
            both.differ_by,
            ["capitals", "spaces, hyphens or underscores"]
        );
    }

    #[test]
    fn a_letter_or_two_of_a_long_word_are_a_near_miss() {
        for (a, b) in [
            ("anna smith", "anna smyth"),
            ("elisabeth", "elizabeth"),
            ("golden-temple-2", "golden-tempel-2"),
            ("schwerinpalace", "schwerimpalase"),
            ("annasmith", "anna smith"),
        ] {
            assert_eq!(between(a, b), Some(Likeness::NearMiss), "{a} {b}");
        }
    }

    #[test]
    fn numbers_codes_and_short_words_are_no_near_misses() {
        for (a, b) in [
            ("item-001", "item-002"),
            ("room 2", "room \u{b2}"),
            ("item1", "item11"),
            ("U+1F600", "U+1F601"),
            ("U+1F60A", "U+1F60B"),
            ("gc_fishes_fish14", "gc_fishes_fish3"),
            ("goat", "boat"),
            ("animals_farm_cat", "animals_farm_rat"),
            ("animals_farm_cat", "animals_farm_cow"),
            ("elisabeth", "elizabets"),
            ("2021", "2022"),
            ("a", "b"),
            ("-", "+"),
            ("😀", "😁"),
        ] {
            assert_eq!(between(a, b), None, "{a} {b}");
        }
        assert_eq!(likeness("anna", "anna"), None, "one label");
    }

    #[test]
    fn a_series_of_names_is_no_flood_of_warnings() {
        let letters = 'a'..='z';
        let series: Vec<String> = letters.map(|c| format!("category{c}")).collect();
        let (enrolled, strange) = series.split_at(13);
        let (enrolled, strange) = (
            enrolled.iter().map(String::as_str),
            strange.iter().map(String::as_str),
        );
        assert!(alike(strange, enrolled).is_empty());
        let misses = alike(["elisabeth", "elizabet"], ["elizabeth"]);
        assert_eq!(misses.len(), 2);
        assert!(misses.iter().all(|pair| pair.enrolled));
    }

    #[test]
    fn labels_that_are_enrolled_are_nobodys_strangers_and_strangers_are_held_against_each_other() {
        assert!(alike(["Anna", "anna"], ["Anna", "anna"]).is_empty());
        let found = alike(["Bert", "bert"], ["anna"]);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].label.as_str(), found[0].enrolled),
            ("bert", false)
        );
    }

    #[test]
    fn a_refusal_names_both_spellings_and_what_cannot_be_seen() {
        let labels = ["ANNA", "Jose\u{301}", "elisabeth"];
        let enrolled = ["anna", "Jos\u{e9}", "elizabeth"];
        let refused = refuse_spellings(&alike(labels, enrolled)).unwrap_err();
        let text = refused.to_string();
        assert_eq!(refused.count, 2);
        for part in [
            "`ANNA` (enrolled: `anna`; capitals)",
            "`Jose\\u{301}` (enrolled: `Jos\u{e9}`; Unicode form)",
            "--labels-as-they-are",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("elisabeth"), "{text}");
        assert_eq!(
            refuse_spellings(&alike(["elisabeth"], ["elizabeth"])),
            Ok(())
        );
    }

    #[test]
    fn what_is_found_among_many_is_what_every_pair_says() {
        let mut state = 9_u64;
        let mut next = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        let bases = [
            "elizabeth",
            "schwerinpalace",
            "anna smith",
            "golden temple x2",
        ];
        let mut labels = BTreeSet::new();
        for _ in 0..120 {
            let base = bases[usize::try_from(next(4)).unwrap()];
            let mut chars: Vec<char> = base.chars().collect();
            for _ in 0..next(4) {
                let at = usize::try_from(next(chars.len() as u64)).unwrap();
                match next(3) {
                    0 => drop(chars.remove(at)),
                    1 => chars.insert(at, 'q'),
                    _ => chars[at] = char::from(b'a' + u8::try_from(next(26)).unwrap()),
                }
            }
            labels.insert(chars.into_iter().collect::<String>());
        }
        let all: Vec<Labelled<'_>> = labels
            .iter()
            .map(|label| Labelled {
                label,
                enrolled: false,
                form: Form::of(label),
            })
            .collect();
        let near = |a: &Labelled<'_>, b: &Labelled<'_>| {
            a.form.likeness(&b.form) == Some(Likeness::NearMiss)
        };
        let degree = |a: &Labelled<'_>| all.iter().filter(|b| near(a, b)).count();
        let mut expected = 0;
        for (at, a) in all.iter().enumerate() {
            for b in &all[at + 1..] {
                let single = degree(a) <= SERIES_FROM && degree(b) <= SERIES_FROM;
                expected += usize::from(near(a, b) && single);
            }
        }
        assert!(5 < expected, "{expected}");
        assert_eq!(near_misses(&all).len(), expected);
    }

    #[test]
    fn a_hundred_thousand_labels_are_looked_at_in_time_and_memory_of_their_letters() {
        let hasher = RandomState::new();
        let forms = |label: &str, edits| {
            let (mut count, form) = (0, Form::of(label));
            form.shortened(edits, &hasher, &mut |_| count += 1);
            assert!(count <= form.forms(edits), "{label}");
            count
        };
        assert_eq!(forms("person 012345", Edits::OneOrTwo), 1 + 1 + 6);
        assert_eq!(
            forms(&"q".repeat(32), Edits::OneOrTwo),
            2 + 32 + 31 * 32 / 2
        );
        assert_eq!(forms(&"q".repeat(32), Edits::One), 2 + 32);
        assert_eq!(forms(&"q".repeat(512), Edits::OneOrTwo), 2 + 512);
        let endless = "q".repeat(513);
        assert_eq!(forms(&endless, Edits::OneOrTwo), 1);
        assert_eq!(likeness(&endless, &endless.replacen('q', "w", 1)), None);
        // Long words that have many shortened forms, more than memory allows.
        let long: Vec<String> = (0..40_000)
            .map(|n| format!("{n} {}", "q".repeat(30)))
            .collect();
        let long: Vec<Labelled<'_>> = long
            .iter()
            .map(|label| Labelled {
                label,
                enrolled: false,
                form: Form::of(label),
            })
            .collect();
        assert_eq!(Edits::affordable(&long), Some(Edits::One));
        assert_eq!(Edits::affordable(&long[..1_000]), Some(Edits::OneOrTwo));
        let labels: Vec<String> = (0..100_000).map(|n| format!("person {n}")).collect();
        let (strange, enrolled) = labels.split_at(50_000);
        let strange = strange.iter().map(String::as_str).chain(["Person 99999"]);
        let found = alike(strange, enrolled.iter().map(String::as_str));
        assert_eq!(found.len(), 1);
    }
}
