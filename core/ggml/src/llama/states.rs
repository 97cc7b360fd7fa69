//! Hidden states of every token, copied out where the graph computes them: llama.cpp itself hands out those after the last block only.

use std::ffi::{CStr, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use llama_cpp_sys_2 as sys;

use super::products;

/// The table of token embeddings, as GGUF calls it.
const EMBEDDINGS: &CStr = c"token_embd.weight";

/// What [`Context::states`](super::Context::states) gives: of each token of the last decode, in its order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct States {
    /// The token's embedding, `[n_tokens][n_embd]`.
    pub embeddings: Vec<f32>,
    /// The residual stream after the block that was asked for, `[n_tokens][n_embd]`.
    pub block: Vec<f32>,
}

/// The scheduler's callback with what it needs; a context owns it, at one address.
pub(super) struct Watch {
    /// The number of tokens from which on products are ours; see [`products::take_over`].
    pub products_from: usize,
    /// What llama.cpp calls the block's output; none where no states are asked for.
    block: Option<String>,
    pub states: States,
}

impl Watch {
    pub fn new(products_from: usize, block: Option<u32>) -> Self {
        Self {
            products_from,
            block: block.map(|block| format!("l_out-{block}")),
            states: States::default(),
        }
    }

    pub fn block(&self) -> Option<&str> {
        self.block.as_deref()
    }

    /// Whether anything has to be asked about a graph's nodes.
    pub fn is_needed(&self) -> bool {
        self.block.is_some() || self.products_from < usize::MAX
    }

    /// Where a node's result belongs, if it is wanted.
    ///
    /// # Safety
    /// A live node with live operands, all with nul-terminated names.
    unsafe fn place(&mut self, node: &sys::ggml_tensor) -> Option<&mut Vec<f32>> {
        let wanted = self.block.as_ref()?;
        // SAFETY: as the caller says.
        let name = |t: &sys::ggml_tensor| unsafe { CStr::from_ptr(t.name.as_ptr()) };
        if node.op == sys::GGML_OP_GET_ROWS {
            // SAFETY: this operation has two operands.
            let is_table = name(unsafe { &*node.src[0] }) == EMBEDDINGS;
            let States { embeddings, block } = &mut self.states;
            // The first of a graph: others belong to inputs of other kinds, which are not used.
            let is_first = embeddings.len() == block.len();
            return (is_table && is_first).then_some(embeddings);
        }
        (name(node).to_bytes() == wanted.as_bytes()).then_some(&mut self.states.block)
    }
}

/// Asks once about each node before it is computed, and once more, with `ask` false, after one that was wanted.
pub(super) unsafe extern "C" fn on_eval(
    node: *mut sys::ggml_tensor,
    ask: bool,
    watch: *mut c_void,
) -> bool {
    let done = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the context passes its `Watch`, which it does not touch while it decodes; the scheduler calls from the decoding
        // thread, with a live node of an allocated graph.
        unsafe {
            let watch = &mut *watch.cast::<Watch>();
            if ask {
                products::take_over(&mut *node, watch.products_from);
                return watch.place(&*node).is_some();
            }
            if let Some(place) = watch.place(&*node)
                && (*node).type_ == sys::GGML_TYPE_F32
                && sys::ggml_is_contiguous(node)
            {
                let new = sys::ggml_nelements(node) as usize;
                let old = place.len();
                place.resize(old + new, 0.0);
                let to = place[old..].as_mut_ptr();
                sys::ggml_backend_tensor_get(node, to.cast(), 0, new * size_of::<f32>());
            }
            true
        }
    }));
    // What was not copied is missed by `Context::states`.
    done.unwrap_or(!ask)
}
