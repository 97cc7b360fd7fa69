//! A typed handle on a tensor's description; its memory belongs to a [`Storage`](super::Storage) or to a
//! [`Workspace`](super::Workspace).

use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use crate::GgmlType;

/// A tensor of up to four dimensions, `ne[0]` the contiguous one. Valid while what it was made from lives.
#[derive(Clone, Copy)]
pub struct Tensor<'a> {
    raw: NonNull<sys::ggml_tensor>,
    _owner: PhantomData<&'a ()>,
}

impl<'a> Tensor<'a> {
    /// # Safety
    /// `raw` is a valid tensor that lives for `'a`.
    pub(super) unsafe fn from_raw(raw: NonNull<sys::ggml_tensor>) -> Self {
        Self {
            raw,
            _owner: PhantomData,
        }
    }

    pub(super) fn raw(self) -> *mut sys::ggml_tensor {
        self.raw.as_ptr()
    }

    fn get(&self) -> &'a sys::ggml_tensor {
        // SAFETY: the tensor lives for 'a, and its description does not change once it is made.
        unsafe { self.raw.as_ref() }
    }

    /// Number of elements in each dimension.
    pub fn ne(&self) -> [usize; 4] {
        self.get().ne.map(|n| n as usize)
    }

    /// Stride of each dimension in bytes.
    pub fn nb(&self) -> [usize; 4] {
        self.get().nb
    }

    /// Element type.
    #[allow(clippy::unnecessary_cast)] // C enums are signed on Windows.
    pub fn ty(&self) -> GgmlType {
        GgmlType::try_from(self.get().type_ as u32).unwrap_or(GgmlType::F32)
    }

    /// Elements in all.
    pub fn n_elements(&self) -> usize {
        self.ne().iter().product()
    }

    /// Rows: the product of all dimensions but the first.
    pub fn n_rows(&self) -> usize {
        self.ne()[1..].iter().product()
    }

    /// Bytes from the first element to the end of the last.
    pub fn n_bytes(&self) -> usize {
        // SAFETY: the tensor is alive.
        unsafe { sys::ggml_nbytes(self.raw.as_ptr()) }
    }

    /// Whether the elements lie without gaps in the order of the dimensions.
    pub fn is_contiguous(&self) -> bool {
        // SAFETY: the tensor is alive.
        unsafe { sys::ggml_is_contiguous(self.raw.as_ptr()) }
    }

    /// The tensor whose memory this one is a view of, or itself.
    pub(super) fn root(&self) -> *mut sys::ggml_tensor {
        let source = self.get().view_src;
        if source.is_null() {
            self.raw.as_ptr()
        } else {
            source
        }
    }

    /// The operation that computes it, by ggml's name.
    pub(super) fn op_name(&self) -> String {
        // SAFETY: the tensor is alive, and its operation has a static name.
        let name = unsafe { CStr::from_ptr(sys::ggml_op_desc(self.raw.as_ptr())) };
        name.to_string_lossy().into_owned()
    }

    pub(super) fn has_memory(&self) -> bool {
        !self.get().data.is_null()
    }
}

/// Bytes of a tensor without gaps; none where its rows are not whole blocks, or where it could not be addressed.
pub(super) fn contiguous_bytes(ty: GgmlType, ne: [usize; 4]) -> Option<usize> {
    if !ne[0].is_multiple_of(ty.block_size()) {
        return None;
    }
    let row = (ne[0] / ty.block_size()).checked_mul(ty.type_size())?;
    let bytes = ne[1..]
        .iter()
        .try_fold(row, |bytes, n| bytes.checked_mul(*n))?;
    (bytes <= isize::MAX as usize).then_some(bytes)
}

impl std::fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d] = self.ne();
        write!(f, "{}[{a}, {b}, {c}, {d}]", self.ty().name())
    }
}
