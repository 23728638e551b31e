//! Embeddings and lists that other programs wrote: `.npy`, `.npz`, Parquet, `.fvecs` and CSV.
//!
//! The type of a file is recognised by its first bytes, whatever its name. No length that a file states is
//! used before it was checked against the bytes that follow, or against a limit. Vectors stay as they were
//! written; the caller makes embeddings of them, and refuses a row that cannot be one.
//!
//! ```
//! use matchpoint_arrays::{ReadOptions, read};
//!
//! # let folder = tempfile::tempdir()?;
//! let path = folder.path().join("two.fvecs");
//! let row = |x: f32, y: f32| [2_i32.to_le_bytes(), x.to_le_bytes(), y.to_le_bytes()].concat();
//! std::fs::write(&path, [row(3.0, 4.0), row(1.0, 0.0)].concat())?;
//! let options = ReadOptions { name: None, text: None, bytes_max: 1 << 20 };
//! let table = read(&path, &options)?;
//! assert_eq!((table.rows(), table.dimension), (2, 2));
//! // A file that is cut short is refused by its name.
//! std::fs::write(&path, &row(3.0, 4.0)[..9])?;
//! assert!(read(&path, &options).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod delimited;
mod error;
mod footer;
mod formulas;
mod fvecs;
mod input;
mod labels;
mod npy;
mod npz;
mod pages;
mod parquet;
mod table;
mod text;
mod thrift;
mod values;

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

pub use delimited::{COLUMNS_MAX, Columns, Delimited, ROW_BYTES_MAX, TableRow};
pub use error::ArraysError;
pub use formulas::guarded;
pub use input::{BYTES_MAX, DIMENSION_MAX, ReadOptions};
pub use labels::{LabelTable, Role};
pub use table::VectorTable;
pub use text::{STANDARD_INPUT, TEXT_BYTES_MAX, lines, read_list, read_text};

use input::ArrayInput;
use text::open_file;

