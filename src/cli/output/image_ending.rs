//! The name that a kept image is written under.

/// What files of such a beginning are called.
pub(crate) fn ending(image: &[u8]) -> &'static str {
    match image {
        [0xff, 0xd8, ..] => "jpg",
        [0x89, b'P', b'N', b'G', ..] => "png",
        [b'R', b'I', b'F', b'F', ..] => "webp",
        [b'G', b'I', b'F', ..] => "gif",
        [b'B', b'M', ..] => "bmp",
        _ => "bin",
    }
}
