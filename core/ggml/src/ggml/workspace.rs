//! Memory for what lies between a graph's inputs and results, reused from graph to graph.

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::device::Backend;
use super::error::{GgmlError, Result};
use super::graph::Graph;

/// Scratch memory of one backend. It grows to the largest graph it has computed.
pub struct Workspace {
    raw: NonNull<sys::ggml_gallocr>,
}

// SAFETY: an allocator has no thread affinity, and every use takes `&mut self`.
unsafe impl Send for Workspace {}

impl Workspace {
    /// An empty workspace on the backend's memory.
    pub fn new(backend: &Backend) -> Result<Self> {
        // SAFETY: the backend is alive; the result is checked.
        let raw = unsafe {
            sys::ggml_gallocr_new(sys::ggml_backend_get_default_buffer_type(backend.raw()))
        };
        let raw = NonNull::new(raw).ok_or(GgmlError::Memory {
            what: "workspace",
            bytes: 0,
        })?;
        Ok(Self { raw })
    }

    /// Bytes that the workspace holds.
    pub fn n_bytes(&self) -> usize {
        // SAFETY: alive, and it has one buffer.
        unsafe { sys::ggml_gallocr_get_buffer_size(self.raw.as_ptr(), 0) }
    }

    /// Places the graph's intermediate tensors and computes it. What it stored is there when this returns.
    ///
    /// # Errors
    /// [`GgmlError::Aborted`] when the backend's flag was raised, [`GgmlError::Panicked`] when a custom operation panicked,
    /// [`GgmlError::Memory`] when scratch memory could not be had. Stored results are undefined after an error.
    pub fn compute(&mut self, backend: &mut Backend, graph: &Graph<'_>) -> Result<()> {
        // SAFETY: allocator and graph are alive; tensors of storages have memory and are left where they are.
        if !unsafe { sys::ggml_gallocr_alloc_graph(self.raw.as_ptr(), graph.raw()) } {
            return Err(GgmlError::Memory {
                what: "graph intermediates",
                bytes: self.n_bytes(),
            });
        }
        graph.before_run();
        let outcome = backend.run(graph);
        match graph.take_panic() {
            Some(panic) => Err(panic),
            None => outcome,
        }
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // SAFETY: ours, freed once.
        unsafe { sys::ggml_gallocr_free(self.raw.as_ptr()) }
    }
}
