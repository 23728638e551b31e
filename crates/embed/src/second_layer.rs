//! A second layer beside a network's embedding: the mean of a map within the network. Both are scaled to unit
//! length, so that they count the same.

use std::collections::BTreeSet;
use std::path::Path;

use super::draft::{OnnxFile, Port};
use super::error::ModelError;
use super::head_nodes::{Chain, FLOAT, integer};
use super::manifest::Manifest;
use super::onnx::{self, OnnxError, OnnxNode};
use super::output::EmbeddingOutput;
use super::runtime::Runtime;

/// The start of the names of its tensors and nodes.
const PREFIX: &str = "matchpoint.layers/";
/// The output of a network with a second layer.
pub(super) const OUTPUT: &str = "matchpoint.layers/embedding";
/// How many tensors are named if one has to be chosen.
const SHOWN: usize = 12;

/// A map `[batch, channels, height, width]` within a network.
pub(super) struct SecondLayer {
    pub(super) tensor: String,
    pub(super) channels: usize,
    /// Height times width; `None` if the file leaves them open.
    area: Option<u64>,
}

impl SecondLayer {
    /// The map with this name. Without a name, the last sum of a residual block before the maps become as small
    /// as the network's last sum is: what follows is seen by the embedding well enough.
    pub(super) fn find(
        onnx: &OnnxFile,
        manifest: &Manifest,
        folder: &Path,
        named: Option<&str>,
        runtime: &Runtime,
    ) -> Result<Self, ModelError> {
        let refused = |reason| ModelError::NoSecondLayer {
            path: folder.to_owned(),
            reason,
        };
        let nodes = onnx::nodes(onnx.bytes()).map_err(|cause| refused(cause.to_string()))?;
        let sums = sums(&nodes, &manifest.input.name);
        let hint = || format!("the sums of its blocks: {}", shown(&sums));
        let wanted = match named {
            Some(name) if !is_computed(&nodes, name) => {
                let reason = format!("no node computes a tensor {name:?}; {}", hint());
                return Err(refused(reason));
            }
            Some(name) => vec![name],
            None => sums.clone(),
        };
        let outputs = onnx::outputs(onnx.bytes()).map_err(|cause| refused(cause.to_string()))?;
        let new = wanted.iter().copied();
        let new: Vec<&str> = new
            .filter(|name| outputs.iter().all(|output| output != name))
            .collect();
        let ports = onnx.with_outputs(&new).interface(runtime)?.outputs;
        let of_name = |name: &&str| ports.iter().find(|port| port.name == *name);
        let ports: Vec<&Port> = wanted.iter().filter_map(of_name).collect();
        let mut maps: Vec<Self> = ports.iter().copied().filter_map(Self::of).collect();
        let least = maps.last().and_then(|last| last.area);
        let open = maps.iter().any(|map| map.area.is_none());
        let found = match (named, least) {
            (Some(_), _) => maps.pop(),
            (None, Some(least)) => maps.into_iter().rfind(|map| Some(least) < map.area),
            (None, None) => None,
        };
        found.ok_or_else(|| {
            refused(match ports.last() {
                Some(port) if named.is_some() => {
                    format!("{port} is no map [batch, channels, height, width] of floats")
                }
                _ if open => format!(
                    "the file leaves the height and width of its maps open, by which one is chosen; name one of them; {}",
                    hint()
                ),
                _ => format!(
                    "none of the sums of its blocks is a map [batch, channels, height, width] that is larger than the last; if another \
                     tensor is one, name it; {}",
                    hint()
                ),
            })
        })
    }

    fn of(port: &Port) -> Option<Self> {
        let [_batch, Some(channels), height, width] = *port.shape.as_slice() else {
            return None;
        };
        port.element.starts_with('f').then_some(Self {
            tensor: port.name.clone(),
            channels: usize::try_from(channels).ok()?,
            area: height
                .zip(width)
                .map(|(height, width)| u64::from(height) * u64::from(width)),
        })
    }

