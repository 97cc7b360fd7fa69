//! ggml's own operations that every backend has a kernel for, each checked as ggml would assert. All are in F32 unless said
//! otherwise.

use llama_cpp_sys_2 as sys;

use super::error::{GgmlError, Result};
use super::graph::{Graph, shape};
use super::tensor::Tensor;
use crate::GgmlType;

/// An operation on two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
    /// `a / b`
    Div,
}

/// A function of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unary {
    /// `x / (1 + e^-x)`
    Silu,
    /// `tanh x`
    Tanh,
    /// `e^x`
    Exp,
    /// `x^2`
    Square,
    /// `sqrt x`
    Root,
}

/// How queries and keys are turned by their positions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rotation {
    /// Dimensions of a head that are turned, from the first on: even.
    pub n_dims: usize,
    /// Whether a dimension is turned together with that half of `n_dims` further on; otherwise with its neighbour.
    pub halves: bool,
    /// Pair `i` turns by `base^(-2 i / n_dims)` a position, over its factor.
    pub base: f32,
    /// Factor on what is turned.
    pub magnitude: f32,
    /// Whether to turn back, as gradients are.
    pub back: bool,
}

/// The tensors of an AdamW update, contiguous and of one shape.
#[derive(Debug, Clone, Copy)]
pub struct AdamW<'g> {
    /// Stored, as are both moments: all three are changed in place.
    pub parameters: Tensor<'g>,
    /// Gradients of the parameters.
    pub gradients: Tensor<'g>,
    /// Moving average of gradients.
    pub first_moment: Tensor<'g>,
    /// Moving average of their squares.
    pub second_moment: Tensor<'g>,
    /// `[7]`: learning rate, beta 1, beta 2, epsilon, weight decay, and what the moments are multiplied with for their bias,
    /// `1 / (1 - beta^t)` each.
    pub settings: Tensor<'g>,
}

/// `GGML_ROPE_TYPE_NEOX` of ggml.h.
const HALVES: i32 = 2;

