//! One graph over several backends: a GPU does what it can, the CPU the rest.

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::device::Backend;
use super::error::{GgmlError, Result};
use super::graph::Graph;
use super::tensor::Tensor;

/// Backends in the order of preference, with scratch memory on each.
///
/// A node runs on the first backend that has a kernel for it, unless it changes a stored tensor: that happens where the
/// tensor lies. What crosses from one backend to another is copied.
pub struct Scheduler {
    raw: NonNull<sys::ggml_backend_sched>,
    backends: Vec<Backend>,
    capacity: usize,
}

// SAFETY: neither a scheduler nor its backends have thread affinity, and every use takes `&mut self`.
unsafe impl Send for Scheduler {}

/// Where a node of a graph ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The operation's name, as ggml names it.
    pub op: String,
    /// Index of the backend.
    pub backend: usize,
}

impl Scheduler {
    /// A scheduler for graphs of at most `capacity` tensors, stored ones included. The last backend is what the rest falls
    /// back to: it must be a CPU.
    ///
    /// # Errors
    /// [`GgmlError::NoBackend`] if it is not.
    pub fn new(backends: Vec<Backend>, capacity: usize) -> Result<Self> {
        if !backends.last().is_some_and(Backend::is_cpu) {
            return Err(GgmlError::NoBackend {
                op: "what other backends cannot compute: the last one must be a CPU".to_owned(),
            });
        }
        let mut raws: Vec<_> = backends.iter().map(Backend::raw).collect();
        // SAFETY: backends are alive, and outlive the scheduler, which is freed first (see Drop); no buffer types means the
        // backends' own.
        let raw = unsafe {
            sys::ggml_backend_sched_new(
                raws.as_mut_ptr(),
                std::ptr::null_mut(),
                raws.len() as i32,
                capacity,
                false,
                false,
            )
        };
        let raw = NonNull::new(raw).ok_or(GgmlError::Memory {
            what: "scheduler",
            bytes: 0,
        })?;
        Ok(Self {
            raw,
            backends,
            capacity,
        })
    }

    /// The backends, in the order of preference.
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// Bytes of scratch memory on a backend.
    ///
    /// # Panics
    /// If there is no such backend.
    pub fn n_bytes(&self, backend: usize) -> usize {
        // SAFETY: both are alive, and the backend is the scheduler's.
        unsafe {
            let backend = self.backends[backend].raw();
            sys::ggml_backend_sched_get_buffer_size(self.raw.as_ptr(), backend)
        }
    }

    /// Has a graph computed, and tells where each of its nodes runs. What it stores is there for whatever reads it from its storage, and
    /// for the next graphs: a device may still be computing when this returns.
    ///
    /// The graph is taken, since its intermediate tensors point into memory that the next graph reuses.
    ///
    /// # Errors
    /// [`GgmlError::NoBackend`] names the first operation that no backend can compute, or none where the tensor lies that it changes;
    /// [`GgmlError::GraphFull`] if the graph is larger than what the scheduler was made for; otherwise as
    /// [`Workspace::compute`](super::Workspace::compute).
    pub fn compute(&mut self, graph: Graph<'_>) -> Result<Vec<Placement>> {
        if graph.n_tensors() > self.capacity {
            return Err(GgmlError::GraphFull {
                capacity: self.capacity,
            });
        }
        for node in graph.nodes() {
            if !(0..self.backends.len()).any(|backend| self.can_run(backend, node)) {
                return Err(GgmlError::NoBackend { op: node.op_name() });
            }
        }
        let _busy: Vec<_> = self.backends.iter().map(|b| b.handle().lock()).collect();
        // SAFETY: alive; forgets the graph before, whose tensors are gone with it.
        unsafe { sys::ggml_backend_sched_reset(self.raw.as_ptr()) };
        // SAFETY: the graph is alive and fits; each node can be computed somewhere, which is what ggml would assert.
        if !unsafe { sys::ggml_backend_sched_alloc_graph(self.raw.as_ptr(), graph.raw()) } {
            return Err(GgmlError::Memory {
                what: "graph intermediates",
                bytes: (0..self.backends.len()).map(|i| self.n_bytes(i)).sum(),
            });
        }
        let placements = graph
            .nodes()
            .map(|node| Placement {
                op: node.op_name(),
                backend: self.backend_of(node),
            })
            .collect();
        graph.before_run();
        // SAFETY: allocated above; nothing else uses the backends meanwhile. What is still to be computed when this returns needs memory
        // of storages and of the scheduler, which wait before they free it, and nothing of the graph: what ran on the CPU, custom
        // operations included, is done.
        let status =
            unsafe { sys::ggml_backend_sched_graph_compute_async(self.raw.as_ptr(), graph.raw()) };
        if let Some(panic) = graph.take_panic() {
            return Err(panic);
        }
        super::device::outcome(status)?;
        Ok(placements)
    }

    /// Whether a backend has a kernel for the node, and reaches the tensor's memory if it has any yet.
    fn can_run(&self, backend: usize, node: Tensor<'_>) -> bool {
        let backend = self.backends[backend].raw();
        // SAFETY: backend, node, and the buffer of a stored tensor are alive.
        unsafe {
            let buffer = (*node.root()).buffer;
            sys::ggml_backend_supports_op(backend, node.raw())
                && (buffer.is_null()
                    || sys::ggml_backend_supports_buft(
                        backend,
                        sys::ggml_backend_buffer_get_type(buffer),
                    ))
        }
    }

    fn backend_of(&self, node: Tensor<'_>) -> usize {
        // SAFETY: both are alive.
        let raw =
            unsafe { sys::ggml_backend_sched_get_tensor_backend(self.raw.as_ptr(), node.raw()) };
        let found = self.backends.iter().position(|b| b.raw() == raw);
        found.unwrap_or(self.backends.len() - 1)
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.backends.iter().for_each(|b| b.handle().wait());
        // SAFETY: ours, freed once, before its backends.
        unsafe { sys::ggml_backend_sched_free(self.raw.as_ptr()) }
    }
}