    /// The file with the layer beside the embedding, and one output more: [`OUTPUT`]; or what is wrong with the file.
    pub(super) fn beside(
        &self,
        onnx: &OnnxFile,
        output: &EmbeddingOutput,
    ) -> Result<OnnxFile, String> {
        let malformed = |cause: OnnxError| format!("cannot be read: {cause}");
        let nodes = onnx::nodes(onnx.bytes()).map_err(malformed)?;
        let mut names = nodes.iter().flat_map(|node| &node.outputs);
        if names.any(|name| name.starts_with(PREFIX)) {
            let reason = "has a second layer already; adapt the model that it was made from";
            return Err(reason.to_owned());
        }
        if !is_computed(&nodes, &self.tensor) {
            return Err(format!(
                "computes no tensor {:?}, as the model's own file does; make that precision from this file, or leave it out of a copy \
                 of the folder",
                self.tensor
            ));
        }
        let mut chain = Chain::after(onnx.bytes(), &output.name, PREFIX).map_err(malformed)?;
        chain.take(output.take);
        chain.unit_length("last", "last");
        let last = std::mem::replace(&mut chain.tensor, stored(&nodes, &self.tensor).to_owned());
        chain.node("Cast", "map", &[], &[integer("to", FLOAT)]);
        chain.node("GlobalAveragePool", "mean_of_map", &[], &[]);
        chain.node("Flatten", "raw_second", &[], &[integer("axis", 1)]);
        chain.unit_length("second", "second");
        let second = std::mem::replace(&mut chain.tensor, last);
        chain.node("Concat", "embedding", &[&second], &[integer("axis", 1)]);
        let graph = chain.output(output.dimension + self.channels);
        Ok(onnx.with_bytes([onnx.bytes(), &graph].concat()))
    }
}

/// The sums of tensors that all depend on the picture, as residual blocks end with them. What does not is a bias, however it
/// is stored.
fn sums<'a>(nodes: &'a [OnnxNode], picture: &'a str) -> Vec<&'a str> {
    let mut seen = BTreeSet::from([picture]);
    let mut sums = Vec::new();
    for node in nodes {
        let of_picture = |input: &String| seen.contains(input.as_str());
        let outputs = node.outputs.iter().map(String::as_str);
        if matches!(node.operator.as_str(), "Add" | "Sum") && node.inputs.iter().all(of_picture) {
            sums.extend(outputs.clone());
        }
        // What such a node reads stands in a graph of its own, and is no input.
        let nested = matches!(node.operator.as_str(), "If" | "Loop" | "Scan");
        if nested || node.inputs.iter().any(of_picture) {
            seen.extend(outputs);
        }
    }
    sums
}

fn is_computed(nodes: &[OnnxNode], name: &str) -> bool {
    let mut outputs = nodes.iter().flat_map(|node| &node.outputs);
    outputs.any(|output| output == name)
}

/// Where a tensor is rounded to few bits and widened again, what comes out of that: the network itself goes on with
/// it, and it is computed as before.
fn stored<'a>(nodes: &'a [OnnxNode], tensor: &'a str) -> &'a str {
    let after = |operator: &str, tensor: &str| {
        let taking = |node: &&OnnxNode| {
            node.operator == operator && node.inputs.first().is_some_and(|input| input == tensor)
        };
        nodes.iter().find(taking)?.outputs.first()
    };
    let rounded = after("QuantizeLinear", tensor);
    let widened = rounded.and_then(|rounded| after("DequantizeLinear", rounded));
    widened.map_or(tensor, String::as_str)
}

fn shown(names: &[&str]) -> String {
    let skipped = names.len().saturating_sub(SHOWN);
    match names.get(skipped..) {
        Some(last) if !last.is_empty() => last.join(", "),
        _ => "none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_nested_graph_computes_may_depend_on_the_picture() {
        let node = |operator: &str, inputs: &[&str], output: &str| OnnxNode {
            operator: operator.to_owned(),
            inputs: inputs.iter().map(|&input| input.to_owned()).collect(),
            outputs: vec![output.to_owned()],
        };
        let nodes = [
            node("Constant", &[], "bias"),
            node("Conv", &["pixels"], "one"),
            node("If", &["flag"], "other"),
            node("Add", &["one", "bias"], "biased"),
            node("Add", &["one", "other"], "sum"),
        ];
        assert_eq!(sums(&nodes, "pixels"), ["sum"]);
    }
}
