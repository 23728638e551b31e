//! Changes a model's network in each of its precisions, and makes the golden pair of each.

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
use super::second_layer::SecondLayer;
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
/// Precisions of a network round: the least cosine of what one layer makes of the golden image in two of them.
const LAYERS_COSINE_MIN: f32 = 0.9;

/// A file that has to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFile {
    /// Its path in the folder.
    pub path: PathBuf,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// The effect of a head on an embedding.
pub type MapEmbedding<'a> = &'a dyn Fn(&[f32]) -> Result<Embedding, NotAnEmbedding>;

/// What is added to a network.
#[derive(Clone, Copy)]
pub(super) enum NetworkChange<'a> {
    Head(&'a HeadWeights<'a>, MapEmbedding<'a>),
    Layer(&'a SecondLayer),
}

/// The files of the changed model as they are made.
pub(super) struct Fusing<'a> {
    base: &'a Path,
    change: NetworkChange<'a>,
    runtime: &'a Runtime,
    pub(super) table: Table,
    pub(super) files: Vec<ModelFile>,
    /// The bytes of the golden image.
    image: Vec<u8>,
    /// The first network with a second layer, and what the layer makes of the golden image.
    second: Option<(PathBuf, Embedding)>,
}

impl<'a> Fusing<'a> {
    /// Reads what stays as it is.
    pub(super) fn of(
        base: &'a Path,
        manifest: &Manifest,
        change: NetworkChange<'a>,
        runtime: &'a Runtime,
    ) -> Result<Self, ModelError> {
        if manifest.head.is_some() {
            return Err(has_head(base));
        }
        let text = folder::read(base, Path::new(MANIFEST_NAME), 64 << 10)?;
        let table = String::from_utf8_lossy(&text).parse::<Table>();
        let mut work = Self {
            base,
            change,
            runtime,
            table: table.map_err(|cause| no_head(base, cause.to_string()))?,
            files: licences(base)?,
            image: folder::read(base, &manifest.golden.image, GOLDEN_BYTES_MAX)?,
            second: None,
        };
        let image = work.image.clone();
        work.push(&manifest.golden.image, image)?;
        Ok(work)
    }

    /// Precisions may share a file, unless the change makes two of it.
    fn push(&mut self, path: &Path, bytes: Vec<u8>) -> Result<(), ModelError> {
        let there = self.files.iter().find(|file| file.path == path);
        if let Some(there) = there {
            if there.bytes == bytes {
                return Ok(());
            }
            let reason = format!(
                "two of its precisions share {}, which becomes another for each; give each its own in a copy of the folder",
                path.display()
            );
            return Err(self.refused(reason));
        }
        let path = path.to_owned();
        self.files.push(ModelFile { path, bytes });
        Ok(())
    }

    fn refused(&self, reason: String) -> ModelError {
        match self.change {
            NetworkChange::Head(..) => no_head(self.base, reason),
            NetworkChange::Layer(_) => ModelError::NoSecondLayer {
                path: self.base.to_owned(),
                reason,
            },
        }
    }

    /// Changes the network in every precision, and returns their names.
    pub(super) fn fuse_all(&mut self, manifest: &Manifest) -> Result<Vec<String>, ModelError> {
        let others = manifest.precisions.keys().map(String::as_str);
        let precisions: Vec<&str> = std::iter::once(BASE_PRECISION).chain(others).collect();
        for precision in &precisions {
            self.fuse(precision)?;
        }
        Ok(precisions.into_iter().map(ToOwned::to_owned).collect())
    }

