//! Makes the folder of a model with a head behind its network, in every precision of the model.

use std::path::{Path, PathBuf};

use base16ct::lower::encode_string;
use matchpoint_vector::{Embedding, NotAnEmbedding, Similarity};
use sha2::{Digest as _, Sha256};
use toml::{Table, Value};

use super::caller::Cancellation;
use super::draft::OnnxFile;
use super::error::ModelError;
use super::folder::{self, GOLDEN_BYTES_MAX};
use super::head_nodes::{HeadWeights, OUTPUT, PREFIX, with_head};
use super::manifest::{BASE_PRECISION, MANIFEST_NAME, Manifest};
use super::resize::FILTERS;
use super::runtime::Runtime;
use crate::pixels::ImageLimits;

/// The record of a head, in the folder of its model.
const RECORD_NAME: &str = "head.json";
/// Files that the licence of a model may require to be passed on.
const LICENCES: [&str; 4] = ["LICENSE", "LICENCE", "NOTICE", "COPYING"];
/// The highest size of such a file in bytes.
const LICENCE_BYTES_MAX: u64 = 1 << 20;
/// The range of the golden check's limit: the lowest value that a manifest may have, and the highest that
/// leaves room for differences between decoders and processors.
const COSINES: (f32, f32) = (0.9, 0.9995);

/// A file that has to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFile {
    /// Its path in the folder.
    pub path: PathBuf,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// All files of a model folder, the manifest last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdaptedFolder {
    /// The files, in the order in which they are written.
    pub files: Vec<ModelFile>,
    /// The precisions of the model; that of its own file comes first.
    pub precisions: Vec<String>,
}

/// The effect of a head on an embedding.
pub type MapEmbedding<'a> = &'a dyn Fn(&[f32]) -> Result<Embedding, NotAnEmbedding>;

/// Makes the folder of a model with a head behind its network. The golden image stays the same. Its reference
/// embeddings are computed by `map`, so that opening the model compares the network with this independent
/// computation.
///
/// # Errors
/// Returns an error if the folder is not a model or its model already has a head, or if the head needs another
/// number of components.
pub fn adapted_folder(
    base: &Path,
    head: &HeadWeights<'_>,
    record: &[u8],
    map: MapEmbedding<'_>,
    runtime: &Runtime,
) -> Result<AdaptedFolder, ModelError> {
    let manifest = folder::read_manifest(base)?;
    refuse_unfit(base, &manifest, head)?;
    let text = folder::read(base, Path::new(MANIFEST_NAME), 64 << 10)?;
    let table = String::from_utf8_lossy(&text).parse::<Table>();
    let table = table.map_err(|cause| no_head(base, cause.to_string()))?;
    let mut work = Fusing {
        base,
        head,
        map,
        runtime,
        table,
        files: licences(base)?,
        image: folder::read(base, &manifest.golden.image, GOLDEN_BYTES_MAX)?,
    };
    let golden = manifest.golden.image.clone();
    let image = work.image.clone();
    work.push(&golden, image);
    let others: Vec<String> = manifest.precisions.keys().cloned().collect();
    let mut precisions = vec![BASE_PRECISION.to_owned()];
    precisions.extend(others);
    for precision in &precisions {
        work.fuse(precision)?;
    }
    work.describe(&manifest, record)?;
    Ok(AdaptedFolder {
        files: work.files,
        precisions,
    })
}

fn no_head(folder: &Path, reason: String) -> ModelError {
    ModelError::NoHead {
        path: folder.to_owned(),
        reason,
    }
}

fn refuse_unfit(
    base: &Path,
    manifest: &Manifest,
    head: &HeadWeights<'_>,
) -> Result<(), ModelError> {
    if manifest.head.is_some() {
        let reason = "it has one already; adapt the model that it was made from".to_owned();
        return Err(no_head(base, reason));
    }
    let (takes, gives) = (head.from, manifest.output.dimension);
    if takes != gives {
        let reason = format!("the head takes {takes} components, and the model gives {gives}");
        return Err(no_head(base, reason));
    }
    Ok(())
}

