//! Makes the folder of a model with a head behind its network, or with a second layer beside its embedding, in every
//! precision of the model.

use std::path::Path;

use toml::Value;

use super::draft::OnnxFile;
use super::error::ModelError;
use super::folder;
use super::fusing::{
    Fusing, MapEmbedding, ModelFile, NetworkChange, described, no_head, set_output,
};
use super::head_nodes::HeadWeights;
use super::runtime::Runtime;
use super::second_layer::{self, SecondLayer};

/// All files of a model folder, the manifest last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdaptedFolder {
    /// The files, in the order in which they are written.
    pub files: Vec<ModelFile>,
    /// The precisions of the model; that of its own file comes first.
    pub precisions: Vec<String>,
}

/// All files of a model whose embedding has a second layer beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayeredFolder {
    /// The files, in the order in which they are written.
    pub files: Vec<ModelFile>,
    /// The tensor of the layer.
    pub tensor: String,
    /// The number of components of the model's own embedding, which come first.
    pub own: usize,
}

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
    let (takes, gives) = (head.from, manifest.output.dimension);
    if takes != gives {
        let reason = format!("the head takes {takes} components, and the model gives {gives}");
        return Err(no_head(base, reason));
    }
    let mut work = Fusing::of(base, &manifest, NetworkChange::Head(head, map), runtime)?;
    let precisions = work.fuse_all(&manifest)?;
    work.describe(&manifest, head.bias.len(), record)?;
    Ok(AdaptedFolder {
        files: work.files,
        precisions,
    })
}

/// Makes the folder of a model with a second layer beside its embedding: the mean of the map `tensor`, or of one
/// that is chosen. In the golden pair the embedding's half is the model's own, and the other is computed here.
///
/// # Errors
/// Returns an error if the folder is not a model or its model has a head, or if there is no such map in each of its
/// precisions.
pub fn layered_folder(
    base: &Path,
    tensor: Option<&str>,
    runtime: &Runtime,
) -> Result<LayeredFolder, ModelError> {
    let manifest = folder::read_manifest(base)?;
    let onnx = OnnxFile::read(&base.join(&manifest.file))?;
    let layer = SecondLayer::find(&onnx, &manifest, base, tensor, runtime)?;
    let mut work = Fusing::of(base, &manifest, NetworkChange::Layer(&layer), runtime)?;
    let own = manifest.output.dimension;
    set_output(&mut work.table, second_layer::OUTPUT, own + layer.channels);
    work.fuse_all(&manifest)?;
    let description = format!("{}, with {} beside it", described(&manifest), layer.tensor);
    let description = Value::from(description);
    work.table.insert("description".to_owned(), description);
    work.finish()?;
    Ok(LayeredFolder {
        files: work.files,
        tensor: layer.tensor,
        own,
    })
}
