//! The graphs of one block: forward, and backward from the gradient of its output.

use std::ops::Range;
use std::sync::Arc;

use thumbprint_ggml::GgmlType;
use thumbprint_ggml::ggml::{Binary, GgmlError, Graph, Storage, Tensor, TensorId};

use super::adapter::{DeviceAdapter, FusedLora};
use super::builder::Builder;
use super::experts::{ExpertMemory, Experts, Routes, exact};
use super::fragments::{Fragments, LoadedNorm, LoadedWeights, Result, RopeTables, Weights};
use super::kept::Kept;
use super::kernels::attention::{Attention, Scoring, Segment};
use super::kernels::dropout::Dropout;
use super::portable::{self, Portable, PortableIds};
use super::scratch::Scratch;
use crate::model::{BlockSpec, Fused, LayerWeights, Model, NormWeights};

/// Which fragments graphs are put together from.
#[derive(Debug, Clone, Copy)]
pub enum Make {
    /// `builder`'s, with frozen weights made into this first.
    Custom(Scratch),
    /// `portable`'s.
    Portable(PortableIds),
}

/// Tensors that one graph of a block may need.
pub fn graph_nodes(spec: &BlockSpec) -> usize {
    240 + 40 * spec.experts.map_or(0, |experts| experts.n)
}

/// The same out of portable fragments.
pub fn portable_graph_nodes(spec: &BlockSpec, n_tokens: usize) -> usize {
    graph_nodes(spec) + 800 + 80 * portable::shares(spec.n_head, n_tokens)
}

/// What a block's backward pass needs of its forward pass: tensors of at least `n_tokens` columns.
#[derive(Debug, Clone, Copy)]
pub struct Saved {
    /// The block's input: `[n_embd, n]`.
    pub input: TensorId,
    /// Queries, keys and values: `[n_qkv, n]`. Before norms and rotation where queries and keys are normed, else after.
    pub qkv: TensorId,
    /// The attention's output before its projection: `[n_attn, n]`.
    pub attn: TensorId,
    /// Log-sum-exp of attention scores: `[n_head, n]`, F32.
    pub lse: TensorId,
    /// The residual stream after attention: `[n_embd, n]`.
    pub middle: TensorId,
    /// Gate and up: `[2 n_ff, n]`; none where they are computed again.
    pub gate_up: Option<TensorId>,
    /// What the norms of attention's and the feed-forward part's results are taken of, where there are such: `[n_embd, n]`.
    pub results: Option<[TensorId; 2]>,
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
    /// Cosines and sines of this block's rotary embedding, in `storage`.
    pub rope: [TensorId; 2],
    pub attention: &'a Attention,
    pub make: Make,
    pub n_tokens: usize,
    /// Dropout of the adapter's inputs; none outside of training.
    pub dropout: Option<Dropout>,
    pub experts: Option<ExpertMemory>,
    /// Packed copies of frozen matrices.
    pub kept: Option<&'a Kept>,
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

    /// Builds the forward pass from `input` to `output`, both `[n_embd, n]` in F32. In a block with experts it ends at their router.
    pub fn forward(
        &self,
        graph: &Graph<'a>,
        input: TensorId,
        output: TensorId,
        extent: Extent,
    ) -> Result<()> {
        let (spec, weights) = (self.spec(), self.weights());
        let b = self.fragments(graph)?;
        let b = b.as_ref();
        let save = extent != Extent::Output;
        let x = self.saved(graph, input)?;

        let h = self.normed(b, weights.attn_norm, x)?;
        if save {
            self.save(graph, x, self.saved.input)?;
        }
        let rope = self.rope_tables(b)?;
        let (raw, qkv) = match self.qk_norms(graph)? {
            None => {
                let rope = rope.map(|tables| (spec, tables));
                let qkv = self.projection(b, 0, &weights.qkv, h, None, rope, save)?;
                (qkv, qkv)
            }
            Some(norms) => {
                let raw = self.projection(b, 0, &weights.qkv, h, None, None, save)?;
                (raw, b.norm_heads(spec, &norms, raw, rope)?)
            }
        };
        let (attn, lse) = b.attention(self.attention, qkv)?;
        if let Some(lse) = lse.filter(|_| save) {
            self.save(graph, lse, self.saved.lse)?;
        }
        let post = [weights.attn_post_norm, weights.ffn_post_norm];
        let (result, middle) = self.add(b, 1, &weights.attn_output, attn, post[0], x, save)?;
        let h = self.normed(b, weights.ffn_norm, middle)?;
        if let (Some(experts), Some(memory)) = (weights.experts, self.experts) {
            let router = self.weight(graph, experts.router)?;
            self.save(graph, middle, memory.middle)?;
            let logits = exact(&self.builder(graph)).project(&[router].into(), h)?;
            self.save(graph, logits, memory.logits)?;
            if save {
                let saved = &self.saved;
                let targets = [saved.qkv, saved.attn, saved.middle];
                for (tensor, target) in [raw, attn, middle].into_iter().zip(targets) {
                    self.save(graph, tensor, target)?;
                }
            }
            return Ok(());
        }
        let gate_up = self.projection(b, 2, &weights.gate_up, h, None, None, save)?;
        if save {
            let saved = &self.saved;
            let targets = [saved.qkv, saved.attn, saved.middle];
            for (tensor, target) in [raw, attn, middle].into_iter().zip(targets) {
                self.save(graph, tensor, target)?;
            }
            if let Some(target) = saved.gate_up {
                self.save(graph, gate_up, target)?;
            }
            if let (Some(result), Some(targets)) = (result, saved.results) {
                self.save(graph, result, targets[0])?;
            }
        }
        let act = b.activation(spec.activation, gate_up)?;
        if extent == Extent::Save && post[1].is_none() {
            return self.save_thin(b, 3, act);
        }
        let (result, y) = self.add(b, 3, &weights.down, act, post[1], middle, save)?;
        if save && let (Some(result), Some(targets)) = (result, self.saved.results) {
            self.save(graph, result, targets[1])?;
        }
        match extent {
            Extent::Save => Ok(()),
            _ => self.save(graph, y, output),
        }
    }

