//! Operations of our own on the CPU backend.
//!
//! A custom operation is cut into *units* of work that threads take as they get free. Each unit owns disjoint ranges of the
//! destination and sees the arguments read-only, so kernels are safe code; which thread runs a unit cannot change its result.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytemuck::AnyBitPattern;
use llama_cpp_sys_2 as sys;

use super::error::{GgmlError, Result};
use crate::GgmlType;

/// Most arguments that ggml passes to a custom operation.
pub const MAX_ARGS: usize = 9;

/// How a kernel's work is divided into units.
#[derive(Debug, Clone)]
pub struct Work {
    /// Name shown in errors.
    pub name: &'static str,
    /// Number of units.
    pub n_units: usize,
    /// What the units write: per region `n_units + 1` rising byte offsets into the destination. Unit `i` writes the bytes from
    /// offset `i` to offset `i + 1` of each region.
    pub regions: Vec<Vec<usize>>,
}

impl Work {
    /// Rows of the whole destination, `rows_per_unit` at a time.
    pub fn rows(name: &'static str, n_rows: usize, row_bytes: usize, rows_per_unit: usize) -> Self {
        let rows_per_unit = rows_per_unit.max(1);
        let n_units = n_rows.div_ceil(rows_per_unit);
        let region = (0..=n_units)
            .map(|i| (i * rows_per_unit).min(n_rows) * row_bytes)
            .collect();
        Self {
            name,
            n_units,
            regions: vec![region],
        }
    }

    /// Checks that the regions lie in a destination of `n_bytes`, do not overlap, and hold elements whole.
    pub(super) fn check(&self, n_bytes: usize, element: usize) -> Result<()> {
        let mut spans = Vec::new();
        for region in &self.regions {
            let rising = region.is_sorted() && region.iter().all(|n| n.is_multiple_of(element));
            match (region.first(), region.last()) {
                (Some(&start), Some(&end)) if rising && region.len() == self.n_units + 1 => {
                    spans.push((start, end));
                }
                _ => {
                    return Err(self.refuse(
                        "a region's offsets are not rising, whole or complete".to_owned(),
                    ));
                }
            }
        }
        spans.sort_unstable();
        if spans.windows(2).any(|pair| pair[0].1 > pair[1].0) {
            return Err(self.refuse("regions overlap".to_owned()));
        }
        match spans.last() {
            Some(&(_, end)) if end > n_bytes => {
                Err(self.refuse(format!("regions end at byte {end} of {n_bytes}")))
            }
            _ => Ok(()),
        }
    }

    fn refuse(&self, reason: String) -> GgmlError {
        GgmlError::Shape {
            op: self.name,
            reason,
            operands: String::new(),
        }
    }
}

/// A tensor's elements as a kernel sees them.
#[derive(Clone, Copy)]
pub struct View<'a, T> {
    /// From the first element to the last one, gaps included.
    pub data: &'a [T],
    /// Elements per dimension.
    pub ne: [usize; 4],
    /// Strides in elements (for block types, in bytes).
    pub stride: [usize; 4],
}

impl<'a, T> View<'a, T> {
    /// Row `i` of a matrix.
    #[inline]
    pub fn row(&self, i: usize) -> &'a [T] {
        let start = i * self.stride[1];
        &self.data[start..start + self.ne[0]]
    }
}

/// The arguments of a custom operation.
pub struct Args {
    tensors: [*const sys::ggml_tensor; MAX_ARGS],
    len: usize,
}

impl Args {
    /// Argument `index` as elements of type `T`: `f32` for F32, `u16` for F16 and BF16, `i32` for I32.
    ///
    /// # Panics
    /// If the tensor's type has another size (caught at the C boundary and reported as an error).
    pub fn view<T: AnyBitPattern>(&self, index: usize) -> View<'_, T> {
        let bytes = self.bytes(index);
        assert_eq!(
            bytes.element,
            size_of::<T>(),
            "argument {index}: element size"
        );
        View {
            data: bytemuck::cast_slice(bytes.view.data),
            ne: bytes.view.ne,
            stride: bytes.view.stride.map(|n| n / size_of::<T>()),
        }
    }

    /// Argument `index` as F32.
    pub fn f32(&self, index: usize) -> View<'_, f32> {
        self.view(index)
    }

    /// Argument `index` as raw bytes: row `i` starts at `i * stride[1]`.
    pub fn raw(&self, index: usize) -> View<'_, u8> {
        self.bytes(index).view
    }

    fn bytes(&self, index: usize) -> Bytes<'_> {
        assert!(index < self.len, "argument {index} of {}", self.len);
        // SAFETY: ggml keeps the arguments alive and unchanged during the call: they were checked at building to share no
        // memory with the destination, and ggml runs one node at a time.
        unsafe {
            let tensor = &*self.tensors[index];
            let data =
                std::slice::from_raw_parts(tensor.data as *const u8, sys::ggml_nbytes(tensor));
            let view = View {
                data,
                ne: tensor.ne.map(|n| n as usize),
                stride: tensor.nb,
            };
            Bytes {
                view,
                element: sys::ggml_type_size(tensor.type_),
            }
        }
    }
}

