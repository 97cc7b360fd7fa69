//! Products of frozen weights with many tokens at once, computed by our own kernel where it is faster than ggml's.
//!
//! For the formats without a tiled kernel (Q4_1 and its kin), ggml decodes each weight once for every token. Ours decodes it
//! once for all of them, as the trainer does. The scheduler asks before it computes a graph's nodes whether
//! somebody wants to look at their results; that is where nodes are handed to our kernel, before any of them is computed.

use std::cell::RefCell;
use std::ffi::c_void;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use llama_cpp_sys_2 as sys;

use crate::GgmlType;
use crate::ggml::packed::{PANEL, Packing, is_worth_packing, multiply, pack_rows};

/// Below so many tokens ggml's own products take less time: ours decode the weights first, however few tokens there are.
pub(super) const WORTH_PACKING: usize = 4;

/// `GGML_N_TASKS_MAX`.
const ALL_THREADS: i32 = -1;

/// Tokens that weights are decoded for at once: their inputs stay in the cache meanwhile.
const TOKENS: usize = 256;

/// ggml's parameters of a custom operation, as they lie in a node (`ggml_custom_op_params`).
#[repr(C)]
struct CustomOp {
    compute: unsafe extern "C" fn(*mut sys::ggml_tensor, i32, i32, *mut c_void),
    n_tasks: i32,
    user_data: *mut c_void,
}

/// Hands a node that the scheduler is about to compute to our kernel, where it is a product of at least `from` tokens that the kernel
/// can do.
///
/// # Safety
/// A node of an allocated graph that is about to be computed, on the thread that computes it.
pub(super) unsafe fn take_over(node: &mut sys::ggml_tensor, from: usize) {
    // SAFETY: as the caller says.
    if unsafe { is_ours(node, from) } {
        let op = CustomOp {
            compute,
            n_tasks: ALL_THREADS,
            user_data: std::ptr::null_mut(),
        };
        const { assert!(size_of::<CustomOp>() <= size_of::<[i32; 16]>()) };
        node.op = sys::GGML_OP_CUSTOM;
        // SAFETY: the parameters have room for it, as was asserted.
        unsafe {
            node.op_params
                .as_mut_ptr()
                .cast::<CustomOp>()
                .write_unaligned(op);
        }
    }
}

/// Whether a node is a product of a matrix that our kernel decodes, in plain host memory, with at least `from` tokens.
///
/// # Safety
/// A node of an allocated graph.
unsafe fn is_ours(node: &sys::ggml_tensor, from: usize) -> bool {
    if node.op != sys::GGML_OP_MUL_MAT {
        return false;
    }
    // SAFETY: a product has two operands.
    let (weight, x) = unsafe { (&*node.src[0], &*node.src[1]) };
    let is_matrix = |t: &sys::ggml_tensor| t.ne[2] == 1 && t.ne[3] == 1;
    // SAFETY: the node is allocated, so all have buffers; memory that is repacked does not count as the host's.
    let on_host = |t: &sys::ggml_tensor| unsafe {
        let owner = if t.view_src.is_null() {
            t
        } else {
            &*t.view_src
        };
        !owner.buffer.is_null() && sys::ggml_backend_buffer_is_host(owner.buffer)
    };
    // SAFETY: reads shapes.
    let contiguous = |t: &sys::ggml_tensor| unsafe { sys::ggml_is_contiguous(t) };
    Packing::fastest()
        .zip(GgmlType::try_from(weight.type_).ok())
        .is_some_and(|(packing, ty)| is_worth_packing(packing, ty, weight.ne[0] as usize))
        && x.type_ == sys::GGML_TYPE_F32
        && node.type_ == sys::GGML_TYPE_F32
        && x.ne[1] as usize >= from
        && [weight, x, node]
            .into_iter()
            .all(|t| is_matrix(t) && contiguous(t) && on_host(t))
}

/// What ggml calls on each of its threads in place of its own product.
unsafe extern "C" fn compute(
    node: *mut sys::ggml_tensor,
    thread: i32,
    n_threads: i32,
    _: *mut c_void,
) {
    // SAFETY: the node being computed, one that `is_ours` was true of.
    let product = unsafe { Product::of(&*node) };
    let n_panels = product.n_out.div_ceil(PANEL);
    let share = |i: i32| n_panels * i as usize / n_threads as usize;
    let panels = share(thread)..share(thread + 1);
    if catch_unwind(AssertUnwindSafe(|| product.compute(panels.clone()))).is_err() {
        // A bug. What is not a number is refused where a token is chosen.
        let tokens = 0..product.x.len() / product.n_in;
        product.write(tokens, panels, |_, to| to.fill(f32::NAN));
    }
}

