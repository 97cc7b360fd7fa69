//! New weights for an adapter that stays loaded: no file, no graph to plan anew, and in force at
//! the next decode.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use llama_cpp_sys_2 as sys;

use super::{Adapter, Batch, Context, ContextParams, LlamaError, Result};

/// The weight tensors of a loaded [`Adapter`], for overwriting them in place.
///
/// llama.cpp has no call that hands them out. A throwaway context with the adapter set computes one
/// token, and its evaluation callback sees them as the operands of graph nodes.
pub struct AdapterTensors {
    adapter: Arc<Adapter>,
    tensors: BTreeMap<String, NonNull<sys::ggml_tensor>>,
}

// SAFETY: the tensors live as long as the adapter, which is owned here; they are written under the
// adapter's lock only.
unsafe impl Send for AdapterTensors {}
// SAFETY: as above.
unsafe impl Sync for AdapterTensors {}

impl AdapterTensors {
    /// Finds the tensors of `adapter`. Computes one token.
    ///
    /// # Errors
    /// [`LlamaError::Context`] and [`LlamaError::Decode`] from the throwaway context.
    pub fn of(adapter: &Arc<Adapter>) -> Result<Self> {
        let mut tensors: BTreeMap<String, NonNull<sys::ggml_tensor>> = BTreeMap::new();
        let params = ContextParams {
            n_ctx: 256,
            n_batch: 1,
            n_ubatch: 1,
            n_threads: 1,
            ..ContextParams::default()
        };
        let mut context = Context::with_eval_callback(
            adapter.model(),
            &params,
            Some(on_eval),
            (&raw mut tensors).cast::<c_void>(),
        )?;
        context.set_adapters(&[(Arc::clone(adapter), 1.0)])?;
        let mut batch = Batch::new();
        batch.push(0, 0, 0, true);
        context.decode(&batch, None)?;
        drop(context);
        Ok(Self {
            adapter: Arc::clone(adapter),
            tensors,
        })
    }

    /// The adapter.
    pub fn adapter(&self) -> &Arc<Adapter> {
        &self.adapter
    }

    /// Names as in the adapter's file (`blk.0.attn_q.weight.lora_a`), with the number of elements
    /// of each.
    pub fn names(&self) -> impl Iterator<Item = (&str, usize)> {
        self.tensors
            .iter()
            .map(|(name, &tensor)| (name.as_str(), elements(tensor)))
    }

    /// Writes new values, all or none, each in the tensor's own order: `lora_a` is `[r][in]`,
    /// `lora_b` is `[out][r]`, row by row. Waits for a decode that uses the adapter to end. What
    /// contexts have cached under the old weights is no longer valid: clear it.
    ///
    /// # Errors
    /// [`LlamaError::AdapterTensor`] for an unknown name, another length, or a tensor that is not
    /// F32.
    pub fn overwrite(&self, values: &[(&str, &[f32])]) -> Result<()> {
        let refuse = |name: &str, reason: String| LlamaError::AdapterTensor {
            name: name.into(),
            reason,
        };
        let mut checked = Vec::with_capacity(values.len());
        for &(name, values) in values {
            let &tensor = self
                .tensors
                .get(name)
                .ok_or_else(|| refuse(name, "the adapter has no such tensor".into()))?;
            // SAFETY: reads a field of a live tensor.
            if unsafe { tensor.as_ref().type_ } != sys::GGML_TYPE_F32 {
                return Err(refuse(name, "it is not F32".into()));
            }
            if elements(tensor) != values.len() {
                return Err(refuse(
                    name,
                    format!("{} values for {} elements", values.len(), elements(tensor)),
                ));
            }
            checked.push((tensor, values));
        }
        let _writing = self.adapter.writing();
        for (tensor, values) in checked {
            // SAFETY: a live F32 tensor in an allocated buffer, with exactly this many elements; no
            // context computes with it now.
            unsafe {
                sys::ggml_backend_tensor_set(
                    tensor.as_ptr(),
                    values.as_ptr().cast(),
                    0,
                    size_of_val(values),
                )
            };
        }
        Ok(())
    }
}

impl std::fmt::Debug for AdapterTensors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdapterTensors")
            .field("tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}

fn elements(tensor: NonNull<sys::ggml_tensor>) -> usize {
    // SAFETY: reads the shape of a live tensor.
    unsafe { sys::ggml_nelements(tensor.as_ptr()) as usize }
}

/// ggml asks, node by node, whether we want to look at its result: never. Its operands are what we
/// came for.
unsafe extern "C" fn on_eval(
    node: *mut sys::ggml_tensor,
    _ask: bool,
    user_data: *mut c_void,
) -> bool {
    let _ = std::panic::catch_unwind(|| {
        // SAFETY: `AdapterTensors::of` passes its map, which outlives the context; the scheduler
        // calls from the decoding thread only; nodes and operands are live tensors with
        // nul-terminated names.
        unsafe {
            let tensors = &mut *user_data.cast::<BTreeMap<String, NonNull<sys::ggml_tensor>>>();
            for &operand in &(*node).src {
                let Some(operand) = NonNull::new(operand) else {
                    continue;
                };
                let name = CStr::from_ptr(operand.as_ref().name.as_ptr()).to_string_lossy();
                if name.ends_with(".lora_a") || name.ends_with(".lora_b") {
                    tensors.insert(name.into_owned(), operand);
                }
            }
        }
    });
    false
}