impl Graph<'_> {
    /// An operation on each number of `a` and of `b`, which is repeated along dimensions in which it is smaller.
    pub fn binary<'g>(&'g self, op: Binary, a: Tensor<'g>, b: Tensor<'g>) -> Result<Tensor<'g>> {
        let name = match op {
            Binary::Add => "add",
            Binary::Sub => "sub",
            Binary::Mul => "mul",
            Binary::Div => "div",
        };
        self.require_f32(name, a)?;
        self.require_f32(name, b)?;
        require_rows(name, &[a, b])?;
        let repeats = a.ne().iter().zip(b.ne()).all(|(a, b)| a.is_multiple_of(b));
        if !repeats {
            let reason = "the second operand's dimensions do not divide the first's";
            return Err(shape(name, reason, &[a, b]));
        }
        self.node(name, &[a, b], |context| {
            // SAFETY: types and shapes are checked above.
            unsafe {
                match op {
                    Binary::Add => sys::ggml_add(context, a.raw(), b.raw()),
                    Binary::Sub => sys::ggml_sub(context, a.raw(), b.raw()),
                    Binary::Mul => sys::ggml_mul(context, a.raw(), b.raw()),
                    Binary::Div => sys::ggml_div(context, a.raw(), b.raw()),
                }
            }
        })
    }

    /// A function of each number of a contiguous tensor.
    pub fn unary<'g>(&'g self, op: Unary, a: Tensor<'g>) -> Result<Tensor<'g>> {
        const OP: &str = "unary";
        self.require_contiguous_f32(OP, &[a])?;
        self.node(OP, &[a], |context| {
            // SAFETY: contiguous F32.
            unsafe {
                match op {
                    Unary::Silu => sys::ggml_silu(context, a.raw()),
                    Unary::Tanh => sys::ggml_tanh(context, a.raw()),
                    Unary::Exp => sys::ggml_exp(context, a.raw()),
                    Unary::Square => sys::ggml_sqr(context, a.raw()),
                    Unary::Root => sys::ggml_sqrt(context, a.raw()),
                }
            }
        })
    }

    /// `factor * a + offset` of a contiguous tensor.
    pub fn scale<'g>(&'g self, a: Tensor<'g>, factor: f32, offset: f32) -> Result<Tensor<'g>> {
        const OP: &str = "scale";
        self.require_contiguous_f32(OP, &[a])?;
        self.node(OP, &[a], |context| {
            // SAFETY: contiguous F32.
            unsafe { sys::ggml_scale_bias(context, a.raw(), factor, offset) }
        })
    }

    /// Each number of a contiguous tensor, or the nearest in `low..=high`.
    pub fn clamp<'g>(&'g self, a: Tensor<'g>, low: f32, high: f32) -> Result<Tensor<'g>> {
        const OP: &str = "clamp";
        self.require_contiguous_f32(OP, &[a])?;
        self.node(OP, &[a], |context| {
            // SAFETY: contiguous F32.
            unsafe { sys::ggml_clamp(context, a.raw(), low, high) }
        })
    }

    /// `a` as often as fills `ne`, whose dimensions are multiples of its own.
    pub fn repeat<'g>(&'g self, a: Tensor<'g>, ne: [usize; 4]) -> Result<Tensor<'g>> {
        const OP: &str = "repeat";
        self.require_f32(OP, a)?;
        require_rows(OP, &[a])?;
        let fits = ne
            .iter()
            .zip(a.ne())
            .all(|(to, n)| *to > 0 && to.is_multiple_of(n));
        if !fits {
            return Err(shape(OP, &format!("{ne:?} is no multiple"), &[a]));
        }
        let [n0, n1, n2, n3] = ne.map(|n| n as i64);
        self.node(OP, &[a], |context| {
            // SAFETY: each dimension is a multiple.
            unsafe { sys::ggml_repeat_4d(context, a.raw(), n0, n1, n2, n3) }
        })
    }

    /// Makes the graph update parameters by AdamW (arXiv 1711.05101): with `m` and `v` the moments' new values,
    /// `p = p (1 - lr decay) - lr m c1 / (sqrt(v c2) + eps)`.
    pub fn adamw(&self, update: AdamW<'_>) -> Result<()> {
        const OP: &str = "adamw";
        let AdamW {
            parameters,
            gradients,
            first_moment,
            second_moment,
            settings,
        } = update;
        let changed = [parameters, first_moment, second_moment];
        self.require_contiguous_f32(OP, &[parameters, gradients, first_moment, second_moment])?;
        self.require_contiguous_f32(OP, &[settings])?;
        let is_alone = |tensor: Tensor<'_>| tensor.root() == tensor.raw();
        if !changed.into_iter().all(is_alone) {
            return Err(shape(OP, "what is updated must not be a view", &changed));
        }
        for tensor in changed {
            self.require_writable(OP, tensor)?;
        }
        let n = parameters.ne();
        if [gradients, first_moment, second_moment]
            .iter()
            .any(|t| t.ne() != n)
            || settings.n_elements() != 7
        {
            return Err(shape(
                OP,
                "shapes differ, or not 7 settings",
                &[parameters, gradients, settings],
            ));
        }
        let inputs = [parameters, gradients, first_moment, second_moment, settings];
        let node = self.node(OP, &inputs, |context| {
            let [p, g, m, v, settings] = inputs.map(|t| t.raw());
            // SAFETY: stored tensors are leaves, which may be parameters; shapes and types are checked above.
            unsafe {
                sys::ggml_set_param(p);
                sys::ggml_opt_step_adamw(context, p, g, m, v, settings)
            }
        })?;
        self.expand(node)
    }

    /// The gradient of [`Unary::Silu`] at `x`, given its result's `dy`; both contiguous and of one shape.
    pub fn silu_back<'g>(&'g self, dy: Tensor<'g>, x: Tensor<'g>) -> Result<Tensor<'g>> {
        const OP: &str = "silu_back";
        self.require_contiguous_f32(OP, &[dy, x])?;
        if dy.ne() != x.ne() {
            return Err(shape(OP, "shapes differ", &[dy, x]));
        }
        self.node(OP, &[dy, x], |context| {
            // SAFETY: contiguous F32 of one shape.
            unsafe { sys::ggml_silu_back(context, dy.raw(), x.raw()) }
        })
    }

    /// The sum of each row: `[1, ...]`.
    pub fn sum_rows<'g>(&'g self, a: Tensor<'g>) -> Result<Tensor<'g>> {
        const OP: &str = "sum_rows";
        self.require_f32(OP, a)?;
        require_rows(OP, &[a])?;
        self.node(OP, &[a], |context| {
            // SAFETY: F32 in contiguous rows.
            unsafe { sys::ggml_sum_rows(context, a.raw()) }
        })
    }

    /// Each row over the root of the mean of its squares plus `eps`.
    pub fn rms_norm<'g>(&'g self, a: Tensor<'g>, eps: f32) -> Result<Tensor<'g>> {
        const OP: &str = "rms_norm";
        self.require_contiguous_f32(OP, &[a])?;
        require_eps(OP, eps, a)?;
        self.node(OP, &[a], |context| {
            // SAFETY: contiguous F32, eps not negative.
            unsafe { sys::ggml_rms_norm(context, a.raw(), eps) }
        })
    }

    /// Each row less its mean, over the root of its variance plus `eps`.
    pub fn layer_norm<'g>(&'g self, a: Tensor<'g>, eps: f32) -> Result<Tensor<'g>> {
        const OP: &str = "norm";
        self.require_contiguous_f32(OP, &[a])?;
        require_eps(OP, eps, a)?;
        self.node(OP, &[a], |context| {
            // SAFETY: contiguous F32, eps not negative.
            unsafe { sys::ggml_norm(context, a.raw(), eps) }
        })
    }

    /// The softmax of each row of `scale * a`, plus `mask` `[ne0, at least ne1]` for each of the higher dimensions.
    pub fn soft_max<'g>(
        &'g self,
        a: Tensor<'g>,
        mask: Option<Tensor<'g>>,
        scale: f32,
    ) -> Result<Tensor<'g>> {
        const OP: &str = "soft_max";
        self.require_contiguous_f32(OP, &[a])?;
        if let Some(mask) = mask {
            self.require_contiguous_f32(OP, &[mask])?;
            let ([n, rows, ..], [width, n_rows, n2, n3]) = (a.ne(), mask.ne());
            if width != n || n_rows < rows || n2 != 1 || n3 != 1 {
                return Err(shape(OP, "the mask does not cover the rows", &[a, mask]));
            }
        }
        let inputs: Vec<_> = [a].into_iter().chain(mask).collect();
        self.node(OP, &inputs, |context| {
            let mask = mask.map_or(std::ptr::null_mut(), |mask| mask.raw());
            // SAFETY: shapes and types are checked above.
            unsafe { sys::ggml_soft_max_ext(context, a.raw(), mask, scale, 0.0) }
        })
    }

    /// Heads `[head_dim, n_heads, n]` turned by their `positions` `[n]` (I32); `factors` `[n_dims / 2]`.
    pub fn rope<'g>(
        &'g self,
        a: Tensor<'g>,
        positions: Tensor<'g>,
        factors: Tensor<'g>,
        rotation: Rotation,
    ) -> Result<Tensor<'g>> {
        const OP: &str = "rope";
        self.require_f32(OP, a)?;
        self.require_contiguous_f32(OP, &[factors])?;
        require_rows(OP, &[a])?;
        require_type(OP, positions, GgmlType::I32)?;
        let [head_dim, _, n, n3] = a.ne();
        let n_dims = rotation.n_dims;
        let fits = n3 == 1
            && positions.ne() == [n, 1, 1, 1]
            && n_dims.is_multiple_of(2)
            && (2..=head_dim).contains(&n_dims)
            && factors.ne()[0] >= n_dims / 2;
        if !fits {
            let reason = format!("heads of {n_dims} turned dimensions, or their positions");
            return Err(shape(OP, &reason, &[a, positions, factors]));
        }
        let mode = if rotation.halves { HALVES } else { 0 };
        let (base, magnitude) = (rotation.base, rotation.magnitude);
        let turn = match rotation.back {
            false => sys::ggml_rope_ext,
            true => sys::ggml_rope_ext_back,
        };
        self.node(OP, &[a, positions, factors], |context| {
            let (a, positions, factors) = (a.raw(), positions.raw(), factors.raw());
            let n_dims = n_dims as i32;
            // SAFETY: shapes and types are checked above. No frequency is interpolated, so the length of the original context is not
            // read.
            unsafe {
                turn(
                    context, a, positions, factors, n_dims, mode, 0, base, 1.0, 0.0, magnitude,
                    0.0, 0.0,
                )
            }
        })
    }

    /// `b` behind `a` along a dimension; the others are equal.
    pub fn concat<'g>(
        &'g self,
        a: Tensor<'g>,
        b: Tensor<'g>,
        dimension: usize,
    ) -> Result<Tensor<'g>> {
        const OP: &str = "concat";
        self.require_f32(OP, a)?;
        self.require_f32(OP, b)?;
        let equal = (0..4).all(|d| d == dimension || a.ne()[d] == b.ne()[d]);
        if dimension >= 4 || !equal {
            let reason = format!("shapes differ beside dimension {dimension}");
            return Err(shape(OP, &reason, &[a, b]));
        }
        self.node(OP, &[a, b], |context| {
            // SAFETY: shapes and types are checked above.
            unsafe { sys::ggml_concat(context, a.raw(), b.raw(), dimension as i32) }
        })
    }

    /// A contiguous copy, of F32 or F16.
    pub fn cont<'g>(&'g self, a: Tensor<'g>) -> Result<Tensor<'g>> {
        const OP: &str = "cont";
        if !matches!(a.ty(), GgmlType::F32 | GgmlType::F16) {
            return Err(GgmlError::Type { op: OP, ty: a.ty() });
        }
        if a.is_contiguous() {
            return Ok(a);
        }
        self.node(OP, &[a], |context| {
            // SAFETY: not quantized.
            unsafe { sys::ggml_cont(context, a.raw()) }
        })
    }

    /// A view in which dimension `i` of `a` is dimension `to[i]`; not of block types.
    pub fn permute<'g>(&'g self, a: Tensor<'g>, to: [usize; 4]) -> Result<Tensor<'g>> {
        const OP: &str = "permute";
        if a.ty().block_size() != 1 {
            return Err(GgmlError::Type { op: OP, ty: a.ty() });
        }
        let mut seen = to;
        seen.sort_unstable();
        if seen != [0, 1, 2, 3] {
            return Err(shape(OP, &format!("{to:?} is no permutation"), &[a]));
        }
        let [d0, d1, d2, d3] = to.map(|d| d as i32);
        self.node(OP, &[a], |context| {
            // SAFETY: a permutation of four dimensions.
            unsafe { sys::ggml_permute(context, a.raw(), d0, d1, d2, d3) }
        })
    }

    /// Rows of a matrix, of any type that ggml dequantizes, in F32: those at `indices` `[n]` (I32). Which rows there are is not
    /// known before the graph runs: an index outside of the matrix must not be stored.
    pub fn get_rows<'g>(&'g self, a: Tensor<'g>, indices: Tensor<'g>) -> Result<Tensor<'g>> {
        const OP: &str = "get_rows";
        require_type(OP, indices, GgmlType::I32)?;
        if !super::can_dequantize(a.ty()) {
            return Err(GgmlError::Type { op: OP, ty: a.ty() });
        }
        let n = indices.ne()[0];
        if a.ne()[2..] != [1, 1] || indices.ne() != [n, 1, 1, 1] || !indices.is_contiguous() {
            return Err(shape(OP, "not rows of a matrix", &[a, indices]));
        }
        self.node(OP, &[a, indices], |context| {
            // SAFETY: a matrix and a vector of indices.
            unsafe { sys::ggml_get_rows(context, a.raw(), indices.raw()) }
        })
    }

    fn require_contiguous_f32(&self, op: &'static str, tensors: &[Tensor<'_>]) -> Result<()> {
        for tensor in tensors {
            self.require_f32(op, *tensor)?;
            // ggml asserts strides even of dimensions that are 1.
            let (ne, nb) = (tensor.ne(), tensor.nb());
            let dense = nb[2] == nb[1] * ne[1] && nb[3] == nb[2] * ne[2];
            if !tensor.is_contiguous() || !dense {
                return Err(shape(op, "an operand is not contiguous", tensors));
            }
        }
        Ok(())
    }
}

/// Rows must be contiguous, whatever lies between them.
fn require_rows(op: &'static str, tensors: &[Tensor<'_>]) -> Result<()> {
    for tensor in tensors {
        if tensor.nb()[0] != tensor.ty().type_size() {
            return Err(shape(op, "an operand's rows are not contiguous", tensors));
        }
    }
    Ok(())
}

fn require_type(op: &'static str, tensor: Tensor<'_>, ty: GgmlType) -> Result<()> {
    match tensor.ty() == ty {
        true => Ok(()),
        false => Err(GgmlError::Type {
            op,
            ty: tensor.ty(),
        }),
    }
}

fn require_eps(op: &'static str, eps: f32, a: Tensor<'_>) -> Result<()> {
    match eps >= 0.0 {
        true => Ok(()),
        false => Err(shape(op, &format!("epsilon {eps}"), &[a])),
    }
}