/// `y = W x`.
struct Product<'a> {
    packing: Packing,
    ty: GgmlType,
    /// `[n_out]` rows of `n_in` numbers.
    weight: &'a [u8],
    /// `[n_tokens, n_in]`.
    x: &'a [f32],
    /// `[n_tokens, n_out]`; each thread writes its own columns.
    y: *mut f32,
    n_in: usize,
    n_out: usize,
}

/// A thread's memory from product to product.
#[derive(Default)]
struct Scratch {
    inputs: Vec<u32>,
    panel: Vec<u32>,
    wide: Vec<f32>,
    outputs: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl<'a> Product<'a> {
    /// # Safety
    /// A node that [`is_ours`] was true of, whose operands are computed.
    unsafe fn of(node: &'a sys::ggml_tensor) -> Self {
        // SAFETY: contiguous tensors in host memory, of these types.
        unsafe {
            let (weight, x) = (&*node.src[0], &*node.src[1]);
            let bytes = sys::ggml_nbytes(weight);
            Self {
                packing: Packing::fastest().unwrap_or(Packing::F32),
                ty: GgmlType::try_from(weight.type_).unwrap_or(GgmlType::F32),
                weight: std::slice::from_raw_parts(weight.data.cast(), bytes),
                x: std::slice::from_raw_parts(x.data.cast(), (x.ne[0] * x.ne[1]) as usize),
                y: node.data.cast(),
                n_in: weight.ne[0] as usize,
                n_out: weight.ne[1] as usize,
            }
        }
    }

    /// Computes the outputs of some panels.
    fn compute(&self, panels: Range<usize>) {
        let n_tokens = self.x.len() / self.n_in;
        let at_once = n_tokens.div_ceil(n_tokens.div_ceil(TOKENS));
        SCRATCH.with_borrow_mut(|scratch| {
            for first in (0..n_tokens).step_by(at_once) {
                self.compute_some(
                    first..n_tokens.min(first + at_once),
                    panels.clone(),
                    scratch,
                );
            }
        });
    }

    fn compute_some(&self, tokens: Range<usize>, panels: Range<usize>, scratch: &mut Scratch) {
        let n_words = self.packing.words(self.n_in);
        let Scratch {
            inputs,
            panel: packed,
            wide,
            outputs,
        } = scratch;
        inputs.resize(tokens.len() * n_words, 0);
        let x = &self.x[tokens.start * self.n_in..tokens.end * self.n_in];
        for (x, to) in x
            .chunks_exact(self.n_in)
            .zip(inputs.chunks_exact_mut(n_words))
        {
            self.packing.pack_inputs(x, to);
        }
        packed.resize(n_words * PANEL, 0);
        outputs.resize(tokens.len() * PANEL, 0.0);
        let row_size = self.ty.row_size(self.n_in);
        for panel in panels {
            let rows = panel * PANEL..self.n_out.min((panel + 1) * PANEL);
            let rows: Vec<(GgmlType, &[u8])> = self.weight
                [rows.start * row_size..rows.end * row_size]
                .chunks_exact(row_size)
                .map(|row| (self.ty, row))
                .collect();
            pack_rows(self.packing, &rows, self.n_in, wide, packed)
                // The format was checked when the product was taken over.
                .unwrap_or_else(|error| panic!("{error}"));
            multiply(self.packing, packed, n_words, inputs, PANEL, outputs);
            self.write(tokens.clone(), panel..panel + 1, |i, to| {
                to.copy_from_slice(&outputs[i * PANEL..][..to.len()]);
            });
        }
    }

    /// Has some tokens' outputs of some panels written; tokens are counted from the first of these.
    fn write(
        &self,
        tokens: Range<usize>,
        panels: Range<usize>,
        mut write: impl FnMut(usize, &mut [f32]),
    ) {
        let columns = panels.start * PANEL..self.n_out.min(panels.end * PANEL);
        for (i, token) in tokens.enumerate() {
            // SAFETY: inside of the outputs, and no other thread's columns.
            let to = unsafe {
                let start = self.y.add(token * self.n_out + columns.start);
                std::slice::from_raw_parts_mut(start, columns.len())
            };
            write(i, to);
        }
    }
}
