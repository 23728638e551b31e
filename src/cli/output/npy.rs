//! Writes vectors as a `.npy` file, for numpy and for `--embeddings`.

use std::io::{self, Write};

/// Bytes before the header's text.
const BEFORE: usize = 10;

/// Writes rows of f32, `dimension` in each, as numpy's format 1.0.
pub(crate) fn write(
    to: &mut impl Write,
    dimension: usize,
    rows: &[impl AsRef<[f32]>],
) -> io::Result<()> {
    let shape = format!("({}, {dimension})", rows.len());
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    // The header ends with a line feed, and its length is a multiple of 64 bytes.
    while !(BEFORE + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let length = u16::try_from(header.len()).map_err(io::Error::other)?;
    to.write_all(b"\x93NUMPY\x01\x00")?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(header.as_bytes())?;
    for row in rows {
        let bytes: Vec<u8> = row.as_ref().iter().flat_map(|v| v.to_le_bytes()).collect();
        to.write_all(&bytes)?;
    }
    to.flush()
}

#[cfg(test)]
mod tests {
    use matchpoint_arrays::ReadOptions;

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        let rows = [vec![1.0, -2.5, 3.0], vec![0.0, 1e-30, f32::MAX]];
        let mut file = std::fs::File::create(&path).unwrap();
        super::write(&mut file, 3, &rows).unwrap();
        let options = ReadOptions {
            name: None,
            text: None,
            bytes_max: 1 << 20,
        };
        let table = matchpoint_arrays::read(&path, &options).unwrap();
        assert_eq!((table.dimension, table.vectors), (3, rows.concat()));
    }
}
