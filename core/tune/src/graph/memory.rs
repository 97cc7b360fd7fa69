//! Tensors that last from graph to graph: states, what is kept for the backward pass, the head's rows.

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::{Backend, GgmlError, Storage, StorageBuilder, TensorId};

use super::adapter::DeviceAdapter;
use super::kernels::head::STATS;
use super::layer::Saved;
use super::network::NetworkOptions;
use crate::model::Model;

/// Tensors that last from graph to graph.
pub struct Memory {
    pub storage: Storage,
    /// Inputs of the layers and the output of the last, `[n_embd, max]`; without an adapter only two that take turns.
    pub x: Vec<TensorId>,
    /// One per layer, or one for all when checkpointing.
    pub saved: Vec<Saved>,
    /// Gradient of the current layer's output, `[n_embd, max]`.
    pub gradient: TensorId,
    pub cos: TensorId,
    pub sin: TensorId,
}

/// What the head reads and writes, a chunk of rows at a time.
pub struct HeadMemory {
    pub storage: Storage,
    pub hidden: TensorId,
    pub labels: TensorId,
    pub means: TensorId,
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
        let n_x = if adapter.is_some() {
            spec.n_layer + 1
        } else {
            2
        };
        let x = (0..n_x)
            .map(|_| builder.add(GgmlType::F32, &[spec.n_embd, n]))
            .collect();
        let n_saved = match adapter {
            None => 0,
            Some(_) if options.checkpoint => 1,
            Some(_) => spec.n_layer,
        };
        let mut saved: Vec<_> = (0..n_saved)
            .map(|slot| {
                let rank = |which: usize| {
                    let layers = adapter.map(|a| a.layers.as_slice()).unwrap_or_default();
                    // A slot that serves all layers must fit the largest.
                    let fits = |layer: usize| n_saved == 1 || layer == slot;
                    let ranks = layers.iter().enumerate().filter(|(layer, _)| fits(*layer));
                    ranks.map(|(_, fused)| fused[which].rank).max().unwrap_or(0)
                };
                Saved {
                    qkv: builder.add(saved_type, &[spec.n_qkv(), n]),
                    attn: builder.add(saved_type, &[spec.n_attn(), n]),
                    lse: builder.add(GgmlType::F32, &[spec.n_head, n]),
                    middle: builder.add(GgmlType::F32, &[spec.n_embd, n]),
                    gate_up: builder.add(saved_type, &[2 * spec.n_ff, n]),
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
                qkv: unused,
                attn: unused,
                lse: unused,
                middle: unused,
                gate_up: unused,
                thin: [None; 4],
            });
        }
        let half = spec.rope.n_dims / 2;
        let cos = builder.add(GgmlType::F32, &[half, n]);
        let sin = builder.add(GgmlType::F32, &[half, n]);
        Ok(Self {
            storage: builder.build(backend)?,
            x,
            saved,
            gradient,
            cos,
            sin,
        })
    }

    pub fn write_rope(&mut self, model: &Model, positions: &[u32]) -> Result<(), GgmlError> {
        let rope = &model.spec.rope;
        let half = rope.n_dims / 2;
        let frequencies: Vec<f64> = (0..half)
            .map(|i| {
                let factor = model.rope_factors.as_ref().map_or(1.0, |f| f64::from(f[i]));
                rope.freq_scale * rope.freq_base.powf(-2.0 * i as f64 / rope.n_dims as f64) / factor
            })
            .collect();
        let angles = positions
            .iter()
            .flat_map(|p| frequencies.iter().map(move |f| f64::from(*p) * f));
        let (cos, sin): (Vec<f32>, Vec<f32>) =
            angles.map(|a| (a.cos() as f32, a.sin() as f32)).unzip();
        self.storage.write_at(self.cos, 0, &cos)?;
        self.storage.write_at(self.sin, 0, &sin)?;
        Ok(())
    }
}

impl HeadMemory {
    pub fn new(
        model: &Model,
        options: &NetworkOptions,
        backend: &Backend,
    ) -> Result<Self, GgmlError> {
        let mut builder = StorageBuilder::new();
        let hidden = builder.add(GgmlType::F32, &[model.spec.n_embd, options.head_rows]);
        let labels = builder.add(GgmlType::I32, &[options.head_rows]);
        let means = builder.add(GgmlType::F32, &[model.spec.n_embd, options.head_rows]);
        let stats = builder.add(GgmlType::F32, &[STATS, options.head_rows]);
        Ok(Self {
            storage: builder.build(backend)?,
            hidden,
            labels,
            means,
            stats,
        })
    }
}