    /// Builds what follows [`forward`](Self::forward) in a block with experts, once it is known where tokens go.
    pub fn forward_experts(
        &self,
        graph: &Graph<'a>,
        routes: &Arc<Routes>,
        output: TensorId,
    ) -> Result<()> {
        let b = self.fragments(graph)?;
        let b = b.as_ref();
        let Some(experts) = self.experts_in(b, routes) else {
            return Ok(());
        };
        let middle = self.saved(graph, experts.memory.middle)?;
        let h = self.normed(b, self.weights().ffn_norm, middle)?;
        let y = experts.forward(h, middle)?;
        self.save(graph, y, output)
    }

    fn experts_in<'g>(
        &self,
        b: &dyn Fragments<'g, 'a>,
        routes: &Arc<Routes>,
    ) -> Option<Experts<'g, 'a>>
    where
        'a: 'g,
    {
        Some(Experts {
            graph: b.graph(),
            b: self.builder(b.graph()),
            model: &self.model.storage,
            weights: self.weights().experts.as_ref()?,
            activation: self.spec().activation,
            storage: self.storage,
            memory: self.experts?,
            routes: routes.clone(),
            scale: self.spec().residual_scale,
        })
    }

    /// Builds the backward pass: from `gradient` `[n_embd, n]`, the gradient of the block's output, to the gradient of its input
    /// in the same place (left alone when `input_gradient` is false), and the gradients of the adapter's factors.
    pub fn backward(
        &self,
        graph: &Graph<'a>,
        gradient: TensorId,
        routes: &Arc<Routes>,
        input_gradient: bool,
    ) -> Result<()> {
        let (spec, weights) = (self.spec(), self.weights());
        let b = self.fragments(graph)?;
        let b = b.as_ref();
        let dy = self.saved(graph, gradient)?;
        let middle = graph.to_f32(self.saved(graph, self.saved.middle)?)?;
        let dh = match self.experts_in(b, routes) {
            Some(experts) => experts.backward(self.normed(b, weights.ffn_norm, middle)?, dy)?,
            None => self.feed_forward_backward(b, middle, dy)?,
        };
        let d_middle = self.normed_backward(b, weights.ffn_norm, middle, dh, dy)?;

        let attn = self.saved(graph, self.saved.attn)?;
        let attn_f32 = graph.to_f32(attn)?;
        let added = self.add_backward(b, 0, weights.attn_post_norm, d_middle)?;
        let d_attn = self.projection_backward(b, 1, &weights.attn_output, attn_f32, added, true)?;
        let d_attn = require(d_attn)?;
        let saved = self.saved(graph, self.saved.qkv)?;
        let lse = self.saved(graph, self.saved.lse)?;
        let rope = self.rope_tables(b)?;
        let d_qkv = match self.qk_norms(graph)? {
            None => {
                let (dq, dkv) = b.attention_backward(self.attention, saved, attn, lse, d_attn)?;
                b.join_qkv_gradients(spec, dq, dkv, rope)?
            }
            Some(norms) => {
                let raw = graph.to_f32(saved)?;
                let qkv = b.norm_heads(spec, &norms, raw, rope)?;
                let (dq, dkv) = b.attention_backward(self.attention, qkv, attn_f32, lse, d_attn)?;
                let d_qkv = b.join_qkv_gradients(spec, dq, dkv, rope)?;
                b.norm_heads_backward(spec, &norms, raw, d_qkv)?
            }
        };
        let x = graph.to_f32(self.saved(graph, self.saved.input)?)?;
        let h = self.normed(b, weights.attn_norm, x)?;
        let dh = self.projection_backward(b, 0, &weights.qkv, h, d_qkv, input_gradient)?;
        match dh {
            Some(dh) => {
                let dx = self.normed_backward(b, weights.attn_norm, x, dh, d_middle)?;
                graph.store(dx, dy)
            }
            None => Ok(()),
        }
    }

    /// The gradient of what enters the feed-forward part.
    fn feed_forward_backward<'g>(
        &self,
        b: &dyn Fragments<'g, 'a>,
        middle: Tensor<'g>,
        dy: Tensor<'g>,
    ) -> Result<Tensor<'g>>
    where
        'a: 'g,
    {
        let (kind, weights) = (self.spec().activation, self.weights());
        let h = self.normed(b, weights.ffn_norm, middle)?;
        let gate_up = match self.saved.gate_up {
            Some(gate_up) => self.saved(b.graph(), gate_up)?,
            None => self.projection(b, 2, &weights.gate_up, h, None, None, false)?,
        };
        let act = b.activation(kind, gate_up)?;
        let added = self.add_backward(b, 1, weights.ffn_post_norm, dy)?;
        let d_act = self.projection_backward(b, 3, &weights.down, act, added, true)?;
        let d_gate_up = b.activation_backward(kind, gate_up, require(d_act)?)?;
        let dh = self.projection_backward(b, 2, &weights.gate_up, h, d_gate_up, true)?;
        require(dh)
    }

    // ---- norms and the residual stream ----

    /// `x` where there is no norm.
    fn normed<'g>(
        &self,
        b: &dyn Fragments<'g, 'a>,
        norm: Option<NormWeights>,
        x: Tensor<'g>,
    ) -> Result<Tensor<'g>>
    where
        'a: 'g,
    {
        match norm {
            Some(norm) => b.norm(&load_norm(b.graph(), self.model, norm)?, x),
            None => Ok(x),
        }
    }

    /// `residual` plus the gradient of [`normed`](Self::normed) with respect to `x`.
    fn normed_backward<'g>(
        &self,
        b: &dyn Fragments<'g, 'a>,
        norm: Option<NormWeights>,
        x: Tensor<'g>,
        dy: Tensor<'g>,
        residual: Tensor<'g>,
    ) -> Result<Tensor<'g>>
    where
        'a: 'g,
    {
        match norm {
            Some(norm) => {
                let norm = load_norm(b.graph(), self.model, norm)?;
                b.norm_backward(&norm, x, dy, Some(residual))
            }
            None => b.epilogue(dy, &[], Some((residual, 1.0)), None),
        }
    }

    /// Adds a projection of `x` to the residual stream; with a norm of it between, also gives the projection.
    #[allow(clippy::too_many_arguments)]
    fn add<'g>(
        &self,
        b: &dyn Fragments<'g, 'a>,
        which: usize,
        fused: &'a Fused,
        x: Tensor<'g>,
        norm: Option<NormWeights>,
        residual: Tensor<'g>,
        save: bool,
    ) -> Result<(Option<Tensor<'g>>, Tensor<'g>)>
    where
        'a: 'g,
    {
        if norm.is_none() {
            let y = self.projection(b, which, fused, x, Some(residual), None, save)?;
            return Ok((None, y));
        }
        let result = self.projection(b, which, fused, x, None, None, save)?;
        let normed = self.normed(b, norm, result)?;
        let residual = Some((residual, self.spec().residual_scale));
        Ok((Some(result), b.epilogue(normed, &[], residual, None)?))
    }

    /// The gradient of the projection in [`add`](Self::add), `result` being its index among the saved ones.
    fn add_backward<'g>(
        &self,
        b: &dyn Fragments<'g, 'a>,
        result: usize,
        norm: Option<NormWeights>,
        dy: Tensor<'g>,
    ) -> Result<Tensor<'g>>
    where
        'a: 'g,
    {
        let added = b.scaled(dy, self.spec().residual_scale)?;
        let (Some(norm), Some(results)) = (norm, self.saved.results) else {
            return Ok(added);
        };
        let norm = load_norm(b.graph(), self.model, norm)?;
        let result = b.graph().to_f32(self.saved(b.graph(), results[result])?)?;
        b.norm_backward(&norm, result, added, None)
    }

    fn qk_norms<'g>(&self, graph: &'g Graph<'a>) -> Result<Option<[LoadedNorm<'g>; 2]>> {
        match self.weights().qk_norms {
            Some([q, k]) => Ok(Some([
                load_norm(graph, self.model, q)?,
                load_norm(graph, self.model, k)?,
            ])),
            None => Ok(None),
        }
    }

    // ---- projections with the adapter ----

    #[allow(clippy::too_many_arguments)]
    fn projection<'g>(
        &self,
        b: &dyn Fragments<'g, 'a>,
        which: usize,
        fused: &'a Fused,
        x: Tensor<'g>,
        residual: Option<Tensor<'g>>,
        rope: Option<(&BlockSpec, RopeTables<'g, 'a>)>,
        save: bool,
    ) -> Result<Tensor<'g>>
    where
        'a: 'g,
    {
        let loaded = self.load(b.graph(), which, fused)?;
        // Before the scratch matrix: ggml would make those of a whole block first, and hold them all.
        b.graph().expand(x)?;
        let mut y = b.project(&loaded.weights, x)?;
        if let Some((lora, a_factors, b_factors, scale)) = self.lora(b.graph(), which)? {
            let t = b.thin(
                b.dropped(x, self.dropout(which))?,
                a_factors,
                &lora.a_spans,
                scale,
            )?;
            if save {
                self.store_thin(b.graph(), which, t)?;
            }
            y = b.add_expanded(y, t, b_factors, &lora.b_spans, None)?;
        }
        let residual = residual.map(|x| (x, self.spec().residual_scale));
        b.epilogue(y, &loaded.biases, residual, rope)
    }

    /// The thin side alone, for a projection whose output is not needed.
    fn save_thin<'g>(&self, b: &dyn Fragments<'g, 'a>, which: usize, x: Tensor<'g>) -> Result<()>
    where
        'a: 'g,
    {
        match self.lora(b.graph(), which)? {
            Some((lora, a, _, scale)) => {
                let t = b.thin(b.dropped(x, self.dropout(which))?, a, &lora.a_spans, scale)?;
                self.store_thin(b.graph(), which, t)
            }
            None => Ok(()),
        }
    }

    /// Gradients of the projection's factors, and (if wanted) of its input `x`.
    fn projection_backward<'g>(
        &self,
        b: &dyn Fragments<'g, 'a>,
        which: usize,
        fused: &'a Fused,
        x: Tensor<'g>,
        dy: Tensor<'g>,
        input_gradient: bool,
    ) -> Result<Option<Tensor<'g>>>
    where
        'a: 'g,
    {
        let graph = b.graph();
        let mut thin_gradient = None;
        if let Some((lora, a_factors, b_factors, scale)) = self.lora(graph, which)?
            && let (Some(adapter), Some(saved)) = (self.adapter, self.saved.thin[which])
            && let Some(factors) = &adapter.layout.factors[self.layer][which]
        {
            let t = self.saved_thin(graph, saved, lora.rank)?;
            let db = b.factor_gradients(t, dy, &lora.b_spans)?;
            self.store_gradient(graph, adapter, &factors.b, db)?;
            let dt = b.thin(dy, b_factors, &lora.b_spans, scale)?;
            let da = b.factor_gradients(dt, b.dropped(x, self.dropout(which))?, &lora.a_spans)?;
            self.store_gradient(graph, adapter, &factors.a, da)?;
            thin_gradient = Some((dt, a_factors, lora));
        }
        if !input_gradient {
            return Ok(None);
        }
        graph.expand(dy)?;
        let dx = b.project_backward(&self.load(graph, which, fused)?.weights, dy)?;
        Ok(Some(match thin_gradient {
            Some((dt, a, lora)) => b.add_expanded(dx, dt, a, &lora.a_spans, self.dropout(which))?,
            None => dx,
        }))
    }

    // ---- loading and storing ----

    pub fn fragments<'g>(&self, graph: &'g Graph<'a>) -> Result<Box<dyn Fragments<'g, 'a> + 'g>>
    where
        'a: 'g,
    {
        Ok(match self.make {
            Make::Custom(_) => Box::new(self.builder(graph)),
            Make::Portable(ids) => {
                Box::new(Portable::new(graph, self.storage, ids, self.n_tokens)?)
            }
        })
    }

    /// For what there is in one make only.
    fn builder<'g>(&self, graph: &'g Graph<'a>) -> Builder<'g, 'a> {
        Builder {
            graph,
            scratch: match self.make {
                Make::Custom(scratch) => scratch,
                Make::Portable(_) => Scratch::Rows(GgmlType::F32),
            },
            n_tokens: self.n_tokens,
        }
    }

    fn weight<'g>(&self, graph: &'g Graph<'a>, id: TensorId) -> Result<Tensor<'g>> {
        graph.load(&self.model.storage, id)
    }

    fn load<'g>(
        &self,
        graph: &'g Graph<'a>,
        which: usize,
        fused: &Fused,
    ) -> Result<LoadedWeights<'g>> {
        let kept = match self.kept {
            Some(kept) => kept.of_layer(graph, self.layer, which)?,
            None => None,
        };
        let mut loaded = LoadedWeights {
            weights: Weights {
                parts: Vec::new(),
                kept,
            },
            biases: Vec::new(),
        };
        let mut start = 0;
        for part in &fused.parts {
            loaded.weights.parts.push(self.weight(graph, part.weight)?);
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
        let Some(factors) = &adapter.layout.factors[self.layer][which] else {
            return Ok(None);
        };
        let values = graph.load(&adapter.storage, adapter.values)?;
        let a = graph.columns(values, factors.a.start, factors.a.len())?;
        let b = graph.columns(values, factors.b.start, factors.b.len())?;
        let lora = &adapter.layout.layers[self.layer][which];
        Ok(Some((lora, a, b, adapter.scale)))
    }

    fn dropout(&self, which: usize) -> Option<Dropout> {
        self.dropout
            .map(|dropout| dropout.derive((self.layer * 4 + which) as u64))
    }

    /// `None` where this block does not rotate.
    fn rope_tables<'g>(&self, b: &dyn Fragments<'g, 'a>) -> Result<Option<RopeTables<'g, 'a>>>
    where
        'a: 'g,
    {
        let spec = self.spec();
        if !spec.rotates(self.layer) {
            return Ok(None);
        }
        b.rope_tables(spec.rope(self.layer), self.storage, self.rope)
            .map(Some)
    }

    fn save<'g>(&self, graph: &'g Graph<'a>, tensor: Tensor<'g>, target: TensorId) -> Result<()> {
        graph.store(tensor, self.saved(graph, target)?)
    }

    /// The first `n_tokens` columns of a stored tensor.
    fn saved<'g>(&self, graph: &'g Graph<'a>, id: TensorId) -> Result<Tensor<'g>> {
        graph.rows(graph.load(self.storage, id)?, 0, self.n_tokens)
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

    /// Stores the gradient of some values, or adds it to what is there.
    fn store_gradient<'g>(
        &self,
        graph: &'g Graph<'a>,
        adapter: &'a DeviceAdapter,
        values: &Range<usize>,
        gradient: Tensor<'g>,
    ) -> Result<()> {
        let at = adapter.gradient_of(self.layer, values);
        let all = graph.load(&adapter.gradients, adapter.gradient)?;
        let target = graph.columns(all, at.start, at.len())?;
        let sum = match adapter.sums_up {
            true => graph.binary(Binary::Add, gradient, target)?,
            false => gradient,
        };
        graph.store(sum, target)
    }
}

/// Loads a norm of the model.
pub fn load_norm<'g, 'a: 'g>(
    graph: &'g Graph<'a>,
    model: &'a Model,
    weights: NormWeights,
) -> Result<LoadedNorm<'g>> {
    let load = |id| graph.load(&model.storage, id);
    Ok(LoadedNorm {
        norm: model.spec.norm,
        weight: load(weights.weight)?,
        bias: weights.bias.map(load).transpose()?,
    })
}

/// Attention of the model's geometry over packed segments, with or without the window that some blocks have.
pub fn attention(spec: &BlockSpec, windowed: bool, segments: &[Segment]) -> Attention {
    let window = spec.window.as_ref().filter(|_| windowed);
    let scoring = Scoring {
        n_head: spec.n_head,
        n_head_kv: spec.n_head_kv,
        head_dim: spec.head_dim,
        scale: spec.attention_scale,
        cap: spec.attention_cap,
        window: window.map(|window| window.size),
    };
    Attention::new(scoring, segments)
}

fn require(gradient: Option<Tensor<'_>>) -> Result<Tensor<'_>> {
    gradient.ok_or(GgmlError::Failed {
        what: "input gradient",
        status: -1,
    })
}
