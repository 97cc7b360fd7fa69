//! The graphs of one block: forward, and backward from the gradient of its output.

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::custom::Work;
use thumbprint_ggml::ggml::{GgmlError, Graph, Storage, Tensor, TensorId};

use super::adapter::{DeviceAdapter, FusedLora};
use super::builder::{Builder, LoadedWeights, RopeTables};
use super::kernels::attention::{Attention, Segment};
use super::kernels::dropout::Dropout;
use super::kernels::element::Element;
use super::scratch::Scratch;
use crate::model::{BlockSpec, Fused, LayerWeights, Model};

type Result<T> = std::result::Result<T, GgmlError>;

/// Tensors that one graph of a block may need.
pub const GRAPH_NODES: usize = 160;

/// What a block's backward pass needs of its forward pass besides its input: tensors of at least `n_tokens` columns.
#[derive(Debug, Clone, Copy)]
pub struct Saved {
    /// Rotated queries and keys, and values: `[n_qkv, n]`.
    pub qkv: TensorId,
    /// The attention's output before its projection: `[n_attn, n]`.
    pub attn: TensorId,
    /// Log-sum-exp of attention scores: `[n_head, n]`, F32.
    pub lse: TensorId,
    /// The residual stream after attention: `[n_embd, n]`, F32.
    pub middle: TensorId,
    /// Gate and up: `[2 n_ff, n]`.
    pub gate_up: TensorId,
    /// Thin side of each fused projection's adapter: `[rank, n]`, F32; none where the adapter has no part there.
    pub thin: [Option<TensorId>; 4],
}

/// Everything that a block's graphs refer to.
pub struct LayerContext<'a> {
    pub model: &'a Model,
    pub adapter: Option<&'a DeviceAdapter>,
    pub layer: usize,
    pub saved: Saved,
    /// Where `saved` lies.
    pub storage: &'a Storage,
    /// Cosines and sines of rotary embedding.
    pub rope: (&'a Storage, TensorId, TensorId),
    pub attention: &'a Attention,
    pub scratch: Scratch,
    pub n_tokens: usize,
    /// Dropout of the adapter's inputs; none outside of training.
    pub dropout: Option<Dropout>,
}

/// How far a forward pass of a block goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// To the block's output, saving nothing.
    Output,
    /// To the block's output, saving what the backward pass needs.
    OutputAndSave,
    /// Only what the backward pass needs.
    Save,
}