fn licences(base: &Path) -> Result<Vec<ModelFile>, ModelError> {
    let mut files = Vec::new();
    for name in LICENCES {
        for end in ["", ".txt", ".md"] {
            let path = PathBuf::from(format!("{name}{end}"));
            if base.join(&path).is_file() {
                let bytes = folder::read(base, &path, LICENCE_BYTES_MAX)?;
                files.push(ModelFile { path, bytes });
            }
        }
    }
    Ok(files)
}

struct Fusing<'a> {
    base: &'a Path,
    head: &'a HeadWeights<'a>,
    map: MapEmbedding<'a>,
    runtime: &'a Runtime,
    table: Table,
    files: Vec<ModelFile>,
    /// The bytes of the golden image.
    image: Vec<u8>,
}

impl Fusing<'_> {
    fn push(&mut self, path: &Path, bytes: Vec<u8>) {
        let path = path.to_owned();
        self.files.push(ModelFile { path, bytes });
    }

    /// Adds the head to the network of one precision, and makes its golden pair.
    fn fuse(&mut self, precision: &str) -> Result<(), ModelError> {
        let manifest = super::manifest_of(self.base, precision)?;
        let path = self.base.join(&manifest.file);
        let onnx = OnnxFile::read(&path)?;
        if onnx.sha256() != manifest.sha256 {
            let (expected, found) = (manifest.sha256, onnx.sha256());
            return Err(ModelError::Changed {
                path,
                expected,
                found,
            });
        }
        if onnx.computed().iter().any(|name| name.starts_with(PREFIX)) {
            let reason = format!(
                "{} has one already; adapt the model that it was made from",
                path.display()
            );
            return Err(no_head(self.base, reason));
        }
        let reference = folder::read_reference(
            self.base,
            &manifest.golden.embedding,
            manifest.output.dimension,
        )?;
        let mapped = (self.map)(reference.as_slice());
        let mapped =
            mapped.map_err(|cause| no_head(self.base, format!("its golden image: {cause}")))?;
        let cosine_min = self.cosine_min(&manifest, &onnx, &reference);
        let (output, take) = (&manifest.output.name, manifest.output.take);
        let bytes = with_head(onnx.bytes(), output, take, self.head)
            .map_err(|cause| no_head(self.base, cause.to_string()))?;
        let sha256 = encode_string(&Sha256::digest(&bytes));
        self.push(&manifest.file, bytes);
        let values = mapped.as_slice().iter();
        let golden = values.flat_map(|value| value.to_le_bytes()).collect();
        self.push(&manifest.golden.embedding, golden);
        let cosine_min = Value::Float((f64::from(cosine_min) * 1e4).round() / 1e4);
        let sha256 = Value::String(sha256);
        if precision == BASE_PRECISION {
            set(&mut self.table, &["file"], "sha256", sha256);
            set(&mut self.table, &["golden"], "cosine_min", cosine_min);
        } else {
            let place = ["precision", precision];
            set(&mut self.table, &place, "sha256", sha256);
            set(&mut self.table, &place, "cosine_min", cosine_min);
        }
        Ok(())
    }

    /// The limit of the golden check with the head. The head changes distances, so the limit is scaled by its
    /// effect on the wrong resize filters that the check refuses today, such that each of them is still
    /// refused.
    fn cosine_min(&self, manifest: &Manifest, onnx: &OnnxFile, reference: &Embedding) -> f32 {
        let allowed = 1.0 - manifest.golden.cosine_min;
        let own = manifest.geometry.filter;
        let mut least: Option<f32> = None;
        for (name, filter) in FILTERS {
            if filter == own {
                continue;
            }
            let Some(found) = self.under_filter(onnx, manifest, name) else {
                continue;
            };
            let before = distance(&found, reference);
            let behind = match (
                (self.map)(found.as_slice()),
                (self.map)(reference.as_slice()),
            ) {
                (Ok(found), Ok(reference)) => distance(&found, &reference),
                _ => continue,
            };
            if allowed < before {
                let farther = behind / before;
                least = Some(least.map_or(
                    farther,
                    |least| if farther < least { farther } else { least },
                ));
            }
        }
        let (low, high) = COSINES;
        (1.0 - allowed * least.unwrap_or(1.0)).clamp(low, high)
    }

    /// The embedding of the golden image by the base model with another resize filter; `None` if there is none.
    fn under_filter(
        &self,
        onnx: &OnnxFile,
        manifest: &Manifest,
        filter: &str,
    ) -> Option<Embedding> {
        let mut table = self.table.clone();
        set(&mut table, &["resize"], "filter", Value::from(filter));
        if let Some(Value::Table(resize)) = table.get_mut("resize") {
            resize.remove("jpeg");
        }
        let file = Value::from(manifest.file.to_string_lossy().into_owned());
        set(&mut table, &["file"], "path", file);
        let draft = onnx.draft(&table.to_string(), self.runtime, OnnxFile::RUN_TIME_MAX);
        let mut draft = draft.ok()?;
        let limits = ImageLimits {
            bytes_max: usize::try_from(GOLDEN_BYTES_MAX).unwrap_or(usize::MAX),
            decode_bytes_max: super::golden::GOLDEN_DECODE_BYTES_MAX,
        };
        let never = Cancellation::never();
        let found = draft.embedder.embed(&self.image, &limits, &never);
        found.ok().map(|found| found.embedding)
    }

    /// Writes the manifest, and the record that it names.
    fn describe(&mut self, manifest: &Manifest, record: &[u8]) -> Result<(), ModelError> {
        let name: String = manifest.name.chars().take(64 - "-adapted".len()).collect();
        let table = &mut self.table;
        table.insert("name".to_owned(), Value::from(format!("{name}-adapted")));
        let described = manifest.description.as_deref().unwrap_or(&manifest.name);
        let description = format!("{described}; with a head that was fitted to labelled pictures");
        table.insert("description".to_owned(), Value::from(description));
        let dimension = i64::try_from(self.head.bias.len()).unwrap_or(i64::MAX);
        let mut output = Table::new();
        output.insert("name".to_owned(), Value::from(OUTPUT));
        output.insert("take".to_owned(), Value::from("vector"));
        output.insert("dimension".to_owned(), Value::from(dimension));
        output.insert("normalise".to_owned(), Value::from("l2"));
        table.insert("output".to_owned(), Value::Table(output));
        let mut head = Table::new();
        let sha256 = encode_string(&Sha256::digest(record));
        head.insert("record".to_owned(), Value::from(RECORD_NAME));
        head.insert("record_sha256".to_owned(), Value::from(sha256));
        table.insert("head".to_owned(), Value::Table(head));
        let text = table.to_string();
        Manifest::parse(&text).map_err(|mistakes| ModelError::Manifest {
            path: self.base.join(MANIFEST_NAME),
            mistakes,
        })?;
        self.push(Path::new(RECORD_NAME), record.to_vec());
        self.push(Path::new(MANIFEST_NAME), text.into_bytes());
        Ok(())
    }
}

fn distance(a: &Embedding, b: &Embedding) -> f32 {
    1.0 - Similarity::between(a.as_slice(), b.as_slice()).map_or(f32::NAN, Similarity::get)
}

/// Sets a key of a nested table; all tables exist.
fn set(table: &mut Table, place: &[&str], key: &str, value: Value) {
    let mut table = table;
    for name in place {
        let Some(Value::Table(inner)) = table.get_mut(*name) else {
            return;
        };
        table = inner;
    }
    table.insert(key.to_owned(), value);
}
