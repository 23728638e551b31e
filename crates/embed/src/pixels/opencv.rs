//! `cv2.resize` for images of 8 bits, in its order of operations and with its rounding.
//!
//! The linear, the Lanczos and the area interpolation give exactly `OpenCV`'s bytes. The cubic one differs by
//! one grey level in some pixels. `OpenCV` itself uses integers, floating point or another library, depending
//! on the CPU, and these differ too.

use super::window::ResizeAxis;
use super::{OpenCv, Pixels};

/// Red, green, blue.
const CHANNELS: usize = 3;
/// Number of fractional bits of a weight.
const WEIGHT_BITS: u32 = 11;
/// A weight of one.
const ONE: f32 = 2048.0;

/// The selected part of the image, at the size that the axes state.
pub(super) fn resize(
    pixels: &Pixels,
    across: &ResizeAxis,
    down: &ResizeAxis,
    way: OpenCv,
) -> Pixels {
    let (columns, rows) = (OpencvAxis::of(across), OpencvAxis::of(down));
    let shrinks = 1.0 <= columns.scale && 1.0 <= rows.scale;
    let whole = columns.whole().zip(rows.whole());
    let rgb = match way {
        // For the linear interpolation at a half, OpenCV takes the mean of four pixels.
        OpenCv::Linear if shrinks && whole == Some((2, 2)) => {
            means(pixels, &columns, &rows, (2, 2))
        }
        OpenCv::Linear => taken(pixels, &columns.linear(true), &rows.linear(false), linear),
        OpenCv::Cubic => taken(pixels, &columns.cubic(), &rows.cubic(), rounded),
        OpenCv::Lanczos4 => taken(pixels, &columns.lanczos(), &rows.lanczos(), rounded),
        OpenCv::Area => match whole {
            Some(each) if shrinks => means(pixels, &columns, &rows, each),
            _ if shrinks => area(pixels, &columns.cover(), &rows.cover()),
            _ => taken(pixels, &columns.stretch(), &rows.stretch(), linear),
        },
    };
    Pixels {
        width: across.outputs,
        height: down.outputs,
        rgb,
    }
}

/// One side of the image: how its outputs are computed from the source.
struct OpencvAxis {
    source: usize,
    first: usize,
    outputs: usize,
    /// Number of outputs for one pixel of the source.
    inverse: f64,
    /// Number of pixels of the source for one output.
    scale: f64,
}

/// The source pixels of one output, and the weight of each.
struct Taps<W> {
    sources: Vec<usize>,
    weights: Vec<W>,
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "lengths of sides, far below 2^52, cut off and rounded to f32 where OpenCV does"
)]
impl OpencvAxis {
    fn of(axis: &ResizeAxis) -> Self {
        let source = f64::from(axis.source);
        let inverse = axis.scaled / source;
        Self {
            source: axis.source as usize,
            first: axis.first as usize,
            outputs: axis.outputs as usize,
            inverse,
            scale: 1.0 / inverse,
        }
    }

    /// The number of source pixels for one output, if it is an integer.
    fn whole(&self) -> Option<usize> {
        let nearest = self.scale.round_ties_even();
        ((self.scale - nearest).abs() < f64::EPSILON).then_some(nearest as usize)
    }

    fn places(&self) -> impl Iterator<Item = usize> {
        self.first..self.first + self.outputs
    }

    /// The pixel left of an output's centre, and how far to the right of it the centre is.
    fn centre(&self, output: usize) -> (i64, f32) {
        let place = ((output as f64 + 0.5) * self.scale - 0.5) as f32;
        let left = place.floor();
        (left as i64, place - left)
    }

    /// Weights of adjacent pixels, of which the first is `before` pixels left of the one at the left of the
    /// centre.
    fn taps(&self, left: i64, before: i64, weights: &[f32]) -> Taps<i32> {
        let last = self.source as i64 - 1;
        let source = |place: i64| (left - before + place).clamp(0, last) as usize;
        Taps {
            sources: (0..weights.len() as i64).map(source).collect(),
            weights: weights.iter().map(|weight| fixed_point(*weight)).collect(),
        }
    }

    /// Along rows the weights at an edge are one and zero. Along columns both weights stay, for the same pixel.
    fn linear(&self, edges: bool) -> Vec<Taps<i32>> {
        let one = |output| {
            let (mut left, mut right) = self.centre(output);
            if edges && left < 0 {
                (left, right) = (0, 0.0);
            }
            if edges && self.source as i64 <= left + 1 {
                (left, right) = (self.source as i64 - 1, 0.0);
            }
            self.taps(left, 0, &[1.0 - right, right])
        };
        self.places().map(one).collect()
    }

