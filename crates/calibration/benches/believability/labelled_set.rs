//! A labelled set, read once, with how near each query is to each label.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use matchpoint_arrays::{Columns, Delimited, Role};
use matchpoint_calibration::monitoring::traffic::PictureFacts;
use matchpoint_vector::Similarity;
use rayon::prelude::*;

use super::labelled_table;

/// Labels with their queries, and how near each query is to each label's enrolled pictures.
pub(crate) struct LabelledSet {
    pub(crate) names: Vec<String>,
    pub(crate) tested: Vec<bool>,
    pub(crate) items: Vec<u64>,
    pub(crate) of_label: Vec<Vec<usize>>,
    pub(crate) queries: Vec<SetQuery>,
    /// By query and label.
    pub(crate) nearest: Vec<Vec<f32>>,
    /// How near the first enrolled picture of a label is to each label.
    pub(crate) between: Vec<Vec<f32>>,
    pub(crate) conditions: BTreeSet<String>,
}

pub(crate) struct SetQuery {
    pub(crate) vector: Arc<[f32]>,
    pub(crate) condition: String,
    /// What was measured of its picture, if that is known.
    pub(crate) picture: Option<PictureFacts>,
    pub(crate) feature_length: Option<f64>,
}

impl LabelledSet {
    pub(crate) fn read(
        vectors: &Path,
        labels: &Path,
        condition: &str,
        kind: Option<(&str, &str)>,
    ) -> Self {
        let (rows, known) = labelled_table::read(vectors, labels);
        let measured = measured(&vectors.with_extension("csv"), rows.len());
        let roles = known.role.as_ref().unwrap();
        let names: BTreeSet<&String> = known.label.iter().collect();
        let names: Vec<String> = names.into_iter().cloned().collect();
        let mut set = Self {
            tested: vec![true; names.len()],
            items: vec![0; names.len()],
            of_label: vec![Vec::new(); names.len()],
            queries: Vec::new(),
            nearest: Vec::new(),
            between: Vec::new(),
            conditions: BTreeSet::new(),
            names,
        };
        let mut gallery: Vec<(usize, Arc<[f32]>)> = Vec::new();
        for (row, vector) in rows.into_iter().enumerate() {
            let label = set.names.binary_search(&known.label[row]).unwrap();
            if let Some((column, value)) = kind {
                set.tested[label] = known.metadata[column][row] == value;
            }
            match roles[row] {
                Role::Gallery | Role::Unused => {
                    set.items[label] += 1;
                    gallery.push((label, vector));
                }
                Role::Query | Role::Unknown => {
                    set.of_label[label].push(set.queries.len());
                    let condition = known.metadata[condition][row].clone();
                    set.conditions.insert(condition.clone());
                    let (picture, feature_length) = measured[row].unzip();
                    set.queries.push(SetQuery {
                        vector,
                        condition,
                        picture,
                        feature_length,
                    });
                }
            }
        }
        let nearest = |vector: &[f32]| {
            let mut nearest = vec![-1.0_f32; set.names.len()];
            for (label, item) in &gallery {
                let score = Similarity::between(vector, item).unwrap().get();
                if nearest[*label] < score {
                    nearest[*label] = score;
                }
            }
            nearest
        };
        let searches = set.queries.par_iter();
        set.nearest = searches.map(|query| nearest(&query.vector)).collect();
        let labels = (0..set.names.len()).into_par_iter();
        let first = |label: usize| gallery.iter().find(|(of, _)| *of == label);
        set.between = labels
            .map(|label| first(label).map_or_else(Vec::new, |(_, item)| nearest(item)))
            .collect();
        set
    }

    /// The best score of a query in a gallery of these labels.
    pub(crate) fn best(&self, query: usize, gallery: &[usize]) -> Similarity {
        let scores = gallery.iter().map(|label| self.nearest[query][*label]);
        Similarity::new(scores.fold(-1.0, |best, score| if best < score { score } else { best }))
            .unwrap()
    }

    pub(crate) fn items_of(&self, labels: &[usize]) -> u64 {
        labels.iter().map(|label| self.items[*label]).sum()
    }

    pub(crate) fn of(&self, label: usize, condition: Option<&str>) -> Vec<usize> {
        let queries = self.of_label[label].iter().copied();
        let taken =
            |query: &usize| condition.is_none_or(|only| self.queries[*query].condition == only);
        queries.filter(taken).collect()
    }
}

/// By row of the vectors: what was measured of its picture, and the length of its feature, as `matchpoint embed` lists
/// them beside the vectors. Nothing is known of a set without that list.
fn measured(list: &Path, rows: usize) -> Vec<Option<(PictureFacts, f64)>> {
    let mut found = vec![None; rows];
    if !list.exists() {
        return found;
    }
    let known = [
        "row",
        "format",
        "longest_side",
        "brightness",
        "sharpness",
        "feature_length",
    ];
    let columns = Columns {
        known: &["row"],
        required: &[&["row"]],
        aligned: false,
    };
    let table = Delimited::read(list, &columns).unwrap();
    let place = |name| {
        table
            .names()
            .iter()
            .position(|known| known == name)
            .unwrap()
    };
    let places = known.map(place);
    for row in table.rows() {
        let row = row.unwrap();
        let [number, format, longest_side, brightness, sharpness, length] =
            places.map(|place| row.cells[place].as_ref());
        let Ok(number) = number.parse::<usize>() else {
            continue;
        };
        let formats = ["JPEG", "PNG", "WebP", "GIF", "BMP"];
        let facts = PictureFacts {
            format: formats.into_iter().find(|name| *name == format).unwrap(),
            longest_side: longest_side.parse().unwrap(),
            brightness: brightness.parse().unwrap(),
            sharpness: sharpness.parse().unwrap(),
        };
        found[number] = Some((facts, length.parse().unwrap()));
    }
    found
}

/// A stream of splitmix64.
pub(crate) struct SeededDraws(pub(crate) u64);

impl SeededDraws {
    pub(crate) fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((bits ^ (bits >> 31)) % count.max(1) as u64).unwrap()
    }

    pub(crate) fn shuffle(&mut self, labels: &mut [usize]) {
        for last in (1..labels.len()).rev() {
            labels.swap(last, self.below(last + 1));
        }
    }
}
