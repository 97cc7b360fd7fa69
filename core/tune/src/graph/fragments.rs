//! What a block's graphs are put together from, in two makes: `builder`'s, out of operations of our own for the CPU, and
//! `portable`'s, out of operations that every backend has.

use thumbprint_ggml::ggml::{GgmlError, Graph, Storage, Tensor, TensorId};

use super::kernels::attention::Attention;
use super::kernels::dropout::Dropout;
use super::kernels::thin::Span;
use crate::model::{Activation, BlockSpec, Norm, Rope};

pub type Result<T> = std::result::Result<T, GgmlError>;

/// A norm with its weights as loaded into a graph.
#[derive(Clone, Copy)]
pub struct LoadedNorm<'g> {
    pub norm: Norm,
    pub weight: Tensor<'g>,
    pub bias: Option<Tensor<'g>>,
}

/// Frozen weights of one input width, one below the other.
pub struct Weights<'g> {
    pub parts: Vec<Tensor<'g>>,
    /// Packed copies of all of them, and of their transpose, if such are kept.
    pub kept: Option<[Tensor<'g>; 2]>,
}

impl<'g, const N: usize> From<[Tensor<'g>; N]> for Weights<'g> {
    fn from(parts: [Tensor<'g>; N]) -> Self {
        Self {
            parts: parts.to_vec(),
            kept: None,
        }
    }
}

/// The frozen weights of a fused projection as loaded into a graph.
pub struct LoadedWeights<'g> {
    pub weights: Weights<'g>,
    /// Each with the first column that it is added to.
    pub biases: Vec<(usize, Tensor<'g>)>,
}

/// What rotary embedding needs of a ubatch, in the form of the fragments that made it.
#[derive(Clone, Copy)]
pub struct RopeTables<'g, 'a> {
    pub rope: &'a Rope,
    pub tables: [Tensor<'g>; 2],
}

/// Builds fragments in one graph for `n` tokens. Activations are `[width, n]` in F32; where they come from storage, of the type in
/// which they were kept.
pub trait Fragments<'g, 'a: 'g> {
    fn graph(&self) -> &'g Graph<'a>;

    // ---- frozen weights ----

    /// `x` `[n_in, n]` times frozen weights: `[n_out, n]`.
    fn project(&self, weights: &Weights<'g>, x: Tensor<'g>) -> Result<Tensor<'g>>;

    /// The gradient of [`project`](Self::project) with respect to `x`.
    fn project_backward(&self, weights: &Weights<'g>, dy: Tensor<'g>) -> Result<Tensor<'g>>;

    // ---- the adapter ----

