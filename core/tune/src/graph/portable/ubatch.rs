//! What a ubatch begins with, computed on the device from a few numbers a token: embeddings and masks.

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::{Binary, Graph, Storage, StorageBuilder, Tensor, TensorId};

use super::super::fragments::Result;
use super::super::kernels::attention::Attention;
use crate::model::Model;

/// Tensors that the graph of a ubatch's beginning may need.
pub const GRAPH_NODES: usize = 128;

/// Less than any score, and still a number.
const UNSEEN: f32 = -1e30;

/// Bounds of the two ranges of keys that a query sees.
const BOUNDS: usize = 4;

/// What portable fragments read beside weights and activations.
#[derive(Debug, Clone, Copy)]
pub struct PortableIds {
    /// 0, 1, 2 and so on, I32.
    pub indices: TensorId,
    /// A mask's numbers, row after row, F32.
    pub mask: TensorId,
}

/// Tensors of ubatches, in the storage of what lasts.
#[derive(Debug, Clone, Copy)]
pub struct UbatchIds {
    /// What fragments read, in blocks without and with a window, which may be the same.
    pub fragments: [PortableIds; 2],
    /// `[n]`, I32.
    tokens: TensorId,
    /// 0, 1, 2 and so on, F32.
    places: TensorId,
    /// `[n, BOUNDS]`, in blocks without and with a window, which may be the same.
    seen: [TensorId; 2],
    n_indices: usize,
    n_tokens: usize,
}

impl UbatchIds {
    /// Tensors for ubatches of at most `n_tokens` rows.
    pub fn add(builder: &mut StorageBuilder, model: &Model, n_tokens: usize) -> Self {
        let n_indices = model.tallest_weight().max(model.spec.n_vocab);
        let indices = builder.add(GgmlType::I32, &[n_indices]);
        let mut mask = || {
            let mask = builder.add(GgmlType::F32, &[n_tokens * n_tokens]);
            let seen = builder.add(GgmlType::F32, &[n_tokens, BOUNDS]);
            (PortableIds { indices, mask }, seen)
        };
        let everywhere = mask();
        let windowed = match model.spec.window {
            Some(_) => mask(),
            None => everywhere,
        };
        Self {
            fragments: [everywhere.0, windowed.0],
            seen: [everywhere.1, windowed.1],
            tokens: builder.add(GgmlType::I32, &[n_tokens]),
            places: builder.add(GgmlType::F32, &[n_tokens]),
            n_indices,
            n_tokens,
        }
    }

    /// Writes what is the same in every ubatch.
    pub fn write_constants(&self, storage: &mut Storage) -> Result<()> {
        let indices: Vec<i32> = (0..self.n_indices as i32).collect();
        let places: Vec<f32> = (0..self.n_tokens).map(|place| place as f32).collect();
        storage.write(self.fragments[0].indices, &indices)?;
        storage.write(self.places, &places)
    }

    /// Writes a ubatch; attention is that of blocks without and with a window.
    pub fn write(
        &self,
        storage: &mut Storage,
        tokens: &[i32],
        attention: &[Attention; 2],
    ) -> Result<()> {
        storage.write_at(self.tokens, 0, tokens)?;
        for (seen, attention) in self.masks().into_iter().zip(attention) {
            let bounds: Vec<[f32; BOUNDS]> = attention
                .seen()
                .iter()
                .map(|[before, own]| {
                    [before.start, before.end, own.start, own.end].map(|b| b as f32)
                })
                .collect();
            for row in 0..BOUNDS {
                let values: Vec<f32> = bounds.iter().map(|bounds| bounds[row]).collect();
                let offset = row * self.n_tokens * size_of::<f32>();
                storage.write_at(seen.1, offset, &values)?;
            }
        }
        Ok(())
    }

    /// Builds the graph: the tokens' embeddings into `x` `[n_embd, n]`, and masks.
    pub fn build<'a>(
        &self,
        graph: &Graph<'a>,
        model: &'a Model,
        storage: &'a Storage,
        x: TensorId,
        n_tokens: usize,
    ) -> Result<()> {
        let tokens = graph.columns(graph.load(storage, self.tokens)?, 0, n_tokens)?;
        let weights = graph.load(&model.storage, model.embeddings)?;
        let embeddings = graph.get_rows(weights, tokens)?;
        let embeddings = match model.spec.embedding_scale {
            1.0 => embeddings,
            scale => graph.scale(embeddings, scale, 0.0)?,
        };
        graph.store(
            embeddings,
            graph.rows(graph.load(storage, x)?, 0, n_tokens)?,
        )?;
        for (mask, seen) in self.masks() {
            let seen = graph.load(storage, seen)?;
            let target = graph.load(storage, mask.mask)?;
            let mask = self.mask(graph, storage, seen, n_tokens)?;
            graph.store(mask, graph.columns(target, 0, n_tokens * n_tokens)?)?;
        }
        Ok(())
    }

    /// 0 where a query (a row) sees a key, else [`UNSEEN`]: `[n, n]`.
    fn mask<'g, 'a>(
        &self,
        graph: &'g Graph<'a>,
        storage: &'a Storage,
        seen: Tensor<'g>,
        n: usize,
    ) -> Result<Tensor<'g>>
    where
        'a: 'g,
    {
        let places = graph.columns(graph.load(storage, self.places)?, 0, n)?;
        let keys = graph.repeat(places, [n, n, 1, 1])?;
        // How far a key is behind a bound of each query.
        let behind = |row: usize| -> Result<Tensor<'g>> {
            let bound = graph.columns(graph.rows(seen, row, 1)?, 0, n)?;
            let bound = graph.reshape(bound, [1, n, 1, 1])?;
            graph.binary(Binary::Sub, keys, bound)
        };
        let within = |start: usize, end: usize| -> Result<Tensor<'g>> {
            let from = graph.clamp(graph.scale(behind(start)?, 1.0, 1.0)?, 0.0, 1.0)?;
            let until = graph.clamp(graph.scale(behind(end)?, -1.0, 0.0)?, 0.0, 1.0)?;
            graph.binary(Binary::Mul, from, until)
        };
        let sees = graph.binary(Binary::Add, within(0, 1)?, within(2, 3)?)?;
        graph.scale(sees, -UNSEEN, UNSEEN)
    }

    /// Masks that differ, with the bounds that they follow from.
    fn masks(&self) -> Vec<(PortableIds, TensorId)> {
        let mut masks: Vec<_> = self.fragments.into_iter().zip(self.seen).collect();
        masks.dedup_by_key(|(ids, _)| ids.mask);
        masks
    }
}