    /// How `INTER_AREA` enlarges an image: edges between pixels stay sharp.
    fn stretch(&self) -> Vec<Taps<i32>> {
        let one = |output: usize| {
            let mut left = (output as f64 * self.scale).floor() as i64;
            let beyond = (output as f64 + 1.0) - (left as f64 + 1.0) * self.inverse;
            let mut right = beyond as f32;
            right = if right <= 0.0 {
                0.0
            } else {
                right - right.floor()
            };
            if self.source as i64 <= left + 1 {
                (left, right) = (self.source as i64 - 1, 0.0);
            }
            self.taps(left, 0, &[1.0 - right, right])
        };
        self.places().map(one).collect()
    }

    fn cubic(&self) -> Vec<Taps<i32>> {
        const A: f32 = -0.75;
        let one = |output| {
            let (left, x) = self.centre(output);
            let (after, before) = (1.0 - x, x + 1.0);
            let outer = ((A * before - 5.0 * A) * before + 8.0 * A) * before - 4.0 * A;
            let inner = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
            let (second, third) = (inner(x), inner(after));
            let weights = [outer, second, third, 1.0 - outer - second - third];
            self.taps(left, 1, &weights)
        };
        self.places().map(one).collect()
    }

    fn lanczos(&self) -> Vec<Taps<i32>> {
        let one = |output| {
            let (left, x) = self.centre(output);
            self.taps(left, 3, &lanczos4(x))
        };
        self.places().map(one).collect()
    }

    /// The pixels that each output covers, with the share of each.
    fn cover(&self) -> Vec<Taps<f32>> {
        // A part that is narrower than this is ignored.
        const SLIVER: f64 = 1e-3;
        let one = |output: usize| {
            let start = output as f64 * self.scale;
            let end = start + self.scale;
            let width = self.scale.min(self.source as f64 - start);
            let last = end.floor().min(self.source as f64 - 1.0);
            let first = start.ceil().min(last);
            let mut taps = Taps {
                sources: Vec::new(),
                weights: Vec::new(),
            };
            let mut add = |source: f64, share: f64| {
                taps.sources.push(source as usize);
                taps.weights.push(share as f32);
            };
            if SLIVER < first - start {
                add(first - 1.0, (first - start) / width);
            }
            for source in first as usize..last as usize {
                add(source as f64, 1.0 / width);
            }
            if SLIVER < end - last {
                add(last, (end - last).min(1.0).min(width) / width);
            }
            taps
        };
        self.places().map(one).collect()
    }
}

/// The eight weights, starting with the pixel three to the left of the one at the left.
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounded to f32 where OpenCV does"
)]
fn lanczos4(x: f32) -> [f32; 8] {
    use std::f64::consts::{FRAC_1_SQRT_2, FRAC_PI_4};
    const TURNS: [(f64, f64); 8] = [
        (1.0, 0.0),
        (-FRAC_1_SQRT_2, -FRAC_1_SQRT_2),
        (0.0, 1.0),
        (FRAC_1_SQRT_2, -FRAC_1_SQRT_2),
        (-1.0, 0.0),
        (FRAC_1_SQRT_2, FRAC_1_SQRT_2),
        (0.0, -1.0),
        (-FRAC_1_SQRT_2, FRAC_1_SQRT_2),
    ];
    let angle = -(f64::from(x) + 3.0) * FRAC_PI_4;
    let (sine, cosine) = (angle.sin(), angle.cos());
    let (mut place, mut sum) = (0.0_f32, 0.0_f32);
    let mut weights = TURNS.map(|(by_sine, by_cosine)| {
        let distance = x + 3.0 - place;
        place += 1.0;
        let angle = -f64::from(distance) * FRAC_PI_4;
        let weight = if distance.abs() < 1e-6 {
            // So large that the other weights are negligible.
            1e30
        } else {
            ((by_sine * sine + by_cosine * cosine) / (angle * angle)) as f32
        };
        sum += weight;
        weight
    });
    let share = 1.0 / sum;
    weights.iter_mut().for_each(|weight| *weight *= share);
    weights
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a weight is a few units at most"
)]
fn fixed_point(weight: f32) -> i32 {
    (weight * ONE).round_ties_even() as i32
}

/// Weighs pixels in integers: first the rows, each when it is needed, and then the columns.
fn taken(
    pixels: &Pixels,
    columns: &[Taps<i32>],
    rows: &[Taps<i32>],
    join: fn(&[(i32, i32)]) -> u8,
) -> Vec<u8> {
    let width = CHANNELS * columns.len();
    let reach = rows.iter().map(|row| row.sources.len()).max().unwrap_or(1);
    // The rows of one output are adjacent in the source, so none replaces another that is still needed.
    let mut kept: Vec<(Option<usize>, Vec<i32>)> = vec![(None, vec![0; width]); reach];
    let mut rgb = Vec::with_capacity(width * rows.len());
    let mut weighed = vec![(0, 0); reach];
    for row in rows {
        for source in &row.sources {
            let Some((known, sums)) = kept.get_mut(source % reach) else {
                continue;
            };
            if *known != Some(*source) {
                weigh_row(row_of(pixels, *source), columns, sums);
                *known = Some(*source);
            }
        }
        for place in 0..width {
            let each = row.sources.iter().zip(&row.weights);
            for (slot, (source, weight)) in weighed.iter_mut().zip(each) {
                let sums = kept.get(source % reach).map(|(_, sums)| sums);
                *slot = (
                    sums.and_then(|sums| sums.get(place)).copied().unwrap_or(0),
                    *weight,
                );
            }
            rgb.push(join(&weighed));
        }
    }
    rgb
}

