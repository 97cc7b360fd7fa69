//! Tensors that last from graph to graph: states, what is kept for the backward pass, the head's rows.

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::{Backend, GgmlError, Storage, StorageBuilder, TensorId};

use super::adapter::{DeviceAdapter, FusedLora};
use super::experts::ExpertMemory;
use super::kernels::attention::Attention;
use super::kernels::head::STATS;
use super::layer::{Make, Saved};
use super::network::NetworkOptions;
use super::portable::{ChunkMemory, PortableIds, rope_factors};
use crate::model::{BlockSpec, Model, Rope};

/// Tensors that last from graph to graph.
pub struct Memory {
    pub storage: Storage,
    /// The residual stream, `[n_embd, max]`: inputs of the layers and the output of the last where layers are recomputed, else two that
    /// take turns.
    pub x: Vec<TensorId>,
    /// One per layer from `first` on, or one for all when checkpointing.
    pub saved: Vec<Saved>,
    /// The first layer that the adapter changes.
    pub first: usize,
    /// Gradient of the current layer's output, `[n_embd, max]`.
    pub gradient: TensorId,
    /// What rotary embedding needs, in blocks without and with a window, which may be the same: cosines and sines, `[n_dims / 2, max]`
    /// each; for portable fragments positions and factors.
    pub rope: [[TensorId; 2]; 2],
    /// What portable fragments read, in blocks without and with a window, which may be the same.
    portable: Option<[PortableIds; 2]>,
    pub experts: Option<ExpertMemory>,
}

/// What the head reads and writes, a chunk of rows at a time.
pub enum HeadRows {
    Custom(HeadMemory),
    Portable(ChunkMemory),
}

/// The same for custom operations.
pub struct HeadMemory {
    pub storage: Storage,
    /// Hidden states before the final norm: `[n_embd, rows]`, F32. Receives gradients or means, if wanted.
    pub hidden: TensorId,
    /// Labels `[rows]`, I32, or [`BY_MEAN`](super::head::BY_MEAN).
    pub labels: TensorId,
    /// Mean embeddings of the targets that are distributions: `[n_embd, rows]`, F32.
    pub means: TensorId,
    /// Receives [`STATS`] numbers a row, F32.
    pub stats: TensorId,
}

