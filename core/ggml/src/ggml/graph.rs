//! Computation graphs, each operation checked before ggml would assert.
//!
//! A graph reads and writes tensors of [`Storage`]; what lies between is private to it and lives in a
//! [`Workspace`](super::Workspace) during the computation.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::custom::{CustomOp, Kernel, MAX_ARGS, Work, run_custom};
use super::error::{GgmlError, Result};
use super::storage::{Storage, TensorId};
use super::tensor::{Tensor, contiguous_bytes};
use crate::GgmlType;

/// `GGML_N_TASKS_MAX` of ggml.h: a custom operation runs on every thread.
const ALL_THREADS: i32 = -1;

/// A graph under construction or ready to compute. `'a`: the storages that it reads and writes.
pub struct Graph<'a> {
    context: NonNull<sys::ggml_context>,
    graph: NonNull<sys::ggml_cgraph>,
    capacity: usize,
    used: Cell<usize>,
    /// Stored tensors that were loaded, and whether they lie in a mapped file.
    stored: RefCell<Vec<(*mut sys::ggml_tensor, bool)>>,
    // Boxed twice: ggml keeps the address of each operation.
    #[allow(clippy::vec_box)]
    custom: RefCell<Vec<Box<CustomOp<'a>>>>,
    // Invariant in 'a, so that a storage that dies earlier cannot be put in.
    _storages: PhantomData<Cell<&'a Storage>>,
}

impl<'a> Graph<'a> {
    /// An empty graph with room for `capacity` tensors, views included.
    pub fn new(capacity: usize) -> Result<Self> {
        // SAFETY: sized for `capacity` tensors and a graph of as many nodes; both results are checked.
        unsafe {
            let mem_size = (capacity + 8) * sys::ggml_tensor_overhead()
                + sys::ggml_graph_overhead_custom(capacity, false);
            let params = sys::ggml_init_params {
                mem_size,
                mem_buffer: std::ptr::null_mut(),
                no_alloc: true,
            };
            let memory = GgmlError::Memory {
                what: "graph",
                bytes: mem_size,
            };
            let Some(context) = NonNull::new(sys::ggml_init(params)) else {
                return Err(memory);
            };
            let Some(graph) = NonNull::new(sys::ggml_new_graph_custom(
                context.as_ptr(),
                capacity,
                false,
            )) else {
                sys::ggml_free(context.as_ptr());
                return Err(memory);
            };
            Ok(Self {
                context,
                graph,
                capacity,
                used: Cell::new(0),
                stored: RefCell::default(),
                custom: RefCell::default(),
                _storages: PhantomData,
            })
        }
    }

    // ---- reading and writing storage ----

    /// A stored tensor, to be read (or, where the storage is not a mapped file, written) by the graph.
    pub fn load<'g>(&'g self, storage: &'a Storage, id: TensorId) -> Result<Tensor<'g>> {
        let raw = storage.get(id).raw();
        let mut stored = self.stored.borrow_mut();
        if !stored.iter().any(|(known, _)| *known == raw) {
            stored.push((raw, storage.is_mapped()));
        }
        // SAFETY: the stored tensor is alive for 'a, which outlives the graph.
        Ok(unsafe { Tensor::from_raw(NonNull::new_unchecked(raw)) })
    }

