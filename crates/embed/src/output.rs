//! The table `[output]` of a manifest, and the part of the model's output that is the embedding.

use super::toml_table::{TomlTable, choose, spelling, tensor_name, whole, words};

/// The highest dimension, sixteen times the widest embedding in common use.
const DIMENSION_MAX: u32 = 65_536;

/// How the output tensor is converted to an embedding.
pub(super) struct EmbeddingOutput {
    pub(super) name: String,
    pub(super) take: EmbeddingPart,
    pub(super) dimension: usize,
}

/// The part of the output that is the embedding.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum EmbeddingPart {
    /// All of `[batch, d]`.
    Vector,
    /// The first token of `[batch, tokens, d]`.
    FirstToken,
    /// The last token.
    LastToken,
    /// The token with this index.
    Token(usize),
    /// The mean of the tokens of `[batch, tokens, d]`, without this many at the start.
    MeanOfTokens { skip: usize },
}

/// `token` and `mean_of_tokens` need an additional number.
const TAKES: [(&str, EmbeddingPart); 5] = [
    ("vector", EmbeddingPart::Vector),
    ("first_token", EmbeddingPart::FirstToken),
    ("last_token", EmbeddingPart::LastToken),
    ("token", EmbeddingPart::Token(0)),
    ("mean_of_tokens", EmbeddingPart::MeanOfTokens { skip: 0 }),
];

/// The highest number of tokens, ten times that of the largest image model in common use.
const TOKENS_MAX: u32 = 65_536;

/// Reads the table.
pub(super) fn read_output(mut table: TomlTable<'_>) -> Option<EmbeddingOutput> {
    let name = table.required("name", "a text that is not empty", tensor_name);
    let take = table.optional("take", &words(&TAKES), |value| choose(&TAKES, value));
    let take = match take.unwrap_or(EmbeddingPart::Vector) {
        EmbeddingPart::Token(_) => {
            let allowed = format!("the token's number, from 0 to {}", TOKENS_MAX - 1);
            let number =
                table.required("token", &allowed, |value| whole(value, 0..=TOKENS_MAX - 1));
            number.and_then(|number| Some(EmbeddingPart::Token(usize::try_from(number).ok()?)))
        }
        EmbeddingPart::MeanOfTokens { .. } => {
            let allowed = format!(
                "how many tokens at the beginning have no part in the mean, from 0 to {TOKENS_MAX}"
            );
            let skip = table.optional("skip_tokens", &allowed, |value| {
                whole(value, 0..=TOKENS_MAX)
            });
            let skip = usize::try_from(skip.unwrap_or(0)).ok();
            skip.map(|skip| EmbeddingPart::MeanOfTokens { skip })
        }
        take @ (EmbeddingPart::Vector | EmbeddingPart::FirstToken | EmbeddingPart::LastToken) => {
            Some(take)
        }
    };
    let allowed = format!("a whole number from 1 to {DIMENSION_MAX}");
    let dimension = table.required("dimension", &allowed, |value| {
        whole(value, 1..=DIMENSION_MAX)
    });
    table.required("normalise", "\"l2\"", |value| {
        (value.as_str()? == "l2").then_some(())
    });
    table.finish();
    Some(EmbeddingOutput {
        name: name?,
        take: take?,
        dimension: usize::try_from(dimension?).ok()?,
    })
}

/// The part in the form that the fingerprint uses.
pub(super) fn take_text(take: EmbeddingPart) -> String {
    match take {
        EmbeddingPart::Token(number) => format!("token {number}"),
        EmbeddingPart::MeanOfTokens { skip } if 0 < skip => format!("mean_of_tokens from {skip}"),
        EmbeddingPart::Vector
        | EmbeddingPart::FirstToken
        | EmbeddingPart::LastToken
        | EmbeddingPart::MeanOfTokens { .. } => spelling(&TAKES, take).to_owned(),
    }
}

/// The values of the embedding within those of the output; `None` if their number does not fit.
pub(super) fn take(take: EmbeddingPart, dimension: usize, values: &[f32]) -> Option<Vec<f32>> {
    match take {
        EmbeddingPart::Vector => (values.len() == dimension).then(|| values.to_vec()),
        EmbeddingPart::FirstToken => token(dimension, values, 0),
        EmbeddingPart::Token(number) => token(dimension, values, number),
        EmbeddingPart::LastToken => {
            let count = values.len() / dimension;
            token(dimension, values, count.checked_sub(1)?)
        }
        EmbeddingPart::MeanOfTokens { skip } => {
            let whole = values.len().is_multiple_of(dimension);
            let tokens = values.chunks_exact(dimension).skip(skip);
            if tokens.len() == 0 || !whole {
                return None;
            }
            // The sum has the same direction as the mean, and an embedding only keeps the direction. In f64 the
            // sum cannot overflow.
            #[expect(
                clippy::cast_precision_loss,
                reason = "a model has far fewer than 2^52 tokens"
            )]
            let count = tokens.len() as f64;
            let mut sums = vec![0.0_f64; dimension];
            for token in tokens {
                for (sum, value) in sums.iter_mut().zip(token) {
                    *sum += f64::from(*value);
                }
            }
            #[expect(
                clippy::cast_possible_truncation,
                reason = "rounded to the model's precision"
            )]
            Some(sums.into_iter().map(|sum| (sum / count) as f32).collect())
        }
    }
}