/// Reads the embeddings of a file.
///
/// Beside the vectors themselves it takes a few megabytes, and for a Parquet file one page.
///
/// # Errors
/// Refuses a file that cannot be read, is of no known format, is damaged or holds anything but
/// one vector of floats in each row; every error names the file, what is wrong and what to do.
pub fn read(path: &Path, options: &ReadOptions) -> Result<VectorTable, ArraysError> {
    let place = path.display().to_string();
    let cannot = |source| ArraysError::Io {
        place: place.clone(),
        doing: "read",
        source,
    };
    if path.as_os_str() == STANDARD_INPUT {
        let what = "vectors are read at several places of a file; write them to one";
        return Err(cannot(std::io::Error::other(what)));
    }
    let mut file = open_file(path).map_err(cannot)?;
    let bytes = file.metadata().map_err(cannot)?.len();
    let mut magic = Vec::new();
    file.by_ref()
        .take(8)
        .read_to_end(&mut magic)
        .map_err(cannot)?;
    file.rewind().map_err(cannot)?;
    let named_fvecs = path
        .extension()
        .is_some_and(|end| end.eq_ignore_ascii_case("fvecs"));
    let input = ArrayInput {
        place: &place,
        bytes,
        options,
    };
    let (dimension, vectors) = match magic.as_slice() {
        start if start.starts_with(npy::MAGIC) => {
            input.alone()?;
            npy::read(&mut BufReader::new(file), &input)?
        }
        start if start.starts_with(b"PK") => npz::read(BufReader::new(file), &input)?,
        start if start.starts_with(b"PAR1") => return parquet::read(&file, &input),
        [] => return Err(input.damaged("it is empty")),
        // These have no signature of their own.
        _ if named_fvecs => {
            input.alone()?;
            fvecs::read(&mut BufReader::new(file), &input)?
        }
        _ => return Err(ArraysError::Unknown { place }),
    };
    Ok(VectorTable {
        dimension,
        vectors,
        columns: BTreeMap::new(),
        left_out: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;

    const ANY: ReadOptions = ReadOptions {
        name: None,
        text: None,
        bytes_max: 1 << 20,
    };

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/arrays")
            .join(name)
    }

    /// What every fixture holds; see `scripts/make_array_fixtures.py`.
    fn values() -> Vec<f32> {
        let rows = (0_u8..6).map(f32::from);
        rows.flat_map(|row| (0_u8..4).map(move |column| row + f32::from(column) / 8.0 - 2.0))
            .collect()
    }

    fn refused(name: &str) -> String {
        read(&fixture(name), &ANY).unwrap_err().to_string()
    }

    fn read_bytes(bytes: &[u8], options: &ReadOptions) -> Result<VectorTable, ArraysError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.fvecs");
        fs::write(&path, bytes).unwrap();
        read(&path, options)
    }

    /// An array of numpy's, written by hand.
    fn npy(header: &str, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
    }

    #[test]
    fn every_writer_gives_the_same_vectors() {
        for name in [
            "c_f4.npy",
            "fortran_f4.npy",
            "f2.npy",
            "fortran_big_f8.npy",
            "stored.npz",
            "deflated.npz",
            "six.fvecs",
            "fixed_snappy.parquet",
            "doubles_gzip_v2.parquet",
            "groups_zstd.parquet",
            "split_plain.parquet",
            "nulls.parquet",
            "pandas.parquet",
            "polars.parquet",
        ] {
            let table = read(&fixture(name), &ANY).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((table.rows(), table.dimension), (6, 4), "{name}");
            assert_eq!(table.vectors, values(), "{name}");
        }
    }

    #[test]
    fn text_columns_come_with_the_vectors_of_parquet() {
        for name in [
            "fixed_snappy.parquet",
            "doubles_gzip_v2.parquet",
            "groups_zstd.parquet",
            "split_plain.parquet",
            "pandas.parquet",
            "polars.parquet",
        ] {
            let table = read(&fixture(name), &ANY).unwrap();
            let column = |column: &str| table.columns[column].join(" ");
            assert_eq!(column("id"), "i0 i1 i2 i3 i4 i5", "{name}");
            assert_eq!(column("label"), "a a b b c c", "{name}");
            assert_eq!(column("number"), "-20 -10 0 10 20 30", "{name}");
            assert_eq!(column("flag"), "true false true false true false", "{name}");
            let rows = table.labels(&fixture(name)).unwrap();
            assert_eq!(rows.label, table.columns["label"]);
            assert_eq!(rows.metadata.len(), 2);
        }
    }

    #[test]
    fn a_null_text_is_empty_and_other_columns_are_named() {
        let path = fixture("nulls.parquet");
        let table = read(&path, &ANY).unwrap();
        assert_eq!(table.columns["label"], ["a", "a", "b", "", "c", "c"]);
        assert_eq!(table.left_out, ["when"]);
        let error = table.labels(&path).unwrap_err().to_string();
        assert!(
            error.contains("row 3") && error.contains("label is missing"),
            "{error}"
        );

        let ids = ReadOptions {
            text: Some(vec!["id".to_owned()]),
            ..ANY
        };
        let table = read(&path, &ids).unwrap();
        assert_eq!(table.columns.keys().collect::<Vec<_>>(), ["id"]);
        assert_eq!(table.left_out, ["label", "number", "flag", "when"]);
    }

    #[test]
    fn what_is_no_table_of_floats_is_refused_with_a_way_out() {
        for (name, wants) in [
            ("integers.npy", ["<i4", ".astype('float32')"]),
            ("flat.npy", ["(24,)", "reshape it"]),
            ("objects.npy", ["pickled", "never read"]),
            ("records.npy", ["'<i8'", ".astype('float32')"]),
            ("two.npz", ["2 arrays", "`first` <f8 (6, 4), `second`"]),
            ("brotli.parquet", ["Brotli", "snappy, zstd or gzip"]),
            ("null_row.parquet", ["row 4", "null"]),
            ("ragged.parquet", ["row 4", "3 values where row 0 has 4"]),
            ("missing.npy", ["could not read", "missing.npy"]),
        ] {
            let error = refused(name);
            assert!(wants.iter().all(|want| error.contains(want)), "{error}");
        }
        let error = read(&fixture(""), &ANY).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }

    #[test]
    fn an_array_or_a_column_is_taken_by_its_name() {
        let named = |name: &str| ReadOptions {
            name: Some(name.to_owned()),
            ..ANY
        };
        let mut backwards = values();
        backwards.reverse();
        for name in ["second", "second.npy"] {
            let table = read(&fixture("two.npz"), &named(name)).unwrap();
            let first: Vec<f32> = table.vectors.iter().take(4).copied().collect();
            assert_eq!(first, values()[20..]);
        }
        assert!(read(&fixture("polars.parquet"), &named("vector")).is_ok());
        for (file, name, want) in [
            ("two.npz", "third", "no array `third`"),
            ("stored.npz", "labels", "<i8"),
            ("polars.parquet", "vectors", "no column"),
            ("polars.parquet", "label", "0 columns"),
            ("c_f4.npy", "first", "leave the name out"),
        ] {
            let error = read(&fixture(file), &named(name)).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn headers_of_npy_are_read_strictly() {
        let good = npy(
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }  \n",
            &[0; 8],
        );
        assert_eq!(read_bytes(&good, &ANY).unwrap().vectors, [0.0, 0.0]);
        for (header, bytes, want) in [
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3)}",
                8,
                "takes 12",
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1)}",
                8,
                "takes 4",
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 2)}",
                0,
                "no rows",
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 0)}",
                0,
                "rows of 0",
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 65537)}",
                8,
                "65536",
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 1)}",
                8,
                "(1, 2, 1)",
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': ()}",
                4,
                "shape ()",
            ),
            (
                "{'descr': '|O', 'fortran_order': False, 'shape': (1, 2)}",
                8,
                "pickled",
            ),
            ("{'descr': '<f4', 'fortran_order': False}", 8, "header"),
            (
                "{'descr': '<f4', 'descr': '<f4', 'shape': (1, 2)}",
                8,
                "header",
            ),
            (
                "{'descr': '<f4', 'fortran_order': 0, 'shape': (1, 2)}",
                8,
                "header",
            ),
            (
                "{'descr': '<f8', 'fortran_order': True, 'shape': (9223372036854775807, 4)}",
                8,
                "overflows",
            ),
        ] {
            let error = read_bytes(&npy(header, &vec![0; bytes]), &ANY).unwrap_err();
            assert!(error.to_string().contains(want), "{header}: {error}");
        }
    }

    #[test]
    fn a_row_that_is_not_a_number_is_for_others_to_refuse() {
        let nan = [f32::NAN.to_le_bytes(), 1_f32.to_le_bytes()].concat();
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2)}";
        assert!(read_bytes(&npy(header, &nan), &ANY).unwrap().vectors[0].is_nan());
    }

    #[test]
    fn a_limit_holds_whatever_the_format() {
        let tight = ReadOptions {
            bytes_max: 95,
            ..ANY
        };
        for name in [
            "c_f4.npy",
            "fortran_f4.npy",
            "deflated.npz",
            "six.fvecs",
            "polars.parquet",
        ] {
            let error = read(&fixture(name), &tight).unwrap_err().to_string();
            assert!(
                error.contains("96 bytes in memory, and 95 are allowed"),
                "{error}"
            );
        }
    }

    #[test]
    fn no_file_that_was_cut_short_or_added_to_is_read() {
        for name in [
            "c_f4.npy",
            "fortran_f4.npy",
            "deflated.npz",
            "six.fvecs",
            "polars.parquet",
            "fixed_snappy.parquet",
        ] {
            let whole = fs::read(fixture(name)).unwrap();
            for length in (0..whole.len()).step_by(3) {
                // Five rows of .fvecs are as good as six.
                if name != "six.fvecs" || length % 20 != 0 || length == 0 {
                    assert!(
                        read_bytes(&whole[..length], &ANY).is_err(),
                        "{name} {length}"
                    );
                }
            }
            let longer = [&whole[..], &[0]].concat();
            // A ZIP archive may be followed by a remark.
            if name != "deflated.npz" {
                assert!(read_bytes(&longer, &ANY).is_err(), "{name}");
            }
        }
    }

    /// A file of Parquet with any footer.
    fn with_footer(footer: &[u8]) -> Vec<u8> {
        let length = u32::try_from(footer.len()).unwrap().to_le_bytes();
        [b"PAR1", footer, &length[..], b"PAR1"].concat()
    }

    #[test]
    fn a_footer_cannot_claim_more_than_it_has() {
        // 2^31 - 1 booleans in an unknown field: a reader that believes it does not come back.
        let list = [0x09, 0x32, 0xf1, 0xff, 0xff, 0xff, 0xff, 0x07, 0x00];
        // A schema of groups, each with 2^31 - 1 children, each in the other.
        let group = [
            0x35, 0x02, 0x18, 0x00, 0x15, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0x00,
        ];
        let nested = [
            &[0x29, 0xfc, 0x90, 0x4e][..],
            &group.repeat(10_000),
            &[0x00],
        ];
        // Structs within structs, 60,000 deep.
        let deep = [0x1c].repeat(60_000);
        for footer in [&list[..], &nested.concat(), &deep] {
            let error = read_bytes(&with_footer(footer), &ANY).unwrap_err();
            assert!(error.to_string().contains("malformed"), "{error}");
        }
    }

    #[derive(Clone, Debug)]
    enum Harm {
        Set(usize, u8),
        Flip(usize, u8),
        Cut(usize),
        Repeat(usize, usize),
    }

    fn harm() -> impl Strategy<Value = Harm> {
        prop_oneof![
            (any::<usize>(), any::<u8>()).prop_map(|(at, to)| Harm::Set(at, to)),
            (any::<usize>(), 0_u8..8).prop_map(|(at, bit)| Harm::Flip(at, bit)),
            any::<usize>().prop_map(Harm::Cut),
            (any::<usize>(), 1_usize..64).prop_map(|(at, length)| Harm::Repeat(at, length)),
        ]
    }

    proptest! {
        #[test]
        fn no_damage_makes_the_reader_panic(
            name in prop::sample::select(vec![
                "c_f4.npy", "fortran_big_f8.npy", "stored.npz", "deflated.npz", "six.fvecs",
                "fixed_snappy.parquet", "doubles_gzip_v2.parquet", "groups_zstd.parquet",
                "split_plain.parquet", "nulls.parquet", "pandas.parquet", "polars.parquet",
            ]),
            harms in prop::collection::vec(harm(), 1..4),
        ) {
            let mut bytes = fs::read(fixture(name)).unwrap();
            for harm in harms {
                match harm {
                    _ if bytes.is_empty() => {}
                    Harm::Set(at, to) => { let at = at % bytes.len(); bytes[at] = to; }
                    Harm::Flip(at, bit) => { let at = at % bytes.len(); bytes[at] ^= 1 << bit; }
                    Harm::Cut(at) => bytes.truncate(at % bytes.len()),
                    Harm::Repeat(at, length) => {
                        let at = at % bytes.len();
                        let part = bytes[at..bytes.len().min(at + length)].to_vec();
                        bytes.splice(at..at, part);
                    }
                }
            }
            if let Ok(table) = read_bytes(&bytes, &ANY) {
                prop_assert_eq!(table.vectors.len(), table.rows() * table.dimension);
                prop_assert!(table.columns.values().all(|column| column.len() == table.rows()));
            }
        }
    }
}
