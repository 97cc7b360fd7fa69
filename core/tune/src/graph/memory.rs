//! Tensors that last from graph to graph: states, what is kept for the backward pass, the head's rows.

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::{Backend, GgmlError, Storage, StorageBuilder, TensorId};

use super::adapter::{DeviceAdapter, FusedLora};
use super::experts::ExpertMemory;
use super::layer::{Make, Saved};
use super::network::NetworkOptions;
use super::portable::{UbatchIds, rope_factors};
use crate::model::{BlockSpec, Model, Rope};

/// Tensors that last from graph to graph.
pub struct Memory {
    pub storage: Storage,
    /// The residual stream, `[n_embd, max]`: inputs of the layers that are recomputed, then two that take turns.
    pub x: Vec<TensorId>,
    /// One per layer that keeps what it computed; the first of them also serves those that are recomputed.
    pub saved: Vec<Saved>,
    /// The first layer that the adapter changes.
    pub first: usize,
    /// The first layer that keeps what it computed: those from `first` up to it are recomputed.
    pub first_kept: usize,
    /// Gradient of the current layer's output, `[n_embd, max]`.
    pub gradient: TensorId,
    /// What rotary embedding needs, in blocks without and with a window, which may be the same: cosines and sines, `[n_dims / 2, max]`
    /// each; for portable fragments positions and factors.
    pub rope: [[TensorId; 2]; 2],
    /// What portable fragments read.
    pub portable: Option<UbatchIds>,
    pub experts: Option<ExpertMemory>,
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
        let first = adapter.and_then(|a| a.layout.layers.iter().position(changed));
        let first = first.unwrap_or(0);
        let n_changed = adapter.map_or(0, |_| spec.n_layer - first);
        let recomputed = options.recomputed_layers.min(n_changed.saturating_sub(1));
        let x = (0..recomputed + 2)
            .map(|_| builder.add(GgmlType::F32, &[spec.n_embd, n]))
            .collect();
        let (n_saved, first_kept) = (n_changed - recomputed, first + recomputed);
        // Layers that are recomputed have just computed gate and up. Experts are asked again on the way back, too.
        let keeps_gate_up = |slot| {
            let is_shared = slot == 0 && recomputed > 0;
            spec.experts.is_none() && (is_shared || !options.recompute_gate_up)
        };
        let mut saved: Vec<_> = (0..n_saved)
            .map(|slot| {
                let rank = |which: usize| {
                    let layers = adapter
                        .map(|a| a.layout.layers.as_slice())
                        .unwrap_or_default();
                    // A slot that serves several layers must fit the largest.
                    let uses = |layer: usize| layer.saturating_sub(first_kept) == slot;
                    let ranks = layers.iter().enumerate().filter(|(layer, _)| uses(*layer));
                    ranks.map(|(_, fused)| fused[which].rank).max().unwrap_or(0)
                };
                Saved {
                    input: builder.add(saved_type, &[spec.n_embd, n]),
                    qkv: builder.add(saved_type, &[spec.n_qkv(), n]),
                    attn: builder.add(saved_type, &[spec.n_attn(), n]),
                    lse: builder.add(GgmlType::F32, &[spec.n_head, n]),
                    middle: builder.add(saved_type, &[spec.n_embd, n]),
                    gate_up: keeps_gate_up(slot)
                        .then(|| builder.add(saved_type, &[2 * spec.n_ff, n])),
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
                gate_up: None,
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
        let portable = is_portable.then(|| UbatchIds::add(&mut builder, model, n));
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
        if let Some(ids) = portable {
            ids.write_constants(&mut storage)?;
        }
        Ok(Self {
            experts,
            storage,
            x,
            saved,
            first,
            first_kept,
            gradient,
            rope: [everywhere, windowed],
            portable,
        })
    }

    /// Which fragments blocks without and with a window are put together from.
    pub fn makes(&self, options: &NetworkOptions) -> [Make; 2] {
        match self.portable {
            None => [Make::Custom(options.kernels.scratch); 2],
            Some(ids) => ids.fragments.map(Make::Portable),
        }
    }

    /// What portable fragments read.
    ///
    /// # Panics
    /// If there are none.
    pub fn portable_ids(&self) -> UbatchIds {
        self.portable.expect("portable fragments")
    }

    /// What a layer saves in; anything for a layer that saves nothing.
    pub fn saved(&self, layer: usize) -> Saved {
        let slot = layer.saturating_sub(self.first_kept);
        // A network without an adapter has one, which nothing is saved in.
        self.saved[slot.min(self.saved.len() - 1)]
    }

    /// Whether a layer's forward pass keeps what its backward pass needs, rather than its input alone or nothing.
    pub fn keeps(&self, layer: usize) -> bool {
        layer >= self.first_kept
    }

    /// Where a layer's input is, and the output of the last where `layer` is one more than it.
    pub fn x(&self, layer: usize) -> TensorId {
        match layer.checked_sub(self.first_kept) {
            Some(above) => self.x[self.first_kept - self.first + above % 2],
            // Below `first` two take turns as well, so that its input comes to lie in its place.
            None if layer < self.first => self.x[(self.first - layer) % 2],
            None => self.x[layer - self.first],
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
