//! `.fvecs`: each row is its dimension as a 32-bit integer, then as many 32-bit floats, all
//! little-endian (<http://corpus-texmex.irisa.fr/>).

use std::io::Read;

use super::error::ArraysError;
use super::input::ArrayInput;

/// The dimension and the values, row after row.
pub(super) fn read(
    reader: &mut impl Read,
    input: &ArrayInput<'_>,
) -> Result<(usize, Vec<f32>), ArraysError> {
    let mut head = [0; 4];
    let mut vectors = Vec::new();
    let mut line = Vec::new();
    let (mut rows, mut dimension) = (0, 0);
    for row in 0.. {
        if 0 < row && row == rows {
            break;
        }
        reader
            .read_exact(&mut head)
            .map_err(|e| input.unreadable(e))?;
        let stated = u32::from_le_bytes(head);
        if row == 0 {
            dimension = input.shape(1, u64::from(stated))?;
            let stride = 4 * (u64::from(stated) + 1);
            if !input.bytes.is_multiple_of(stride) {
                let bytes = input.bytes;
                return Err(input.damaged(format!(
                    "its {bytes} bytes are not a whole number of rows of {stated} values"
                )));
            }
            rows = input.bytes / stride;
            vectors = input.reserve(rows * u64::from(stated))?;
            line = vec![0; 4 * dimension];
        } else if usize::try_from(stated) != Ok(dimension) {
            return Err(ArraysError::Row {
                place: input.place.to_owned(),
                row,
                what: format!(
                    "it states {stated} values where row 0 has {dimension}; write rows of one length"
                ),
            });
        }
        reader
            .read_exact(&mut line)
            .map_err(|e| input.unreadable(e))?;
        let (values, _) = line.as_chunks();
        vectors.extend(values.iter().map(|value| f32::from_le_bytes(*value)));
    }
    Ok((dimension, vectors))
}