impl Memory {
    pub fn new(
        model: &Model,
        options: &NetworkOptions,
        adapter: Option<&DeviceAdapter>,
        backend: &Backend,
    ) -> Result<Self, GgmlError> {
        let spec = &model.spec;
        let (n, saved_type) = (options.max_tokens, options.kernels.saved);
        let mut builder = StorageBuilder::new();
        let changed = |layer: &[FusedLora; 4]| layer.iter().any(|fused| fused.rank > 0);
        let first = adapter.and_then(|a| a.layers.iter().position(changed));
        let first = first.unwrap_or(0);
        let n_x = match adapter {
            Some(_) if options.checkpoint => spec.n_layer - first + 1,
            _ => 2,
        };
        let x = (0..n_x)
            .map(|_| builder.add(GgmlType::F32, &[spec.n_embd, n]))
            .collect();
        let n_saved = match adapter {
            None => 0,
            Some(_) if options.checkpoint => 1,
            Some(_) => spec.n_layer - first,
        };
        let mut saved: Vec<_> = (0..n_saved)
            .map(|slot| {
                let rank = |which: usize| {
                    let layers = adapter.map(|a| a.layers.as_slice()).unwrap_or_default();
                    // A slot that serves all layers must fit the largest.
                    let fits = |layer: usize| n_saved == 1 || layer == first + slot;
                    let ranks = layers.iter().enumerate().filter(|(layer, _)| fits(*layer));
                    ranks.map(|(_, fused)| fused[which].rank).max().unwrap_or(0)
                };
                Saved {
                    input: builder.add(saved_type, &[spec.n_embd, n]),
                    qkv: builder.add(saved_type, &[spec.n_qkv(), n]),
                    attn: builder.add(saved_type, &[spec.n_attn(), n]),
                    lse: builder.add(GgmlType::F32, &[spec.n_head, n]),
                    middle: builder.add(saved_type, &[spec.n_embd, n]),
                    gate_up: match spec.experts {
                        None => builder.add(saved_type, &[2 * spec.n_ff, n]),
                        // They are asked again on the way back.
                        Some(_) => builder.add(saved_type, &[1]),
                    },
                    results: spec
                        .layout
                        .post_norms
                        .then(|| [0; 2].map(|_| builder.add(saved_type, &[spec.n_embd, n]))),
                    thin: std::array::from_fn(|which| {
                        (rank(which) > 0).then(|| builder.add(GgmlType::F32, &[rank(which), n]))
                    }),
                }
            })
            .collect();
        let gradient = builder.add(
            GgmlType::F32,
            &[spec.n_embd, if n_saved == 0 { 1 } else { n }],
        );
        if saved.is_empty() {
            // Forward passes that keep nothing never touch these.
            let unused = gradient;
            saved.push(Saved {
                input: unused,
                qkv: unused,
                attn: unused,
                lse: unused,
                middle: unused,
                gate_up: unused,
                results: None,
                thin: [None; 4],
            });
        }
        let half = spec.rope.n_dims / 2;
        let is_portable = options.device.is_some();
        let mut tables = || match is_portable {
            false => [0; 2].map(|_| builder.add(GgmlType::F32, &[half, n])),
            true => [
                builder.add(GgmlType::I32, &[n]),
                builder.add(GgmlType::F32, &[half]),
            ],
        };
        let everywhere = tables();
        let windowed = match own_rope(spec) {
            Some(_) => tables(),
            None => everywhere,
        };
        let n_indices = model.tallest_weight().max(spec.n_vocab);
        let portable = is_portable.then(|| {
            let indices = builder.add(GgmlType::I32, &[n_indices]);
            let everywhere = builder.add(GgmlType::F32, &[n * n]);
            let windowed = match spec.window {
                Some(_) => builder.add(GgmlType::F32, &[n * n]),
                None => everywhere,
            };
            [everywhere, windowed].map(|mask| PortableIds { indices, mask })
        });
        let experts = spec.experts.map(|experts| {
            let mut add = |width, n| builder.add(GgmlType::F32, &[width, n]);
            let n_rows = experts.n_used * n;
            ExpertMemory {
                middle: add(spec.n_embd, n),
                logits: add(experts.n, n),
                results: add(spec.n_embd, n_rows),
                gradients: add(spec.n_embd, if n_saved == 0 { 1 } else { n_rows }),
            }
        });
        let mut storage = builder.build(backend)?;
        if let Some([PortableIds { indices, .. }, _]) = portable {
            let indices_from_0: Vec<i32> = (0..n_indices as i32).collect();
            storage.write(indices, &indices_from_0)?;
        }
        Ok(Self {
            experts,
            storage,
            x,
            saved,
            first,
            gradient,
            rope: [everywhere, windowed],
            portable,
        })
    }

    /// Which fragments blocks without and with a window are put together from.
    pub fn makes(&self, options: &NetworkOptions) -> [Make; 2] {
        match self.portable {
            None => [Make::Custom(options.kernels.scratch); 2],
            Some(ids) => ids.map(Make::Portable),
        }
    }

    /// 0, 1, 2 and so on, for portable fragments.
    ///
    /// # Panics
    /// If there are none.
    pub fn indices(&self) -> TensorId {
        self.portable.expect("portable fragments")[0].indices
    }

    /// Writes the masks of portable fragments, of blocks without and with a window.
    pub fn write_masks(&mut self, attention: &[Attention; 2]) -> Result<(), GgmlError> {
        let Some([everywhere, windowed]) = self.portable else {
            return Ok(());
        };
        let mut write = |ids: PortableIds, attention: &Attention| {
            self.storage.write_at(ids.mask, 0, &attention.mask())
        };
        write(everywhere, &attention[0])?;
        match windowed.mask == everywhere.mask {
            true => Ok(()),
            false => write(windowed, &attention[1]),
        }
    }