    /// Changes the network of one precision, and makes its golden pair.
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
            return Err(has_head(&path));
        }
        let reference = folder::read_reference(
            self.base,
            &manifest.golden.embedding,
            manifest.output.dimension,
        )?;
        let (network, golden) = self.changed(&manifest, &onnx, &reference)?;
        let asked = match self.change {
            NetworkChange::Head(..) => &onnx,
            NetworkChange::Layer(_) => &network,
        };
        let cosine_min = self.cosine_min(&manifest, asked, [&reference, &golden]);
        let sha256 = Value::String(network.sha256());
        self.push(&manifest.file, network.bytes().to_vec())?;
        let values = golden.as_slice().iter();
        let golden = values.flat_map(|value| value.to_le_bytes()).collect();
        self.push(&manifest.golden.embedding, golden)?;
        let cosine_min = Value::Float((f64::from(cosine_min) * 1e4).round() / 1e4);
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

    /// The changed network, and the embedding of the golden image by it.
    fn changed(
        &mut self,
        manifest: &Manifest,
        onnx: &OnnxFile,
        reference: &Embedding,
    ) -> Result<(OnnxFile, Embedding), ModelError> {
        let no_golden = |cause| format!("its golden image: {cause}");
        match self.change {
            NetworkChange::Head(head, map) => {
                let (output, take) = (&manifest.output.name, manifest.output.take);
                let bytes = with_head(onnx.bytes(), output, take, head)
                    .map_err(|cause| no_head(self.base, cause.to_string()))?;
                let mapped =
                    map(reference.as_slice()).map_err(|cause| self.refused(no_golden(cause)))?;
                Ok((onnx.with_bytes(bytes), mapped))
            }
            NetworkChange::Layer(layer) => {
                let network = layer.beside(onnx, &manifest.output);
                let network = network.map_err(|reason| {
                    self.refused(format!("{} {reason}", manifest.file.display()))
                })?;
                self.refuse_other_channels(onnx, manifest, layer)?;
                let found = self.embedded(&network, manifest, self.table.clone())?;
                let second = found.as_slice().get(manifest.output.dimension..);
                let second = Embedding::normalise(second.unwrap_or_default().to_vec());
                let second = second.map_err(|cause| self.refused(no_golden(cause)))?;
                self.refuse_another_map(&manifest.file, &second, &layer.tensor)?;
                let joined = [reference.as_slice(), second.as_slice()].concat();
                let joined = Embedding::normalise(joined);
                let joined = joined.map_err(|cause| self.refused(no_golden(cause)))?;
                Ok((network, joined))
            }
        }
    }

    /// Before ONNX Runtime says that the file does not fit its manifest.
    fn refuse_other_channels(
        &self,
        onnx: &OnnxFile,
        manifest: &Manifest,
        layer: &SecondLayer,
    ) -> Result<(), ModelError> {
        let Some((first, _)) = &self.second else {
            return Ok(());
        };
        let tensor = &layer.tensor;
        let here = SecondLayer::find(onnx, manifest, self.base, Some(tensor), self.runtime)?;
        let here = here.channels;
        if here == layer.channels {
            return Ok(());
        }
        let difference = format!("it has {here} channels, and {} there", layer.channels);
        Err(self.another_map(&manifest.file, first, tensor, &difference))
    }

    /// A name alone does not say that precisions have the same map: what it makes of the golden image has to be alike.
    fn refuse_another_map(
        &mut self,
        file: &Path,
        second: &Embedding,
        tensor: &str,
    ) -> Result<(), ModelError> {
        let (first, of_first) = self
            .second
            .get_or_insert_with(|| (file.to_owned(), second.clone()));
        let cosine = 1.0 - distance(of_first, second);
        if LAYERS_COSINE_MIN <= cosine {
            return Ok(());
        }
        let difference = format!("its means of the golden image have a cosine of {cosine:.3}");
        let first = first.clone();
        Err(self.another_map(file, &first, tensor, &difference))
    }

    fn another_map(&self, file: &Path, first: &Path, tensor: &str, difference: &str) -> ModelError {
        self.refused(format!(
            "{tensor:?} is another map in {} than in {}: {difference}; make the one file from the other, or leave that precision out of \
             a copy of the folder",
            file.display(),
            first.display()
        ))
    }

    /// The limit of the golden check with the change. It changes distances, so the limit is scaled by its
    /// effect on the wrong resize filters that the check refuses today, such that each of them is still
    /// refused. `onnx` is the network that is asked, and the two are the golden embeddings before and behind.
    fn cosine_min(&self, manifest: &Manifest, onnx: &OnnxFile, golden: [&Embedding; 2]) -> f32 {
        let allowed = 1.0 - manifest.golden.cosine_min;
        let [reference, golden] = golden;
        let own = manifest.geometry.filter;
        let mut least: Option<f32> = None;
        for (name, filter) in FILTERS {
            if filter == own {
                continue;
            }
            let mut table = self.table.clone();
            set(&mut table, &["resize"], "filter", Value::from(name));
            if let Some(Value::Table(resize)) = table.get_mut("resize") {
                resize.remove("jpeg");
            }
            let found = self.embedded(onnx, manifest, table).ok();
            let found = found.and_then(|found| self.both(found, manifest.output.dimension));
            let Some([before, behind]) = found else {
                continue;
            };
            let (before, behind) = (distance(&before, reference), distance(&behind, golden));
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

    /// What the asked network gives, before the change and behind it; `own` are the components before it.
    fn both(&self, found: Embedding, own: usize) -> Option<[Embedding; 2]> {
        Some(match self.change {
            NetworkChange::Head(_, map) => {
                let behind = map(found.as_slice()).ok()?;
                [found, behind]
            }
            NetworkChange::Layer(_) => {
                let before = found.as_slice().get(..own)?.to_vec();
                [Embedding::normalise(before).ok()?, found]
            }
        })
    }

    /// The embedding of the golden image by a network, as a manifest says.
    fn embedded(
        &self,
        onnx: &OnnxFile,
        manifest: &Manifest,
        mut table: Table,
    ) -> Result<Embedding, ModelError> {
        let file = Value::from(manifest.file.to_string_lossy().into_owned());
        set(&mut table, &["file"], "path", file);
        let mut draft = onnx.draft(&table.to_string(), self.runtime, OnnxFile::RUN_TIME_MAX)?;
        let limits = ImageLimits {
            bytes_max: usize::try_from(GOLDEN_BYTES_MAX).unwrap_or(usize::MAX),
            decode_bytes_max: super::golden::GOLDEN_DECODE_BYTES_MAX,
        };
        let never = Cancellation::never();
        let found = draft.embedder.embed(&self.image, &limits, &never);
        let found = found.map_err(|cause| ModelError::GoldenNotEmbedded {
            path: self.base.join(&manifest.golden.image),
            cause,
        })?;
        Ok(found.embedding)
    }

    /// Writes the manifest, and the record that it names.
    pub(super) fn describe(
        &mut self,
        manifest: &Manifest,
        dimension: usize,
        record: &[u8],
    ) -> Result<(), ModelError> {
        let name: String = manifest.name.chars().take(64 - "-adapted".len()).collect();
        let table = &mut self.table;
        table.insert("name".to_owned(), Value::from(format!("{name}-adapted")));
        let description = format!(
            "{}; with a head that was fitted to labelled pictures",
            described(manifest)
        );
        table.insert("description".to_owned(), Value::from(description));
        set_output(table, OUTPUT, dimension);
        let mut head = Table::new();
        let sha256 = encode_string(&Sha256::digest(record));
        head.insert("record".to_owned(), Value::from(RECORD_NAME));
        head.insert("record_sha256".to_owned(), Value::from(sha256));
        table.insert("head".to_owned(), Value::Table(head));
        self.push(Path::new(RECORD_NAME), record.to_vec())?;
        self.finish()
    }

    /// Writes the manifest.
    pub(super) fn finish(&mut self) -> Result<(), ModelError> {
        let text = self.table.to_string();
        Manifest::parse(&text).map_err(|mistakes| ModelError::Manifest {
            path: self.base.join(MANIFEST_NAME),
            mistakes,
        })?;
        self.push(Path::new(MANIFEST_NAME), text.into_bytes())
    }
}

fn has_head(path: &Path) -> ModelError {
    let reason = "it has one already; adapt the model that it was made from";
    no_head(path, reason.to_owned())
}

pub(super) fn described(manifest: &Manifest) -> &str {
    manifest.description.as_deref().unwrap_or(&manifest.name)
}

/// The manifest's table of a whole output.
pub(super) fn set_output(table: &mut Table, name: &str, dimension: usize) {
    let mut output = Table::new();
    output.insert("name".to_owned(), Value::from(name));
    output.insert("take".to_owned(), Value::from("vector"));
    let dimension = i64::try_from(dimension).unwrap_or(i64::MAX);
    output.insert("dimension".to_owned(), Value::from(dimension));
    output.insert("normalise".to_owned(), Value::from("l2"));
    table.insert("output".to_owned(), Value::Table(output));
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

pub(super) fn no_head(folder: &Path, reason: String) -> ModelError {
    ModelError::NoHead {
        path: folder.to_owned(),
        reason,
    }
}