    /// Copies `source` into a stored tensor of as many elements, converting the type where they differ.
    pub fn store<'g>(&'g self, source: Tensor<'g>, target: Tensor<'g>) -> Result<()> {
        const OP: &str = "store";
        if source.n_elements() != target.n_elements() {
            return Err(shape(OP, "numbers of elements differ", &[source, target]));
        }
        self.require_f32(OP, source)?;
        self.require_writable(OP, target)?;
        if !matches!(target.ty(), GgmlType::F32 | GgmlType::F16 | GgmlType::BF16) {
            return Err(GgmlError::Type {
                op: OP,
                ty: target.ty(),
            });
        }
        let copy = self.node(OP, &[source, target], |context| {
            // SAFETY: shapes and types are checked above.
            unsafe { sys::ggml_cpy(context, source.raw(), target.raw()) }
        })?;
        self.expand(copy)
    }

    /// Makes the graph compute `tensor` even if nothing stored depends on it (in-place operations on storage).
    pub fn expand(&self, tensor: Tensor<'_>) -> Result<()> {
        if !self.owns(tensor) {
            return Err(shape(
                "expand",
                "the tensor belongs to another graph",
                &[tensor],
            ));
        }
        // SAFETY: graph and tensor are alive, and the graph has room for every tensor of its context.
        unsafe { sys::ggml_build_forward_expand(self.graph.as_ptr(), tensor.raw()) };
        Ok(())
    }

    // ---- arithmetic ----

    /// `b` times `a` transposed: `a` is `[k, m]` of any type that ggml multiplies, `b` is `[k, n]`, the result `[m, n]` in F32. Higher dimensions of
    /// `a` are repeated over `b`'s.
    pub fn mul_mat<'g>(&'g self, a: Tensor<'g>, b: Tensor<'g>) -> Result<Tensor<'g>> {
        const OP: &str = "mul_mat";
        let (na, nb) = (a.ne(), b.ne());
        if na[0] != nb[0] || !nb[2].is_multiple_of(na[2]) || !nb[3].is_multiple_of(na[3]) {
            return Err(shape(
                OP,
                "the first dimensions must be equal and the higher ones divide",
                &[a, b],
            ));
        }
        if a.nb()[0] > a.nb()[1] || a.nb()[0] != a.ty().type_size() {
            return Err(shape(
                OP,
                "the first operand must not be transposed",
                &[a, b],
            ));
        }
        self.require_f32(OP, b)?;
        if !super::can_dequantize(a.ty()) {
            return Err(GgmlError::Type { op: OP, ty: a.ty() });
        }
        self.node(OP, &[a, b], |context| {
            // SAFETY: checked above as ggml_can_mul_mat does.
            unsafe { sys::ggml_mul_mat(context, a.raw(), b.raw()) }
        })
    }

    /// `a` converted to F32.
    pub fn to_f32<'g>(&'g self, a: Tensor<'g>) -> Result<Tensor<'g>> {
        const OP: &str = "to_f32";
        if a.ty() == GgmlType::F32 {
            return Ok(a);
        }
        if !matches!(a.ty(), GgmlType::F16 | GgmlType::BF16) {
            return Err(GgmlError::Type { op: OP, ty: a.ty() });
        }
        self.node(OP, &[a], |context| {
            // SAFETY: ggml converts these types to F32.
            unsafe { sys::ggml_cast(context, a.raw(), GgmlType::F32 as u32) }
        })
    }

    // ---- views ----

    /// A contiguous tensor under another shape of as many elements.
    pub fn reshape<'g>(&'g self, a: Tensor<'g>, ne: [usize; 4]) -> Result<Tensor<'g>> {
        let n_elements = ne
            .iter()
            .try_fold(1usize, |product, n| product.checked_mul(*n));
        let whole_rows = ne[0].is_multiple_of(a.ty().block_size());
        if !a.is_contiguous() || !whole_rows || n_elements != Some(a.n_elements()) {
            return Err(shape(
                "reshape",
                &format!("not contiguous, or not {ne:?}"),
                &[a],
            ));
        }
        let [n0, n1, n2, n3] = ne.map(|n| n as i64);
        self.node("reshape", &[a], |context| {
            // SAFETY: contiguous with as many elements.
            unsafe { sys::ggml_reshape_4d(context, a.raw(), n0, n1, n2, n3) }
        })
    }

    /// Part of a tensor: shape `ne`, strides `nb` in bytes for dimensions 1 to 3, from byte `offset` on.
    pub fn view<'g>(
        &'g self,
        a: Tensor<'g>,
        ne: [usize; 4],
        nb: [usize; 3],
        offset: usize,
    ) -> Result<Tensor<'g>> {
        let aligned = nb
            .iter()
            .chain([&offset])
            .all(|n| n.is_multiple_of(a.ty().type_size()));
        let row = contiguous_bytes(a.ty(), [ne[0], 1, 1, 1]);
        let end = row.and_then(|row| {
            let first_row_ends = offset.checked_add(row)?;
            (1..4).try_fold(first_row_ends, |end, d| {
                end.checked_add(ne[d].checked_sub(1)?.checked_mul(nb[d - 1])?)
            })
        });
        if ne[0] == 0 || !aligned || end.is_none_or(|end| end > a.n_bytes()) {
            return Err(shape(
                "view",
                &format!("{ne:?} at {offset} with strides {nb:?} is outside"),
                &[a],
            ));
        }
        let n = ne.map(|n| n as i64);
        self.node("view", &[a], |context| {
            // SAFETY: the range lies in the tensor.
            unsafe {
                sys::ggml_view_4d(
                    context,
                    a.raw(),
                    n[0],
                    n[1],
                    n[2],
                    n[3],
                    nb[0],
                    nb[1],
                    nb[2],
                    offset,
                )
            }
        })
    }

    /// Columns `start .. start + len` of a matrix `[n, rows]`.
    pub fn columns<'g>(&'g self, a: Tensor<'g>, start: usize, len: usize) -> Result<Tensor<'g>> {
        let (ne, nb) = (a.ne(), a.nb());
        let Some(offset) = contiguous_bytes(a.ty(), [start, 1, 1, 1]) else {
            return Err(shape(
                "columns",
                &format!("column {start} is not the first of a block"),
                &[a],
            ));
        };
        self.view(a, [len, ne[1], 1, 1], matrix(nb[1], ne[1]), offset)
    }

    /// Rows `start .. start + len` of a matrix.
    pub fn rows<'g>(&'g self, a: Tensor<'g>, start: usize, len: usize) -> Result<Tensor<'g>> {
        let (ne, nb) = (a.ne(), a.nb());
        self.view(
            a,
            [ne[0], len, 1, 1],
            matrix(nb[1], len),
            start.saturating_mul(nb[1]),
        )
    }

    // ---- operations of our own (CPU only) ----

    /// A new tensor computed by `kernel`.
    pub fn custom<'g>(
        &'g self,
        ty: GgmlType,
        ne: [usize; 4],
        args: &[Tensor<'g>],
        work: Work,
        kernel: Kernel<'a>,
    ) -> Result<Tensor<'g>> {
        let Some(n_bytes) = contiguous_bytes(ty, ne) else {
            return Err(shape(
                work.name,
                &format!("{}{ne:?} is no possible result", ty.name()),
                args,
            ));
        };
        work.check(n_bytes, ty.type_size())?;
        self.custom_node(work, kernel, None, args, |context, raws, op| {
            let [n0, n1, n2, n3] = ne.map(|n| n as i64);
            // SAFETY: at most MAX_ARGS arguments; the operation outlives the node.
            unsafe {
                let (ty, n_args, tasks) = (ty as u32, raws.len() as i32, ALL_THREADS);
                let args = raws.as_mut_ptr();
                sys::ggml_custom_4d(
                    context,
                    ty,
                    n0,
                    n1,
                    n2,
                    n3,
                    args,
                    n_args,
                    Some(run_custom),
                    tasks,
                    op,
                )
            }
        })
    }

    /// Changes a contiguous tensor in place by `kernel`. Nothing may read the old contents afterwards.
    pub fn custom_in_place<'g>(
        &'g self,
        target: Tensor<'g>,
        args: &[Tensor<'g>],
        work: Work,
        kernel: Kernel<'a>,
    ) -> Result<Tensor<'g>> {
        let name = work.name;
        work.check(target.n_bytes(), target.ty().type_size())?;
        if !target.is_contiguous() || args.len() >= MAX_ARGS {
            return Err(shape(
                name,
                "the target must be contiguous, with at most 8 arguments",
                args,
            ));
        }
        if args.iter().any(|arg| arg.root() == target.root()) {
            return Err(shape(name, "an argument shares the target's memory", args));
        }
        self.require_not_read_only(name, target)?;
        self.custom_node(work, kernel, Some(target), args, |context, raws, op| {
            // SAFETY: as above; the target is contiguous and shares no memory with the arguments.
            unsafe {
                let (args, n_args) = (raws.as_mut_ptr(), raws.len() as i32);
                let tasks = ALL_THREADS;
                sys::ggml_custom_inplace(
                    context,
                    target.raw(),
                    args,
                    n_args,
                    Some(run_custom),
                    tasks,
                    op,
                )
            }
        })
    }

    // ---- for backends and workspaces ----

    pub(super) fn raw(&self) -> *mut sys::ggml_cgraph {
        self.graph.as_ptr()
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = Tensor<'_>> {
        // SAFETY: indices are below the node count; nodes live as long as the graph.
        let count = unsafe { sys::ggml_graph_n_nodes(self.graph.as_ptr()) };
        (0..count).map(move |i| unsafe {
            // SAFETY: as above.
            Tensor::from_raw(NonNull::new_unchecked(sys::ggml_graph_node(
                self.graph.as_ptr(),
                i,
            )))
        })
    }

    /// Nodes and stored tensors.
    pub(super) fn n_tensors(&self) -> usize {
        self.nodes().count() + self.stored.borrow().len()
    }

    pub(super) fn before_run(&self) {
        self.custom.borrow().iter().for_each(|op| op.reset());
    }

    pub(super) fn take_panic(&self) -> Option<GgmlError> {
        self.custom.borrow().iter().find_map(|op| op.take_panic())
    }

    // ---- helpers ----

    fn custom_node<'g>(
        &'g self,
        work: Work,
        kernel: Kernel<'a>,
        target: Option<Tensor<'g>>,
        args: &[Tensor<'g>],
        make: impl FnOnce(
            *mut sys::ggml_context,
            &mut [*mut sys::ggml_tensor],
            *mut std::ffi::c_void,
        ) -> *mut sys::ggml_tensor,
    ) -> Result<Tensor<'g>> {
        let name = work.name;
        if args.len() > MAX_ARGS {
            return Err(shape(name, "more than 9 arguments", args));
        }
        let op = Box::new(CustomOp::new(work, kernel, target.is_some()));
        let address = std::ptr::from_ref(op.as_ref()) as *mut std::ffi::c_void;
        let mut raws: Vec<_> = args.iter().map(|t| t.raw()).collect();
        let inputs: Vec<_> = target.into_iter().chain(args.iter().copied()).collect();
        let node = self.node(name, &inputs, |context| make(context, &mut raws, address))?;
        self.custom.borrow_mut().push(op);
        Ok(node)
    }

    /// Makes a node after checking that there is room and that the inputs are this graph's.
    pub(super) fn node<'g>(
        &'g self,
        op: &'static str,
        inputs: &[Tensor<'g>],
        make: impl FnOnce(*mut sys::ggml_context) -> *mut sys::ggml_tensor,
    ) -> Result<Tensor<'g>> {
        // One node may take a second tensor for a view.
        if self.used.get() + 2 > self.capacity {
            return Err(GgmlError::GraphFull {
                capacity: self.capacity,
            });
        }
        if !inputs.iter().all(|input| self.owns(*input)) {
            return Err(shape(op, "an operand belongs to another graph", inputs));
        }
        self.used.set(self.used.get() + 1);
        let raw = NonNull::new(make(self.context.as_ptr())).ok_or(GgmlError::Failed {
            what: op,
            status: -1,
        })?;
        // SAFETY: the node lives in this graph's context.
        Ok(unsafe { Tensor::from_raw(raw) })
    }

    fn owns(&self, tensor: Tensor<'_>) -> bool {
        // SAFETY: the context is alive.
        let (start, size) = unsafe {
            (
                sys::ggml_get_mem_buffer(self.context.as_ptr()) as usize,
                sys::ggml_get_mem_size(self.context.as_ptr()),
            )
        };
        (start..start + size).contains(&(tensor.raw() as usize))
            || self
                .stored
                .borrow()
                .iter()
                .any(|(stored, _)| *stored == tensor.raw())
    }

    pub(super) fn require_f32(&self, op: &'static str, tensor: Tensor<'_>) -> Result<()> {
        if tensor.ty() == GgmlType::F32 {
            Ok(())
        } else {
            Err(GgmlError::Type {
                op,
                ty: tensor.ty(),
            })
        }
    }

    pub(super) fn require_writable(&self, op: &'static str, tensor: Tensor<'_>) -> Result<()> {
        self.require_not_read_only(op, tensor)?;
        // SAFETY: root tensors live as long as what they were loaded from.
        let root = unsafe { Tensor::from_raw(NonNull::new_unchecked(tensor.root())) };
        if root.has_memory() {
            Ok(())
        } else {
            Err(shape(op, "the target is not stored", &[tensor]))
        }
    }

    fn require_not_read_only(&self, op: &'static str, tensor: Tensor<'_>) -> Result<()> {
        if self.stored.borrow().contains(&(tensor.root(), true)) {
            return Err(shape(op, "the target is mapped from a file", &[tensor]));
        }
        Ok(())
    }
}

impl Drop for Graph<'_> {
    fn drop(&mut self) {
        // SAFETY: ours, freed once; tensors handed out borrow `self`.
        unsafe { sys::ggml_free(self.context.as_ptr()) }
    }
}

/// Strides of a matrix: ggml's operations look at those of the dimensions that it does not have, too.
fn matrix(row: usize, n_rows: usize) -> [usize; 3] {
    [row, row.saturating_mul(n_rows), row.saturating_mul(n_rows)]
}

pub(super) fn shape(op: &'static str, reason: &str, operands: &[Tensor<'_>]) -> GgmlError {
    let operands = operands
        .iter()
        .map(|t| format!("{t:?}"))
        .collect::<Vec<_>>()
        .join(", ");
    GgmlError::Shape {
        op,
        reason: reason.to_owned(),
        operands,
    }
}