    /// What a layer saves in; anything for a layer that saves nothing.
    pub fn saved(&self, layer: usize) -> Saved {
        self.saved[layer.saturating_sub(self.first) % self.saved.len()]
    }

    /// Where a layer's input is, and the output of the last where `layer` is one more than it: the inputs of layers from `first` on
    /// are kept where layers are recomputed.
    pub fn x(&self, layer: usize) -> TensorId {
        match self.x.len() {
            2 => self.x[layer % 2],
            // Below, two of them take turns, so that the input of `first` comes to lie in its place.
            _ if layer < self.first => self.x[(self.first - layer) % 2],
            _ => self.x[layer - self.first],
        }
    }

    pub fn write_rope(&mut self, model: &Model, positions: &[u32]) -> Result<(), GgmlError> {
        let spec = &model.spec;
        let ropes = [
            (Some(&spec.rope), self.rope[0]),
            (own_rope(spec), self.rope[1]),
        ];
        for (rope, tables) in ropes {
            let Some(rope) = rope else { continue };
            let frequencies = rope.frequencies(model.rope_factors.as_deref());
            if self.portable.is_some() {
                let positions: Vec<i32> = positions.iter().map(|p| *p as i32).collect();
                self.storage.write_at(tables[0], 0, &positions)?;
                self.storage
                    .write_at(tables[1], 0, &rope_factors(&frequencies))?;
                continue;
            }
            let magnitude = f64::from(rope.magnitude);
            let angles = positions
                .iter()
                .flat_map(|p| frequencies.iter().map(move |f| f64::from(*p) * f));
            let (cos, sin): (Vec<f32>, Vec<f32>) = angles
                .map(|a| ((magnitude * a.cos()) as f32, (magnitude * a.sin()) as f32))
                .unzip();
            self.storage.write_at(tables[0], 0, &cos)?;
            self.storage.write_at(tables[1], 0, &sin)?;
        }
        Ok(())
    }
}

/// Rotary embedding of blocks with a window, where it is another.
fn own_rope(spec: &BlockSpec) -> Option<&Rope> {
    let rope = spec.window.as_ref().map(|window| &window.rope);
    rope.filter(|rope| **rope != spec.rope)
}

impl HeadRows {
    pub fn new(
        model: &Model,
        options: &NetworkOptions,
        backend: &Backend,
    ) -> Result<Self, GgmlError> {
        let rows = options.head_rows;
        Ok(match options.device {
            None => Self::Custom(HeadMemory::new(model.spec.n_embd, rows, backend)?),
            Some(_) => Self::Portable(ChunkMemory::new(model, rows, backend)?),
        })
    }

    /// Where hidden states are, and what took their place.
    pub fn hidden(&self) -> (&Storage, TensorId) {
        match self {
            Self::Custom(memory) => (&memory.storage, memory.hidden),
            Self::Portable(memory) => (&memory.storage, memory.hidden),
        }
    }

    pub fn n_bytes(&self) -> usize {
        self.hidden().0.n_bytes()
    }
}

impl HeadMemory {
    fn new(n_embd: usize, rows: usize, backend: &Backend) -> Result<Self, GgmlError> {
        let mut builder = StorageBuilder::new();
        Ok(Self {
            hidden: builder.add(GgmlType::F32, &[n_embd, rows]),
            labels: builder.add(GgmlType::I32, &[rows]),
            means: builder.add(GgmlType::F32, &[n_embd, rows]),
            stats: builder.add(GgmlType::F32, &[STATS, rows]),
            storage: builder.build(backend)?,
        })
    }

    /// Writes a chunk: hidden states, labels, and means where targets are distributions.
    pub fn write(
        &mut self,
        hidden: &[f32],
        labels: &[i32],
        means: &[Option<&[f32]>],
    ) -> Result<(), GgmlError> {
        self.storage.write_at(self.hidden, 0, hidden)?;
        self.storage.write_at(self.labels, 0, labels)?;
        for (row, mean) in means.iter().enumerate() {
            if let Some(mean) = mean {
                let offset = row * size_of_val(*mean);
                self.storage.write_at(self.means, offset, mean)?;
            }
        }
        Ok(())
    }
}