    /// A copy of `x` with dropped elements; `x` itself without dropout.
    fn dropped(&self, x: Tensor<'g>, dropout: Option<Dropout>) -> Result<Tensor<'g>>;

    /// Thin side of a product with factors: `[rank, n]`, `scale * <row of x over the span, factor>`.
    fn thin(
        &self,
        x: Tensor<'g>,
        factors: Tensor<'g>,
        spans: &[Span],
        scale: f32,
    ) -> Result<Tensor<'g>>;

    /// `y` plus `t` `[rank, n]` times the factors, what is added being subject to dropout. `y` must not be used afterwards.
    fn add_expanded(
        &self,
        y: Tensor<'g>,
        t: Tensor<'g>,
        factors: Tensor<'g>,
        spans: &[Span],
        dropout: Option<Dropout>,
    ) -> Result<Tensor<'g>>;

    /// Gradients of factors: sums over tokens of `t` `[rank, n]` times `x` `[width, n]`, laid out as the factors are.
    fn factor_gradients(&self, t: Tensor<'g>, x: Tensor<'g>, spans: &[Span]) -> Result<Tensor<'g>>;

    // ---- norms ----

    /// The norm of `x` `[width, n]`.
    fn norm(&self, norm: &LoadedNorm<'g>, x: Tensor<'g>) -> Result<Tensor<'g>>;

    /// `residual` plus the gradient of [`norm`](Self::norm) with respect to `x`, given the output's gradient `dy`.
    fn norm_backward(
        &self,
        norm: &LoadedNorm<'g>,
        x: Tensor<'g>,
        dy: Tensor<'g>,
        residual: Option<Tensor<'g>>,
    ) -> Result<Tensor<'g>>;

    /// Queries and keys of `qkv` `[n_qkv, n]` normed, each head by itself or all at once as the weights are wide, then rotated; values as
    /// they are.
    fn norm_heads(
        &self,
        spec: &BlockSpec,
        norms: &[LoadedNorm<'g>; 2],
        qkv: Tensor<'g>,
        rope: Option<RopeTables<'g, 'a>>,
    ) -> Result<Tensor<'g>>;

    /// The gradient of [`norm_heads`](Self::norm_heads) with respect to `qkv`, from that of what it makes after it is rotated back.
    fn norm_heads_backward(
        &self,
        spec: &BlockSpec,
        norms: &[LoadedNorm<'g>; 2],
        qkv: Tensor<'g>,
        dy: Tensor<'g>,
    ) -> Result<Tensor<'g>>;

    // ---- numbers by themselves ----

    /// `factor * x`; `x` itself where the factor is 1.
    fn scaled(&self, x: Tensor<'g>, factor: f32) -> Result<Tensor<'g>>;

    /// `cap * tanh(x / cap)`, if there is a cap. `x` must not be used afterwards.
    fn capped(&self, x: Tensor<'g>, cap: Option<f32>) -> Result<Tensor<'g>>;

    /// What follows a projection: biases, the residual stream (to which `y` is added with a factor), rotary embedding of queries and
    /// keys. `y` must not be used afterwards.
    fn epilogue(
        &self,
        y: Tensor<'g>,
        biases: &[(usize, Tensor<'g>)],
        residual: Option<(Tensor<'g>, f32)>,
        rope: Option<(&BlockSpec, RopeTables<'g, 'a>)>,
    ) -> Result<Tensor<'g>>;

    /// The gated activation of `gate_up` `[2 n_ff, n]`: `[n_ff, n]`.
    fn activation(&self, kind: Activation, gate_up: Tensor<'g>) -> Result<Tensor<'g>>;

    /// The gradient of [`activation`](Self::activation): `[2 n_ff, n]`.
    fn activation_backward(
        &self,
        kind: Activation,
        gate_up: Tensor<'g>,
        dy: Tensor<'g>,
    ) -> Result<Tensor<'g>>;

    // ---- attention ----

    /// The tables of rotary embedding for the first tokens, out of what [`Memory`](super::memory::Memory) keeps for it.
    fn rope_tables(
        &self,
        rope: &'a Rope,
        storage: &'a Storage,
        ids: [TensorId; 2],
    ) -> Result<RopeTables<'g, 'a>>;

    /// Attention over `qkv` `[n_qkv, n]`: its output `[n_attn, n]`, and the log-sum-exp of its scores `[n_head, n]` if the backward
    /// pass wants it.
    fn attention(
        &self,
        geometry: &'a Attention,
        qkv: Tensor<'g>,
    ) -> Result<(Tensor<'g>, Option<Tensor<'g>>)>;

    /// Gradients of queries `[n_attn, n]`, and of keys and values side by side. `qkv` and `attn` are of one type.
    fn attention_backward(
        &self,
        geometry: &'a Attention,
        qkv: Tensor<'g>,
        attn: Tensor<'g>,
        lse: Tensor<'g>,
        d_attn: Tensor<'g>,
    ) -> Result<(Tensor<'g>, Tensor<'g>)>;

    /// Gradients of queries and of keys and values side by side, rotated back: the gradient of the fused projection's output.
    fn join_qkv_gradients(
        &self,
        spec: &BlockSpec,
        dq: Tensor<'g>,
        dkv: Tensor<'g>,
        rope: Option<RopeTables<'g, 'a>>,
    ) -> Result<Tensor<'g>>;
}