struct Bytes<'a> {
    view: View<'a, u8>,
    element: usize,
}

/// What a unit writes: one slice per region.
pub struct Out<'a> {
    slices: Vec<&'a mut [u8]>,
}

impl Out<'_> {
    /// Region `index` as elements of type `T`.
    ///
    /// # Panics
    /// If the region does not hold whole elements (caught and reported).
    pub fn region<T: bytemuck::Pod>(&mut self, index: usize) -> &mut [T] {
        bytemuck::cast_slice_mut(self.slices[index])
    }

    /// Two regions at once.
    ///
    /// # Panics
    /// If there are fewer than two regions.
    pub fn pair<T: bytemuck::Pod, U: bytemuck::Pod>(&mut self) -> (&mut [T], &mut [U]) {
        let [first, second, ..] = self.slices.as_mut_slice() else {
            panic!("fewer than two regions");
        };
        (
            bytemuck::cast_slice_mut(first),
            bytemuck::cast_slice_mut(second),
        )
    }
}

/// A kernel: computes unit `unit`, reading the arguments and writing its share of the destination.
pub type Kernel<'a> = Box<dyn Fn(usize, &Args, &mut Out<'_>) + Send + Sync + 'a>;

/// A kernel with its division of work, as ggml calls it.
pub(super) struct CustomOp<'a> {
    pub(super) work: Work,
    kernel: Kernel<'a>,
    in_place: bool,
    next: AtomicUsize,
    panic: Mutex<Option<String>>,
}

impl<'a> CustomOp<'a> {
    pub(super) fn new(work: Work, kernel: Kernel<'a>, in_place: bool) -> Self {
        Self {
            work,
            kernel,
            in_place,
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
        }
    }

    /// Before each computation.
    pub(super) fn reset(&self) {
        self.next.store(0, Ordering::Relaxed);
    }

    /// The message of a panic during the last computation.
    pub(super) fn take_panic(&self) -> Option<GgmlError> {
        let reason = self.panic.lock().ok()?.take()?;
        Some(GgmlError::Panicked {
            op: self.work.name,
            reason,
        })
    }

    fn run_units(&self, dst: &sys::ggml_tensor) {
        // For an in-place operation ggml puts the destination itself first.
        let first = usize::from(self.in_place);
        let sources = &dst.src[first..first + MAX_ARGS];
        let len = sources
            .iter()
            .take_while(|source| !source.is_null())
            .count();
        let mut tensors = [std::ptr::null(); MAX_ARGS];
        for (to, from) in tensors.iter_mut().zip(sources) {
            *to = from.cast_const();
        }
        let args = Args { tensors, len };
        loop {
            let unit = self.next.fetch_add(1, Ordering::Relaxed);
            if unit >= self.work.n_units {
                return;
            }
            let slices = self.work.regions.iter().map(|region| {
                let (start, end) = (region[unit], region[unit + 1]);
                // SAFETY: regions were checked to be disjoint and inside the destination, units are disjoint ranges of a
                // region, and each unit is taken once, so no two slices alive overlap.
                unsafe {
                    let base = dst.data.cast::<u8>().add(start);
                    std::slice::from_raw_parts_mut(base, end - start)
                }
            });
            let mut out = Out {
                slices: slices.collect(),
            };
            (self.kernel)(unit, &args, &mut out);
        }
    }
}

/// The function that ggml calls on every thread.
pub(super) unsafe extern "C" fn run_custom(
    dst: *mut sys::ggml_tensor,
    _thread: i32,
    _n_threads: i32,
    op: *mut std::ffi::c_void,
) {
    // SAFETY: `Graph` keeps the operation boxed as long as the node exists; dst is the node being computed.
    let (op, dst) = unsafe { (&*(op as *const CustomOp<'_>), &*dst) };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| op.run_units(dst))) {
        let reason = panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "unknown panic".to_owned());
        if let Ok(mut slot) = op.panic.lock() {
            *slot = Some(reason);
        }
    }
}

/// Bytes of one row of `n` elements, for [`Work::rows`].
pub fn row_bytes(ty: GgmlType, n: usize) -> usize {
    ty.row_size(n)
}
