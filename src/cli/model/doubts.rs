//! Signs that a model's output is not an embedding.

use matchpoint_embed::embedder::Embedded;
use matchpoint_vector::Similarity;

/// With fewer components, labels can hardly be distinguished.
const DIMENSION_MIN: usize = 16;
/// Unrelated pictures are never this similar.
const ALIKE: f32 = 0.99;
/// The sides of the generated pictures.
const SIDE: u16 = 96;

/// A generated picture: the colour at a place.
type Drawing = fn(u16, u16) -> [u8; 3];

/// Eight unrelated pictures, as BMP files.
pub(super) fn unlike_pictures() -> Vec<Vec<u8>> {
    let drawings: [Drawing; 8] = [
        |x, _| [byte(x * 2), 40, 60],
        |_, y| [30, byte(y * 2), byte(190 - y)],
        |x, y| {
            [if (x / 12 + y / 12).is_multiple_of(2) {
                240
            } else {
                10
            }; 3]
        },
        |x, y| {
            let mixed = u32::from(x) * 7_919 + u32::from(y) * 104_729;
            let [_, a, b, c] = mixed.wrapping_mul(2_654_435_761).to_be_bytes();
            [a, b, c]
        },
        |x, y| {
            let far = x.abs_diff(48).pow(2) + y.abs_diff(48).pow(2);
            if far < 900 {
                [200, 20, 20]
            } else {
                [250, 250, 245]
            }
        },
        |x, y| [byte((x + y) % 32 * 8), 200, 30],
        |x, y| {
            let far = x.abs_diff(20).pow(2) + y.abs_diff(70).pow(2);
            [20, byte(far / 40), byte(255 - far / 60)]
        },
        |_, y| {
            if y % 24 < 8 {
                [250, 240, 0]
            } else {
                [60, 0, 120]
            }
        },
    ];
    drawings.into_iter().map(bmp).collect()
}

fn byte(level: u16) -> u8 {
    u8::try_from(level).unwrap_or(u8::MAX)
}

/// A Windows bitmap of 24 bits; its rows are a multiple of four bytes.
fn bmp(drawing: Drawing) -> Vec<u8> {
    let side = u32::from(SIDE);
    let bytes = 3 * side * side;
    let mut file = b"BM".to_vec();
    for word in [
        54 + bytes,
        0,
        54,
        40,
        side,
        side,
        24 << 16 | 1,
        0,
        bytes,
        2835,
        2835,
        0,
        0,
    ] {
        file.extend(word.to_le_bytes());
    }
    for y in (0..SIDE).rev() {
        for x in 0..SIDE {
            let [r, g, b] = drawing(x, y);
            file.extend([b, g, r]);
        }
    }
    file
}

/// What is doubtful about the embeddings of unrelated pictures.
pub(super) fn of(dimension: usize, embedded: &[Embedded]) -> Vec<String> {
    let mut doubts = Vec::new();
    if dimension < DIMENSION_MIN {
        doubts.push(format!(
            "the output has {dimension} components: that is a classifier's, or too few to tell labels \
             apart; name the layer before it with --output"
        ));
    }
    if 2 <= embedded.len() && embedded.iter().all(is_distribution) {
        doubts.push(
            "the output is a distribution over classes (no component is negative, and they sum to \
             1), as a softmax gives it: name the layer before the classifier with --output"
                .to_owned(),
        );
    }
    let pairs = embedded.iter().enumerate().flat_map(|(at, one)| {
        let others = embedded.iter().skip(at + 1);
        others.filter_map(|other| {
            Similarity::between(one.embedding.as_slice(), other.embedding.as_slice())
        })
    });
    let least = pairs.min().map(Similarity::get);
    if let Some(least) = least.filter(|least| ALIKE < *least) {
        doubts.push(format!(
            "{} pictures that have nothing in common have cosines of {least:.4} or more to each other: \
             scores can hardly tell labels apart; is the preprocessing right, and the output an \
             embedding?",
            embedded.len()
        ));
    }
    doubts
}

/// Whether the model's own numbers, before they were scaled to unit length, sum to 1 and none is
/// negative.
fn is_distribution(embedded: &Embedded) -> bool {
    let values = embedded.embedding.as_slice();
    let sum: f64 = values.iter().copied().map(f64::from).sum();
    let negative = values.iter().any(|value| *value < -1e-6);
    !negative && 2 <= values.len() && (sum * embedded.norm - 1.0).abs() < 1e-3
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use matchpoint_embed::pixels::{Format, ImageLimits, ImageMeasures, Pixels};
    use matchpoint_vector::Embedding;

    fn embedded(values: &[f32]) -> Embedded {
        let (embedding, norm) = Embedding::with_length(values.to_vec()).unwrap();
        Embedded {
            embedding,
            norm,
            measures: ImageMeasures {
                format: Format::Jpeg,
                longest_side: 1,
                brightness: 0.0,
                sharpness: 0.0,
            },
            decode: Duration::ZERO,
            inference: Duration::ZERO,
        }
    }

    #[test]
    fn the_pictures_can_be_decoded_and_differ() {
        let limits = ImageLimits {
            bytes_max: 1 << 20,
            decode_bytes_max: 1 << 24,
        };
        let pictures = unlike_pictures();
        let decode = |file: &Vec<u8>| Pixels::decode(file, &limits, [0; 3]).unwrap();
        let decoded: Vec<Pixels> = pictures.iter().map(decode).collect();
        assert_eq!(decoded.len(), 8);
        for (at, one) in decoded.iter().enumerate() {
            assert!(decoded[at + 1..].iter().all(|other| other != one), "{at}");
        }
    }

    #[test]
    fn a_softmax_few_components_and_embeddings_that_are_all_alike_are_doubtful() {
        let softmax = [[0.9, 0.05, 0.05], [0.2, 0.3, 0.5]].map(|row| embedded(&row));
        let found = of(3, &softmax).join("\n");
        assert!(
            found.contains("3 components") && found.contains("softmax"),
            "{found}"
        );
        assert!(!found.contains("nothing in common"), "{found}");

        let mut rows = vec![vec![10.0_f32; 32]; 8];
        for (at, row) in rows.iter_mut().enumerate() {
            row[at] = 10.5;
        }
        let alike: Vec<Embedded> = rows.iter().map(|row| embedded(row)).collect();
        let found = of(32, &alike);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("nothing in common"), "{found:?}");
    }

    #[test]
    fn an_embedding_as_it_should_be_is_not_doubtful() {
        let rows: Vec<Embedded> = (0..8)
            .map(|at| {
                let mut row = vec![0.1_f32; 32];
                row[at] = -3.0;
                embedded(&row)
            })
            .collect();
        assert_eq!(of(32, &rows), Vec::<String>::new());
    }
}
