//! Tensors whose memory outlives a computation: weights, activations that are kept, inputs and results.

use std::ptr::NonNull;
use std::sync::Arc;

use bytemuck::{AnyBitPattern, NoUninit};
use llama_cpp_sys_2 as sys;

use super::device::{Backend, Handle};
use super::error::{GgmlError, Result};
use super::tensor::{Tensor, contiguous_bytes};
use crate::GgmlType;
use crate::gguf::Gguf;

/// `TENSOR_ALIGNMENT` of ggml-impl.h, which ggml asserts.
const MAPPED_ALIGNMENT: usize = 32;

/// A handle on one tensor of a [`Storage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(usize);

/// A set of tensors with memory, all made at once.
pub struct Storage {
    context: NonNull<sys::ggml_context>,
    buffer: NonNull<sys::ggml_backend_buffer>,
    tensors: Vec<NonNull<sys::ggml_tensor>>,
    // Keeps a mapped file alive as long as tensors point into it.
    mapped: Option<Arc<Gguf>>,
    // Whose memory it is, if not a mapped file's.
    backend: Option<Arc<Handle>>,
}

// SAFETY: the pointers are owned; ggml has no thread affinity for contexts and host buffers. Not Sync: reads and writes of
// tensor data take `&self` and must not run beside one another.
unsafe impl Send for Storage {}

/// Collects the shapes of a [`Storage`].
#[derive(Default)]
pub struct StorageBuilder {
    shapes: Vec<(GgmlType, [usize; 4])>,
}

impl StorageBuilder {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor; dimensions that are not given are 1.
    pub fn add(&mut self, ty: GgmlType, ne: &[usize]) -> TensorId {
        let mut full = [1; 4];
        full[..ne.len()].copy_from_slice(ne);
        self.shapes.push((ty, full));
        TensorId(self.shapes.len() - 1)
    }

    /// Bytes of all tensors, without padding.
    pub fn n_bytes(&self) -> usize {
        let bytes = self
            .shapes
            .iter()
            .map(|(ty, ne)| contiguous_bytes(*ty, *ne).unwrap_or(usize::MAX));
        bytes.fold(0, usize::saturating_add)
    }

    /// Allocates all tensors on the backend's memory, filled with zeros.
    pub fn build(self, backend: &Backend) -> Result<Storage> {
        let n_bytes = self.n_bytes();
        let (context, tensors) = describe(&self.shapes)?;
        // SAFETY: context and backend are alive, and no tensor has memory yet.
        let buffer = unsafe {
            let buffer_type = sys::ggml_backend_get_default_buffer_type(backend.raw());
            NonNull::new(sys::ggml_backend_alloc_ctx_tensors_from_buft(
                context.as_ptr(),
                buffer_type,
            ))
        };
        let Some(buffer) = buffer else {
            // SAFETY: ours, freed once.
            unsafe { sys::ggml_free(context.as_ptr()) };
            return Err(GgmlError::Memory {
                what: "tensors",
                bytes: n_bytes,
            });
        };
        // SAFETY: the buffer is alive.
        unsafe { sys::ggml_backend_buffer_clear(buffer.as_ptr(), 0) };
        Ok(Storage {
            context,
            buffer,
            tensors,
            mapped: None,
            backend: Some(Arc::clone(backend.handle())),
        })
    }
}