impl<'a> LayerContext<'a> {
    fn weights(&self) -> &'a LayerWeights {
        &self.model.layers[self.layer]
    }

    fn spec(&self) -> &'a BlockSpec {
        &self.model.spec
    }

    /// Builds the forward pass from `input` to `output`, both `[n_embd, n]` in F32.
    pub fn forward(
        &self,
        graph: &Graph<'a>,
        input: (&'a Storage, TensorId),
        output: (&'a Storage, TensorId),
        extent: Extent,
    ) -> Result<()> {
        let (spec, weights) = (self.spec(), self.weights());
        let b = self.builder(graph);
        let save = extent != Extent::Output;
        let x = self.columns(graph, input.0, input.1)?;

        let h = b.norm(spec.norm, x, self.weight(graph, weights.attn_norm)?)?;
        let rope = self.rope_tables(graph)?.map(|tables| (spec, tables));
        let qkv = self.projection(&b, 0, &weights.qkv, h, None, rope, save)?;
        let (attn, lse) = self.attention(graph, qkv)?;
        let middle = self.projection(&b, 1, &weights.attn_output, attn, Some(x), None, save)?;
        let h = b.norm(spec.norm, middle, self.weight(graph, weights.ffn_norm)?)?;
        let gate_up = self.projection(&b, 2, &weights.gate_up, h, None, None, save)?;
        if save {
            let targets = [
                self.saved.qkv,
                self.saved.attn,
                self.saved.lse,
                self.saved.middle,
                self.saved.gate_up,
            ];
            for (tensor, target) in [qkv, attn, lse, middle, gate_up].into_iter().zip(targets) {
                graph.store(tensor, self.columns(graph, self.storage, target)?)?;
            }
        }
        let act = b.activation(gate_up)?;
        if extent == Extent::Save {
            return self.save_thin(&b, 3, act);
        }
        let y = self.projection(&b, 3, &weights.down, act, Some(middle), None, save)?;
        graph.store(y, self.columns(graph, output.0, output.1)?)
    }

    /// Builds the backward pass: from `gradient` `[n_embd, n]`, the gradient of the block's output, to the gradient of its input
    /// in the same place (left alone when `input_gradient` is false), and the gradients of the adapter's factors.
    pub fn backward(
        &self,
        graph: &Graph<'a>,
        input: (&'a Storage, TensorId),
        gradient: (&'a Storage, TensorId),
        input_gradient: bool,
    ) -> Result<()> {
        let (spec, weights) = (self.spec(), self.weights());
        let b = self.builder(graph);
        let dy = self.columns(graph, gradient.0, gradient.1)?;
        let gate_up = self.saved(graph, self.saved.gate_up)?;
        let middle = self.saved(graph, self.saved.middle)?;

        let act = b.activation(gate_up)?;
        let added = b.scaled(dy, spec.residual_scale)?;
        let d_act = self.projection_backward(&b, 3, &weights.down, act, added, true)?;
        let d_gate_up = b.activation_backward(gate_up, require(d_act)?)?;
        let norm = self.weight(graph, weights.ffn_norm)?;
        let h = b.norm(spec.norm, middle, norm)?;
        let dh = self.projection_backward(&b, 2, &weights.gate_up, h, d_gate_up, true)?;
        let d_middle = b.norm_backward(spec.norm, middle, norm, require(dh)?, Some(dy))?;

        let attn = self.saved(graph, self.saved.attn)?;
        let attn_f32 = graph.to_f32(attn)?;
        let added = b.scaled(d_middle, spec.residual_scale)?;
        let d_attn =
            self.projection_backward(&b, 1, &weights.attn_output, attn_f32, added, true)?;
        let (dq, dkv) = self.attention_backward(graph, attn, require(d_attn)?)?;
        let d_qkv = b.join_qkv_gradients(spec, dq, dkv, self.rope_tables(graph)?)?;
        let x = self.columns(graph, input.0, input.1)?;
        let norm = self.weight(graph, weights.attn_norm)?;
        let h = b.norm(spec.norm, x, norm)?;
        let dh = self.projection_backward(&b, 0, &weights.qkv, h, d_qkv, input_gradient)?;
        match dh {
            Some(dh) => {
                let dx = b.norm_backward(spec.norm, x, norm, dh, Some(d_middle))?;
                graph.store(dx, dy)
            }
            None => Ok(()),
        }
    }

    // ---- projections with the adapter ----

    #[allow(clippy::too_many_arguments)]
    fn projection<'g>(
        &self,
        b: &Builder<'g, 'a>,
        which: usize,
        fused: &'a Fused,
        x: Tensor<'g>,
        residual: Option<Tensor<'g>>,
        rope: Option<(&BlockSpec, RopeTables<'g>)>,
        save: bool,
    ) -> Result<Tensor<'g>> {
        let loaded = self.load(b.graph, fused)?;
        let mut y = b.project(&loaded.weights, x)?;
        if let Some((lora, a_factors, b_factors, scale)) = self.lora(b.graph, which)? {
            let t = b.thin(
                b.dropped(x, self.dropout(which))?,
                a_factors,
                &lora.a_spans,
                scale,
            )?;
            if save {
                self.store_thin(b.graph, which, t)?;
            }
            y = b.add_expanded(y, t, b_factors, &lora.b_spans, None)?;
        }
        let residual = residual.map(|x| (x, self.spec().residual_scale));
        b.epilogue(y, &loaded.biases, residual, rope)
    }

    /// The thin side alone, for a projection whose output is not needed.
    fn save_thin<'g>(&self, b: &Builder<'g, 'a>, which: usize, x: Tensor<'g>) -> Result<()> {
        match self.lora(b.graph, which)? {
            Some((lora, a, _, scale)) => {
                let t = b.thin(b.dropped(x, self.dropout(which))?, a, &lora.a_spans, scale)?;
                self.store_thin(b.graph, which, t)
            }
            None => Ok(()),
        }
    }

    /// Gradients of the projection's factors, and (if wanted) of its input `x`.
    fn projection_backward<'g>(
        &self,
        b: &Builder<'g, 'a>,
        which: usize,
        fused: &'a Fused,
        x: Tensor<'g>,
        dy: Tensor<'g>,
        input_gradient: bool,
    ) -> Result<Option<Tensor<'g>>> {
        let graph = b.graph;
        let mut thin_gradient = None;
        if let Some((lora, a_factors, b_factors, scale)) = self.lora(graph, which)?
            && let (Some(adapter), Some(saved)) = (self.adapter, self.saved.thin[which])
            && let Some(gradients) = adapter.gradient_factors[which]
        {
            let t = self.saved_thin(graph, saved, lora.rank)?;
            let db = b.factor_gradients(t, dy, &lora.b_spans)?;
            self.store_prefix(graph, db, (&adapter.gradients, gradients.b))?;
            let dt = b.thin(dy, b_factors, &lora.b_spans, scale)?;
            let da = b.factor_gradients(dt, b.dropped(x, self.dropout(which))?, &lora.a_spans)?;
            self.store_prefix(graph, da, (&adapter.gradients, gradients.a))?;
            thin_gradient = Some((dt, a_factors, lora));
        }
        if !input_gradient {
            return Ok(None);
        }
        let dx = b.project_backward(&self.load(graph, fused)?.weights, dy)?;
        Ok(Some(match thin_gradient {
            Some((dt, a, lora)) => b.add_expanded(dx, dt, a, &lora.a_spans, self.dropout(which))?,
            None => dx,
        }))
    }

    // ---- attention ----

    fn attention<'g>(
        &self,
        graph: &'g Graph<'a>,
        qkv: Tensor<'g>,
    ) -> Result<(Tensor<'g>, Tensor<'g>)> {
        let (spec, n, geometry) = (self.spec(), self.n_tokens, self.attention);
        let (n_attn, n_head) = (spec.n_attn(), spec.n_head);
        let work = two_outputs("attention", geometry, n, n_attn, n_head);
        let both = graph.custom(
            GgmlType::F32,
            [n * (n_attn + n_head), 1, 1, 1],
            &[qkv],
            work,
            Box::new(move |unit, args, out| {
                let (attn, lse) = out.pair::<f32, f32>();
                geometry.forward(unit, args.f32(0), attn, lse);
            }),
        )?;
        split(graph, both, n, n_attn, n_head)
    }

    fn attention_backward<'g>(
        &self,
        graph: &'g Graph<'a>,
        attn: Tensor<'g>,
        d_attn: Tensor<'g>,
    ) -> Result<(Tensor<'g>, Tensor<'g>)> {
        match attn.ty() {
            GgmlType::F32 => self.attention_backward_of::<f32>(graph, attn, d_attn),
            _ => self.attention_backward_of::<u16>(graph, attn, d_attn),
        }
    }

    fn attention_backward_of<'g, T: Element>(
        &self,
        graph: &'g Graph<'a>,
        attn: Tensor<'g>,
        d_attn: Tensor<'g>,
    ) -> Result<(Tensor<'g>, Tensor<'g>)> {
        let (spec, n, geometry) = (self.spec(), self.n_tokens, self.attention);
        let (n_attn, n_head) = (spec.n_attn(), spec.n_head);
        let qkv = self.saved(graph, self.saved.qkv)?;
        let lse = self.saved(graph, self.saved.lse)?;

        let work = two_outputs("attention_backward_queries", geometry, n, n_attn, n_head);
        let args = [qkv, attn, d_attn, lse];
        let both = graph.custom(
            GgmlType::F32,
            [n * (n_attn + n_head), 1, 1, 1],
            &args,
            work,
            Box::new(move |unit, args, out| {
                let (qkv, attn) = (args.view::<T>(0), args.view::<T>(1));
                geometry.backward_queries(unit, qkv, attn, args.f32(2), args.f32(3), out.pair());
            }),
        )?;
        let (dq, delta) = split(graph, both, n, n_attn, n_head)?;

        let width = 2 * spec.n_head_kv * spec.head_dim;
        let offsets = bytes(geometry.unit_offsets(width), 0);
        let work = Work {
            name: "attention_backward_keys",
            n_units: geometry.n_units(),
            regions: vec![offsets],
        };
        let dkv = graph.custom(
            GgmlType::F32,
            [width, n, 1, 1],
            &[qkv, d_attn, lse, delta],
            work,
            Box::new(move |unit, args, out| {
                let (d_attn, lse, delta) = (args.f32(1), args.f32(2), args.f32(3));
                geometry.backward_keys(unit, args.view::<T>(0), d_attn, lse, delta, out.region(0));
            }),
        )?;
        Ok((dq, dkv))
    }

    // ---- loading and storing ----

    fn builder<'g>(&self, graph: &'g Graph<'a>) -> Builder<'g, 'a> {
        Builder {
            graph,
            scratch: self.scratch,
            n_tokens: self.n_tokens,
        }
    }

    fn weight<'g>(&self, graph: &'g Graph<'a>, id: TensorId) -> Result<Tensor<'g>> {
        graph.load(&self.model.storage, id)
    }

    fn load<'g>(&self, graph: &'g Graph<'a>, fused: &Fused) -> Result<LoadedWeights<'g>> {
        let mut loaded = LoadedWeights {
            weights: Vec::new(),
            biases: Vec::new(),
        };
        let mut start = 0;
        for part in &fused.parts {
            loaded.weights.push(self.weight(graph, part.weight)?);
            if let Some(bias) = part.bias {
                loaded.biases.push((start, self.weight(graph, bias)?));
            }
            start += part.n_out;
        }
        Ok(loaded)
    }

    #[allow(clippy::type_complexity)]
    fn lora<'g>(
        &self,
        graph: &'g Graph<'a>,
        which: usize,
    ) -> Result<Option<(&'a FusedLora, Tensor<'g>, Tensor<'g>, f32)>> {
        let Some(adapter) = self.adapter else {
            return Ok(None);
        };
        let Some(factors) = adapter.factors[self.layer][which] else {
            return Ok(None);
        };
        let a = graph.load(&adapter.storage, factors.a)?;
        let b = graph.load(&adapter.storage, factors.b)?;
        Ok(Some((
            &adapter.layers[self.layer][which],
            a,
            b,
            adapter.scale,
        )))
    }

    fn dropout(&self, which: usize) -> Option<Dropout> {
        self.dropout
            .map(|dropout| dropout.derive((self.layer * 4 + which) as u64))
    }

    /// `None` where this block does not rotate.
    fn rope_tables<'g>(&self, graph: &'g Graph<'a>) -> Result<Option<RopeTables<'g>>> {
        if !self.spec().rotates(self.layer) {
            return Ok(None);
        }
        let (storage, cos, sin) = self.rope;
        Ok(Some(RopeTables {
            cos: self.columns(graph, storage, cos)?,
            sin: self.columns(graph, storage, sin)?,
        }))
    }

    fn saved<'g>(&self, graph: &'g Graph<'a>, id: TensorId) -> Result<Tensor<'g>> {
        self.columns(graph, self.storage, id)
    }

    /// The first `n_tokens` columns of a stored tensor.
    fn columns<'g>(
        &self,
        graph: &'g Graph<'a>,
        storage: &'a Storage,
        id: TensorId,
    ) -> Result<Tensor<'g>> {
        graph.rows(graph.load(storage, id)?, 0, self.n_tokens)
    }

    fn store_thin<'g>(&self, graph: &'g Graph<'a>, which: usize, t: Tensor<'g>) -> Result<()> {
        match self.saved.thin[which] {
            Some(id) => graph.store(t, self.saved_thin(graph, id, t.ne()[0])?),
            None => Ok(()),
        }
    }

    /// A stored thin side as `[rank, n]`: a slot that serves all layers may be wider than this one needs.
    fn saved_thin<'g>(
        &self,
        graph: &'g Graph<'a>,
        id: TensorId,
        rank: usize,
    ) -> Result<Tensor<'g>> {
        let row = rank * size_of::<f32>();
        let strides = [row, row * self.n_tokens, row * self.n_tokens];
        graph.view(
            graph.load(self.storage, id)?,
            [rank, self.n_tokens, 1, 1],
            strides,
            0,
        )
    }

    /// Stores a vector at the beginning of a stored one that may be longer.
    fn store_prefix<'g>(
        &self,
        graph: &'g Graph<'a>,
        from: Tensor<'g>,
        (storage, id): (&'a Storage, TensorId),
    ) -> Result<()> {
        let target = graph.load(storage, id)?;
        graph.store(from, graph.columns(target, 0, from.ne()[0])?)
    }
}