/// The token with this index.
fn token(dimension: usize, values: &[f32], number: usize) -> Option<Vec<f32>> {
    let whole = values.len().is_multiple_of(dimension);
    let mut tokens = values.chunks_exact(dimension);
    tokens.nth(number).filter(|_| whole).map(<[f32]>::to_vec)
}

/// Whether a shape can be that of an output; -1 is a length that the model leaves open. After the batch axis, a
/// vector has one axis with its length, and possibly further ones of length 1, as pooling leaves them.
pub(super) fn axes_fit(take: EmbeddingPart, dimension: usize, shape: &[i64]) -> bool {
    let Ok(width) = i64::try_from(dimension) else {
        return false;
    };
    let Some((_batch, axes)) = shape.split_first() else {
        return false;
    };
    let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let enough = |least: i64| {
        matches!(axes, [tokens, last] if (*tokens == -1 || least <= *tokens)
            && (*last == -1 || *last == width))
    };
    match take {
        EmbeddingPart::Vector => {
            let others = axes.iter().filter(|length| **length != 1);
            let known = others.clone().filter(|length| **length != -1);
            let open = others.count() - known.clone().count();
            let known: Vec<&i64> = known.collect();
            match known.as_slice() {
                [] => !axes.is_empty() && (0 < open || width == 1),
                [only] => **only == width,
                _ => false,
            }
        }
        EmbeddingPart::FirstToken | EmbeddingPart::LastToken => enough(1),
        EmbeddingPart::Token(at) => enough(number(at) + 1),
        EmbeddingPart::MeanOfTokens { skip } => enough(number(skip) + 1),
    }
}

/// The shape of one image's output, for messages.
pub(super) fn shape_text(take: EmbeddingPart, dimension: usize) -> String {
    match take {
        EmbeddingPart::Vector => format!("[1, {dimension}]"),
        EmbeddingPart::FirstToken | EmbeddingPart::LastToken => format!("[1, tokens, {dimension}]"),
        EmbeddingPart::Token(number) => {
            format!("[1, tokens, {dimension}] with more than {number} tokens")
        }
        EmbeddingPart::MeanOfTokens { skip: 0 } => format!("[1, tokens, {dimension}]"),
        EmbeddingPart::MeanOfTokens { skip } => {
            format!("[1, tokens, {dimension}] with more than {skip} tokens")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedding_is_the_part_of_the_output_that_the_manifest_names() {
        let tokens = [1.0, 2.0, 3.0, 4.0, 8.0, 9.0];
        let two = |way| take(way, 2, &tokens);
        assert_eq!(
            take(EmbeddingPart::Vector, 6, &tokens),
            Some(tokens.to_vec())
        );
        assert_eq!(two(EmbeddingPart::FirstToken), Some(vec![1.0, 2.0]));
        assert_eq!(two(EmbeddingPart::Token(1)), Some(vec![3.0, 4.0]));
        assert_eq!(two(EmbeddingPart::LastToken), Some(vec![8.0, 9.0]));
        assert_eq!(
            two(EmbeddingPart::MeanOfTokens { skip: 0 }),
            Some(vec![4.0, 5.0])
        );
        assert_eq!(
            two(EmbeddingPart::MeanOfTokens { skip: 1 }),
            Some(vec![5.5, 6.5])
        );
        assert_eq!(two(EmbeddingPart::Token(3)), None);
        assert_eq!(two(EmbeddingPart::MeanOfTokens { skip: 3 }), None);
    }

    #[test]
    fn an_output_of_another_length_is_no_embedding() {
        for way in [
            EmbeddingPart::Vector,
            EmbeddingPart::FirstToken,
            EmbeddingPart::LastToken,
            EmbeddingPart::Token(0),
            EmbeddingPart::MeanOfTokens { skip: 0 },
        ] {
            assert_eq!(take(way, 3, &[1.0, 2.0, 3.0, 4.0]), None);
            assert_eq!(take(way, 3, &[]), None);
        }
    }

    #[test]
    fn a_vector_may_have_axes_of_one_and_nothing_else_beside_its_own() {
        let vector = |shape: &[i64]| axes_fit(EmbeddingPart::Vector, 8, shape);
        for shape in [
            &[1, 8][..],
            &[-1, 8],
            &[4, 8, 1, 1],
            &[-1, 1, 1, 8],
            &[1, -1, 1, 1],
            &[1, -1],
        ] {
            assert!(vector(shape), "{shape:?}");
        }
        for shape in [
            &[8][..],
            &[],
            &[1, 4],
            &[1, 8, 8],
            &[1, 2, 4],
            &[1, 8, 2, 1],
            &[1, 1],
        ] {
            assert!(!vector(shape), "{shape:?}");
        }
        assert!(axes_fit(EmbeddingPart::Token(2), 8, &[1, 3, 8]));
        assert!(!axes_fit(EmbeddingPart::Token(3), 8, &[1, 3, 8]));
        assert!(!axes_fit(EmbeddingPart::FirstToken, 8, &[1, 8]));
    }
}