impl Storage {
    /// The tensors of a mapped model file, in the file's order, without copying a byte.
    pub fn map(gguf: &Arc<Gguf>) -> Result<Self> {
        let shapes: Vec<_> = gguf
            .tensors()
            .iter()
            .map(|t| (t.ty, t.dims.map(|n| n as usize)))
            .collect();
        let region = gguf.data_region();
        if !region.as_ptr().addr().is_multiple_of(MAPPED_ALIGNMENT)
            || !gguf.alignment().is_multiple_of(MAPPED_ALIGNMENT)
        {
            return Err(GgmlError::Misaligned {
                alignment: MAPPED_ALIGNMENT,
            });
        }
        let (context, tensors) = describe(&shapes)?;
        // SAFETY: the region is mapped for as long as `mapped` holds the file. The buffer is only read: mapped tensors are
        // never destinations (`Storage::write` refuses them, and `Graph` writes only into storage it is told to).
        let buffer = unsafe {
            NonNull::new(sys::ggml_backend_cpu_buffer_from_ptr(
                region.as_ptr() as *mut _,
                region.len(),
            ))
        };
        let Some(buffer) = buffer else {
            // SAFETY: ours, freed once.
            unsafe { sys::ggml_free(context.as_ptr()) };
            return Err(GgmlError::Memory {
                what: "mapped weights",
                bytes: region.len(),
            });
        };
        let storage = Self {
            context,
            buffer,
            tensors,
            mapped: Some(Arc::clone(gguf)),
            backend: None,
        };
        for (raw, info) in storage.tensors.iter().zip(gguf.tensors()) {
            let data = gguf.data(info);
            // SAFETY: the range was checked when the file was parsed and lies in the buffer.
            let status = unsafe {
                sys::ggml_backend_tensor_alloc(
                    buffer.as_ptr(),
                    raw.as_ptr(),
                    data.as_ptr() as *mut _,
                )
            };
            if status != sys::GGML_STATUS_SUCCESS {
                return Err(GgmlError::Failed {
                    what: "placing a mapped tensor",
                    status,
                });
            }
        }
        Ok(storage)
    }

    /// The tensor at `index` in the order of making.
    pub fn id(&self, index: usize) -> Option<TensorId> {
        (index < self.tensors.len()).then_some(TensorId(index))
    }

    /// Whether the tensors lie in a mapped file, which must not be written.
    pub fn is_mapped(&self) -> bool {
        self.mapped.is_some()
    }

