//! Copies of all frozen matrices in the form of products, in both directions, for as long as a network lives: memory for time.

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::packed::PANEL;
use thumbprint_ggml::ggml::{GgmlError, Graph, Storage, StorageBuilder, Tensor, TensorId};

use super::builder::Builder;
use super::fragments::Result;
use super::head::VOCAB_BLOCK;
use super::network::NetworkError;
use super::portable::{Portable, UbatchIds};
use super::runner::Runner;
use super::scratch::Scratch;
use crate::model::Model;

/// A matrix and its transpose.
type Pair = [TensorId; 2];

/// The copies. Those of the head are of blocks of the vocabulary on the CPU, and of all of it on a device.
pub struct Kept {
    pub(super) storage: Storage,
    /// Per block and fused projection; none where a projection has no matrix.
    layers: Vec<[Option<Pair>; 4]>,
    /// Per block of the vocabulary.
    head: Vec<Pair>,
    /// Rows of such a block.
    block: usize,
}

/// Tensors that the graph of one copy may need.
const GRAPH_NODES: usize = 64;

impl Kept {
    /// Makes the copies: packed ones for the CPU, rows for a device, for which `portable` is what its fragments read.
    pub fn new(
        model: &Model,
        scratch: Scratch,
        portable: Option<(&Storage, UbatchIds)>,
        runner: &mut Runner,
    ) -> std::result::Result<Self, NetworkError> {
        let mut builder = StorageBuilder::new();
        let mut add = |n_in: usize, n_out: usize| {
            shapes(scratch, n_in, n_out).map(|(ty, ne)| builder.add(ty, &ne))
        };
        let of_layer = |layer: &crate::model::LayerWeights| {
            layer
                .fused()
                .map(|fused| (!fused.parts.is_empty()).then(|| add(fused.n_in, fused.n_out)))
        };
        let layers = model.layers.iter().map(of_layer).collect();
        let block = block(scratch, model.spec.n_vocab);
        let head = blocks(model.spec.n_vocab, block)
            .map(|(_, len)| add(model.spec.n_embd, len))
            .collect();
        let kept = Self {
            storage: builder.build(runner.backend())?,
            layers,
            head,
            block,
        };
        for layer in 0..model.layers.len() {
            for (which, fused) in model.layers[layer].fused().into_iter().enumerate() {
                let Some(pair) = kept.layers[layer][which] else {
                    continue;
                };
                let graph = Graph::new(GRAPH_NODES)?;
                let parts = fused.parts.iter();
                let weights = parts
                    .map(|part| graph.load(&model.storage, part.weight))
                    .collect::<Result<Vec<_>>>()?;
                kept.fill(&graph, scratch, portable, &weights, pair)?;
                runner.compute(graph)?;
            }
            model.release_layer(layer);
        }
        for ((first, len), pair) in blocks(model.spec.n_vocab, block).zip(&kept.head) {
            let graph = Graph::new(GRAPH_NODES)?;
            let rows = graph.rows(graph.load(&model.storage, model.head)?, first, len)?;
            kept.fill(&graph, scratch, portable, &[rows], *pair)?;
            runner.compute(graph)?;
        }
        model.release_ends();
        Ok(kept)
    }

    /// Bytes of the copies.
    pub fn n_bytes(model: &Model, scratch: Scratch) -> usize {
        let bytes = |n_in, n_out| {
            let shapes = shapes(scratch, n_in, n_out).into_iter();
            let each = shapes.map(|(ty, ne)| ty.type_size() * ne.iter().product::<usize>());
            each.sum::<usize>()
        };
        let fused = model.layers.iter().flat_map(|layer| layer.fused());
        let layers: usize = fused.map(|fused| bytes(fused.n_in, fused.n_out)).sum();
        let n_vocab = model.spec.n_vocab;
        let head: usize = blocks(n_vocab, block(scratch, n_vocab))
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
        self.load(graph, self.head[first / self.block])
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

    fn fill<'g, 'a: 'g>(
        &'a self,
        graph: &'g Graph<'a>,
        scratch: Scratch,
        portable: Option<(&'a Storage, UbatchIds)>,
        weights: &[Tensor<'g>],
        pair: Pair,
    ) -> Result<()> {
        let [forward, backward] = self.load(graph, pair)?;
        if let (Scratch::Packed(packing), None) = (scratch, portable) {
            let b = Builder {
                graph,
                scratch,
                n_tokens: 1,
            };
            graph.expand(b.packed(packing, weights, Some(forward))?)?;
            return graph.expand(b.packed_transposed(packing, weights, Some(backward))?);
        }
        let (storage, ids) = portable.ok_or(GgmlError::Failed {
            what: "keeping rows on the CPU",
            status: -1,
        })?;
        let b = Portable::new(graph, storage, ids.fragments[0], 1)?;
        let mut start = 0;
        for weight in weights {
            let (plain, n_out) = (b.plain(*weight)?, weight.ne()[1]);
            graph.store(plain, graph.rows(forward, start, n_out)?)?;
            graph.store(b.transposed(plain)?, graph.columns(backward, start, n_out)?)?;
            start += n_out;
        }
        Ok(())
    }
}

/// First rows and numbers of rows of the vocabulary's blocks.
fn blocks(n_vocab: usize, block: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n_vocab)
        .step_by(block)
        .map(move |first| (first, (n_vocab - first).min(block)))
}

/// Rows of the vocabulary that are worked on together.
fn block(scratch: Scratch, n_vocab: usize) -> usize {
    match scratch {
        Scratch::Packed(_) => VOCAB_BLOCK,
        Scratch::Rows(_) => n_vocab,
    }
}

/// A matrix and its transpose.
fn shapes(scratch: Scratch, n_in: usize, n_out: usize) -> [(GgmlType, [usize; 3]); 2] {
    let shape = |n_in: usize, n_out: usize| match scratch {
        Scratch::Packed(packing) => {
            let words = [PANEL, packing.words(n_in), n_out.div_ceil(PANEL)];
            (GgmlType::I32, words)
        }
        Scratch::Rows(ty) => (ty, [n_in, n_out, 1]),
    };
    [shape(n_in, n_out), shape(n_out, n_in)]
}