fn row_of(pixels: &Pixels, row: usize) -> &[[u8; CHANNELS]] {
    let width = pixels.width as usize;
    let (triples, _) = pixels.rgb.as_chunks();
    triples
        .get(row * width..(row + 1) * width)
        .unwrap_or_default()
}

fn weigh_row(source: &[[u8; CHANNELS]], columns: &[Taps<i32>], sums: &mut [i32]) {
    let (targets, _) = sums.as_chunks_mut::<CHANNELS>();
    for (target, column) in targets.iter_mut().zip(columns) {
        *target = [0; CHANNELS];
        for (place, weight) in column.sources.iter().zip(&column.weights) {
            let pixel = source.get(*place).copied().unwrap_or_default();
            for (sum, level) in target.iter_mut().zip(pixel) {
                *sum += i32::from(level) * weight;
            }
        }
    }
}

/// The rounding of the linear interpolation, which drops bits in intermediate steps.
fn linear(weighed: &[(i32, i32)]) -> u8 {
    let sum: i32 = weighed
        .iter()
        .map(|(sum, weight)| (weight * (sum >> 4)) >> 16)
        .sum();
    to_byte((sum + 2) >> 2)
}

fn rounded(weighed: &[(i32, i32)]) -> u8 {
    let product = |(sum, weight): &(i32, i32)| i64::from(*sum) * i64::from(*weight);
    let sum: i64 = weighed.iter().map(product).sum();
    let level = (sum + (1 << (2 * WEIGHT_BITS - 1))) >> (2 * WEIGHT_BITS);
    to_byte(i32::try_from(level).unwrap_or(0))
}

fn to_byte(level: i32) -> u8 {
    #[expect(clippy::cast_sign_loss, reason = "clamped to a byte")]
    {
        level.clamp(0, 255) as u8
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to a byte"
)]
fn level(value: f32) -> u8 {
    value.round_ties_even().clamp(0.0, 255.0) as u8
}

/// The mean of rectangles of whole pixels.
#[expect(
    clippy::cast_precision_loss,
    reason = "the sum of a rectangle's bytes is rounded to f32 as OpenCV does it"
)]
fn means(
    pixels: &Pixels,
    columns: &OpencvAxis,
    rows: &OpencvAxis,
    (across, down): (usize, usize),
) -> Vec<u8> {
    let share = 1.0 / (across * down) as f32;
    let mut rgb = Vec::with_capacity(CHANNELS * columns.outputs * rows.outputs);
    let mut sums = vec![[0_u64; CHANNELS]; columns.outputs];
    for row in rows.places() {
        sums.fill([0; CHANNELS]);
        for source in row * down..(row + 1) * down {
            let source = row_of(pixels, source);
            let cells = source.chunks(across).skip(columns.first);
            for (sum, cell) in sums.iter_mut().zip(cells) {
                for pixel in cell {
                    for (sum, level) in sum.iter_mut().zip(pixel) {
                        *sum += u64::from(*level);
                    }
                }
            }
        }
        for sum in sums.iter().flatten() {
            rgb.push(if (across, down) == (2, 2) {
                // Halves are rounded up here, and to the even number everywhere else.
                to_byte(i32::try_from((sum + 2) >> 2).unwrap_or(255))
            } else {
                level(*sum as f32 * share)
            });
        }
    }
    rgb
}

/// The mean of rectangles that contain parts of pixels.
fn area(pixels: &Pixels, columns: &[Taps<f32>], rows: &[Taps<f32>]) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(CHANNELS * columns.len() * rows.len());
    let mut sums = vec![[0.0_f32; CHANNELS]; columns.len()];
    for row in rows {
        sums.fill([0.0; CHANNELS]);
        for (source, share) in row.sources.iter().zip(&row.weights) {
            let source = row_of(pixels, *source);
            for (sum, column) in sums.iter_mut().zip(columns) {
                let mean = mean(source, column);
                for (sum, level) in sum.iter_mut().zip(mean) {
                    *sum += share * level;
                }
            }
        }
        rgb.extend(sums.iter().flatten().map(|sum| level(*sum)));
    }
    rgb
}

fn mean(source: &[[u8; CHANNELS]], column: &Taps<f32>) -> [f32; CHANNELS] {
    let mut sums = [0.0_f32; CHANNELS];
    for (place, share) in column.sources.iter().zip(&column.weights) {
        let pixel = source.get(*place).copied().unwrap_or_default();
        for (sum, level) in sums.iter_mut().zip(pixel) {
            *sum += f32::from(level) * share;
        }
    }
    sums
}
