//! Milliseconds of a resize to 224 x 224, fastest of many in turn, on one thread: ours by each instruction set, whose
//! bytes are compared, and `fast_image_resize` with AVX2.

use std::time::Instant;

use fast_image_resize::images::Image;
use fast_image_resize::{CpuExtensions, FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use matchpoint_vector::kernels::resample::{ResampleKernel, Weights};

const SIZE: u32 = 224;
const SIZES: [(u32, u32); 4] = [(320, 240), (640, 480), (1920, 1080), (4000, 3000)];

/// The weights of a bilinear filter that is as wide as the pixels of the result.
fn shares(source: u32) -> Vec<(usize, Vec<f64>)> {
    let scale = f64::from(source) / f64::from(SIZE);
    let one = |output: u32| {
        let centre = (f64::from(output) + 0.5) * scale;
        let [start, end] = [-scale, scale]
            .map(|reach| (centre + reach + 0.5).clamp(0.0, f64::from(source)).trunc());
        let at = |place: u32| (f64::from(place) + start - centre + 0.5) / scale;
        let shares = (0..(end - start) as u32).map(|place| (1.0 - at(place).abs()).max(0.0));
        let sum: f64 = shares.clone().sum();
        (start as usize, shares.map(|share| share / sum).collect())
    };
    (0..SIZE).map(one).collect()
}

/// Waves with a little noise.
fn picture(width: u32, height: u32) -> Vec<u8> {
    let mut state = 7_u32;
    let mut value = |x: u32, y: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let wave = (f64::from(x) * 0.05).sin() * 60.0 + (f64::from(y) * 0.03).cos() * 50.0;
        (wave + 128.0 + f64::from(state >> 28)) as u8
    };
    let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    places
        .flat_map(|(x, y)| [value(x, y), value(x, y), value(x, y)])
        .collect()
}

/// The fastest of `runs`, in milliseconds.
fn time(fastest: &mut f64, run: impl FnOnce()) {
    let begun = Instant::now();
    run();
    *fastest = fastest.min(begun.elapsed().as_secs_f64() * 1e3);
}

fn main() {
    println!("| picture | fast_image_resize, AVX2 | ours: ms (ratio) |\n| --- | --- | --- |");
    for (width, height) in SIZES {
        let source = picture(width, height);
        let image = Image::from_vec_u8(width, height, source.clone(), PixelType::U8x3).unwrap();
        let mut small = Image::new(SIZE, SIZE, PixelType::U8x3);
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
        let mut peer = Resizer::new();
        assert!(std::arch::is_x86_feature_detected!("avx2"));
        // Sound where AVX2 is.
        unsafe { peer.set_cpu_extensions(CpuExtensions::Avx2) };
        let row = SIZE as usize * 3;
        let (mut between, mut target) =
            (vec![0; row * height as usize], vec![0; row * SIZE as usize]);
        let (across, down) = (shares(width), shares(height));
        let kernels: Vec<ResampleKernel> = ResampleKernel::all().collect();
        let mut first: Option<Vec<u8>> = None;
        let (mut theirs, mut ours) = (f64::MAX, vec![f64::MAX; kernels.len()]);
        for _ in 0..(100_000_000 / source.len()).clamp(10, 200) {
            time(&mut theirs, || {
                peer.resize(&image, &mut small, &options).unwrap()
            });
            for (kernel, fastest) in kernels.iter().zip(&mut ours) {
                time(fastest, || {
                    kernel.across(
                        &source,
                        width as usize,
                        &Weights::new(&across),
                        &mut between,
                    );
                    kernel.down(&between, row, &Weights::new(&down), &mut target);
                });
                assert!(
                    *first.get_or_insert_with(|| target.clone()) == target,
                    "{kernel:?}"
                );
            }
        }
        let ours = kernels.iter().zip(ours);
        let ours: Vec<_> = ours
            .map(|(kernel, ms)| format!("{kernel:?} {ms:.3} ({:.2})", ms / theirs))
            .collect();
        println!("| {width}x{height} | {theirs:.3} | {} |", ours.join(", "));
    }
}
