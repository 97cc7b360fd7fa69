//! Packed copies of all frozen matrices, in both directions, for as long as a network lives: memory for time.

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::packed::{PANEL, Packing};
use thumbprint_ggml::ggml::{Graph, Storage, StorageBuilder, Tensor, TensorId};

use super::builder::Builder;
use super::fragments::Result;
use super::head::VOCAB_BLOCK;
use super::network::NetworkError;
use super::runner::Runner;
use super::scratch::Scratch;
use crate::model::Model;

/// A matrix and its transpose.
type Pair = [TensorId; 2];

/// The copies. Those of the head are of blocks of the vocabulary.
pub struct Kept {
    pub(super) storage: Storage,
    /// Per block and fused projection; none where a projection has no matrix.
    layers: Vec<[Option<Pair>; 4]>,
    /// Per block of the vocabulary.
    head: Vec<Pair>,
}

impl Kept {
    /// Makes the copies.
    pub fn new(
        model: &Model,
        packing: Packing,
        runner: &mut Runner,
    ) -> std::result::Result<Self, NetworkError> {
        let mut builder = StorageBuilder::new();
        let mut add = |n_in: usize, n_out: usize| {
            shapes(packing, n_in, n_out).map(|ne| builder.add(GgmlType::I32, &ne))
        };
        let of_layer = |layer: &crate::model::LayerWeights| {
            layer
                .fused()
                .map(|fused| (!fused.parts.is_empty()).then(|| add(fused.n_in, fused.n_out)))
        };
        let layers = model.layers.iter().map(of_layer).collect();
        let head = blocks(model.spec.n_vocab)
            .map(|(_, len)| add(model.spec.n_embd, len))
            .collect();
        let kept = Self {
            storage: builder.build(runner.backend())?,
            layers,
            head,
        };
        for layer in 0..model.layers.len() {
            for (which, fused) in model.layers[layer].fused().into_iter().enumerate() {
                let Some(pair) = kept.layers[layer][which] else {
                    continue;
                };
                let graph = Graph::new(16)?;
                let parts = fused.parts.iter();
                let weights = parts
                    .map(|part| graph.load(&model.storage, part.weight))
                    .collect::<Result<Vec<_>>>()?;
                kept.pack(&graph, packing, &weights, pair)?;
                runner.compute(graph)?;
            }
            model.release_layer(layer);
        }
        for ((first, len), pair) in blocks(model.spec.n_vocab).zip(&kept.head) {
            let graph = Graph::new(16)?;
            let rows = graph.rows(graph.load(&model.storage, model.head)?, first, len)?;
            kept.pack(&graph, packing, &[rows], *pair)?;
            runner.compute(graph)?;
        }
        model.release_ends();
        Ok(kept)
    }

    /// Bytes of the copies.
    pub fn n_bytes(model: &Model, packing: Packing) -> usize {
        let bytes = |n_in, n_out| {
            let elements = shapes(packing, n_in, n_out).map(|ne| ne.iter().product::<usize>());
            elements.iter().sum::<usize>() * size_of::<u32>()
        };
        let fused = model.layers.iter().flat_map(|layer| layer.fused());
        let layers: usize = fused.map(|fused| bytes(fused.n_in, fused.n_out)).sum();
        let head: usize = blocks(model.spec.n_vocab)
            .map(|(_, len)| bytes(model.spec.n_embd, len))
            .sum();
        layers + head
    }

    /// The copies of a fused projection.
    pub fn of_layer<'g, 'a: 'g>(
        &'a self,
        graph: &'g Graph<'a>,
        layer: usize,
        which: usize,
    ) -> Result<Option<[Tensor<'g>; 2]>> {
        self.layers[layer][which]
            .map(|pair| self.load(graph, pair))
            .transpose()
    }

    /// The copies of the head's rows from the first of a block on.
    pub fn of_head<'g, 'a: 'g>(
        &'a self,
        graph: &'g Graph<'a>,
        first: usize,
    ) -> Result<[Tensor<'g>; 2]> {
        self.load(graph, self.head[first / VOCAB_BLOCK])
    }

    fn load<'g, 'a: 'g>(
        &'a self,
        graph: &'g Graph<'a>,
        [forward, backward]: Pair,
    ) -> Result<[Tensor<'g>; 2]> {
        Ok([
            graph.load(&self.storage, forward)?,
            graph.load(&self.storage, backward)?,
        ])
    }

    fn pack<'g, 'a: 'g>(
        &'a self,
        graph: &'g Graph<'a>,
        packing: Packing,
        weights: &[Tensor<'g>],
        pair: Pair,
    ) -> Result<()> {
        let b = Builder {
            graph,
            scratch: Scratch::Packed(packing),
            n_tokens: 1,
        };
        let [forward, backward] = self.load(graph, pair)?;
        graph.expand(b.packed(packing, weights, Some(forward))?)?;
        graph.expand(b.packed_transposed(packing, weights, Some(backward))?)
    }
}

/// First rows and numbers of rows of the vocabulary's blocks.
fn blocks(n_vocab: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n_vocab)
        .step_by(VOCAB_BLOCK)
        .map(move |first| (first, (n_vocab - first).min(VOCAB_BLOCK)))
}

/// Shapes of a packed matrix and of its transpose.
fn shapes(packing: Packing, n_in: usize, n_out: usize) -> [[usize; 3]; 2] {
    let shape = |n_in, n_out: usize| [PANEL, packing.words(n_in), n_out.div_ceil(PANEL)];
    [shape(n_in, n_out), shape(n_out, n_in)]
}