    /// The tensor itself, for its shape.
    ///
    /// # Panics
    /// If `id` belongs to another storage with more tensors.
    pub fn get(&self, id: TensorId) -> Tensor<'_> {
        // SAFETY: the tensor lives as long as the storage.
        unsafe { Tensor::from_raw(self.tensors[id.0]) }
    }

    /// Bytes of memory that the tensors take, padding included.
    pub fn n_bytes(&self) -> usize {
        // SAFETY: the buffer is alive.
        unsafe { sys::ggml_backend_buffer_get_size(self.buffer.as_ptr()) }
    }

    /// Sets all tensors to 0. Does nothing to a mapped file.
    pub fn clear(&mut self) {
        self.wait();
        if self.mapped.is_none() {
            // SAFETY: the buffer is alive and ours to write; `&mut self` keeps readers away.
            unsafe { sys::ggml_backend_buffer_clear(self.buffer.as_ptr(), 0) };
        }
    }

    /// Copies host data into a tensor, whole.
    pub fn write<T: NoUninit>(&mut self, id: TensorId, data: &[T]) -> Result<()> {
        let (tensor, host) = (self.get(id).n_bytes(), std::mem::size_of_val(data));
        if tensor != host {
            return Err(GgmlError::Size { tensor, host });
        }
        self.write_at(id, 0, data)
    }

    /// Copies host data into a tensor from byte `offset` on.
    pub fn write_at<T: NoUninit>(&mut self, id: TensorId, offset: usize, data: &[T]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        let tensor = self.get(id);
        if self.mapped.is_some() {
            return Err(GgmlError::Shape {
                op: "write",
                reason: "the tensor is mapped from a file".to_owned(),
                operands: format!("{tensor:?}"),
            });
        }
        check_range(tensor, offset, bytes.len())?;
        self.wait();
        // SAFETY: the range lies in the tensor, which has memory; `&mut self` keeps readers away.
        unsafe {
            sys::ggml_backend_tensor_set(tensor.raw(), bytes.as_ptr().cast(), offset, bytes.len())
        };
        Ok(())
    }

    /// Copies part of a tensor, from its beginning on or from byte `offset`, into host memory.
    pub fn read_at<T: NoUninit + AnyBitPattern>(
        &self,
        id: TensorId,
        offset: usize,
        data: &mut [T],
    ) -> Result<()> {
        let tensor = self.get(id);
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(data);
        check_range(tensor, offset, bytes.len())?;
        self.wait();
        // SAFETY: the range lies in the tensor, which has memory.
        unsafe {
            sys::ggml_backend_tensor_get(
                tensor.raw(),
                bytes.as_mut_ptr().cast(),
                offset,
                bytes.len(),
            )
        };
        Ok(())
    }

    /// Backends other than the CPU go on computing after they were given a graph.
    fn wait(&self) {
        if let Some(backend) = &self.backend {
            backend.wait();
        }
    }

    /// Copies a tensor into host memory, whole.
    pub fn read<T: NoUninit + AnyBitPattern>(&self, id: TensorId, data: &mut [T]) -> Result<()> {
        let (tensor, host) = (self.get(id).n_bytes(), std::mem::size_of_val(data));
        if tensor != host {
            return Err(GgmlError::Size { tensor, host });
        }
        self.read_at(id, 0, data)
    }

    /// Copies a tensor into `data`, which takes its length.
    pub fn read_into<T: NoUninit + AnyBitPattern + Default>(
        &self,
        id: TensorId,
        data: &mut Vec<T>,
    ) -> Result<()> {
        data.resize(self.get(id).n_bytes() / size_of::<T>(), T::default());
        self.read(id, data)
    }

    /// A tensor's elements as a new vector.
    pub fn to_vec<T: NoUninit + AnyBitPattern + Default>(&self, id: TensorId) -> Result<Vec<T>> {
        let mut data = vec![T::default(); self.get(id).n_bytes() / size_of::<T>()];
        self.read(id, &mut data)?;
        Ok(data)
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.wait();
        // SAFETY: both are ours and freed once; tensors handed out borrow `self` and are gone.
        unsafe {
            sys::ggml_backend_buffer_free(self.buffer.as_ptr());
            sys::ggml_free(self.context.as_ptr());
        }
    }
}

fn check_range(tensor: Tensor<'_>, offset: usize, len: usize) -> Result<()> {
    let end = offset.saturating_add(len);
    if end > tensor.n_bytes() {
        return Err(GgmlError::Size {
            tensor: tensor.n_bytes(),
            host: end,
        });
    }
    Ok(())
}

type Described = (NonNull<sys::ggml_context>, Vec<NonNull<sys::ggml_tensor>>);

/// Tensor descriptions without memory.
fn describe(shapes: &[(GgmlType, [usize; 4])]) -> Result<Described> {
    for (ty, ne) in shapes {
        if contiguous_bytes(*ty, *ne).is_none() {
            return Err(GgmlError::Shape {
                op: "storage",
                reason: format!(
                    "rows must be multiples of {}, and tensors addressable",
                    ty.block_size()
                ),
                operands: format!("{}{ne:?}", ty.name()),
            });
        }
    }
    // SAFETY: the context is sized for exactly these tensors; dimensions are checked against the type above.
    unsafe {
        let mem_size = (shapes.len() + 1) * sys::ggml_tensor_overhead();
        let params = sys::ggml_init_params {
            mem_size,
            mem_buffer: std::ptr::null_mut(),
            no_alloc: true,
        };
        let context = NonNull::new(sys::ggml_init(params)).ok_or(GgmlError::Memory {
            what: "tensor descriptions",
            bytes: mem_size,
        })?;
        let tensors = shapes
            .iter()
            .map(|(ty, ne)| {
                let ne = ne.map(|n| n as i64);
                let raw = sys::ggml_new_tensor(context.as_ptr(), *ty as u32, 4, ne.as_ptr());
                NonNull::new_unchecked(raw)
            })
            .collect();
        Ok((context, tensors))
    }
}