/// Attention of the model's geometry over packed segments.
pub fn attention(spec: &BlockSpec, segments: &[Segment]) -> Attention {
    Attention::new(
        spec.n_head,
        spec.n_head_kv,
        spec.head_dim,
        spec.attention_scale,
        segments,
    )
}

/// Work of an attention operation with `[n, first]` and behind it `[n, second]` as outputs.
fn two_outputs(
    name: &'static str,
    geometry: &Attention,
    n: usize,
    first: usize,
    second: usize,
) -> Work {
    let regions = vec![
        bytes(geometry.unit_offsets(first), 0),
        bytes(geometry.unit_offsets(second), n * first),
    ];
    Work {
        name,
        n_units: geometry.n_units(),
        regions,
    }
}

fn bytes(offsets: Vec<usize>, start: usize) -> Vec<usize> {
    offsets
        .into_iter()
        .map(|n| (start + n) * size_of::<f32>())
        .collect()
}

fn split<'g>(
    graph: &'g Graph<'_>,
    both: Tensor<'g>,
    n: usize,
    first: usize,
    second: usize,
) -> Result<(Tensor<'g>, Tensor<'g>)> {
    let view = |width: usize, start: usize| {
        let row = width * size_of::<f32>();
        graph.view(
            both,
            [width, n, 1, 1],
            [row, row * n, row * n],
            start * size_of::<f32>(),
        )
    };
    Ok((view(first, 0)?, view(second, n * first)?))
}

fn require(gradient: Option<Tensor<'_>>) -> Result<Tensor<'_>> {
    gradient.ok_or(GgmlError::Failed {
        what: "input gradient",
        status: -1,
    })
}
