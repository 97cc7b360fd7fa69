//! Devices that ggml knows on this machine, and backends that compute on them.

use std::ffi::{CStr, CString, c_void};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llama_cpp_sys_2 as sys;

use super::cpu::{self, ThreadPool};
use super::error::{GgmlError, Result};
use super::graph::Graph;

/// `GGML_MAX_N_THREADS` of ggml.h.
const MAX_THREADS: usize = 512;

/// What kind of processor a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// The host's CPU.
    Cpu,
    /// A GPU with memory of its own.
    Gpu,
    /// A GPU that shares the host's memory.
    IntegratedGpu,
    /// A CPU-side accelerator (BLAS, AMX).
    Accelerator,
}

/// One device, as ggml reports it.
#[derive(Debug, Clone)]
pub struct DeviceInfo {
    /// Name by which [`Backend::open`] finds it.
    pub name: String,
    /// The vendor's description.
    pub description: String,
    /// What kind of processor it is.
    pub kind: DeviceKind,
    /// Free and total memory in bytes (0 where unknown).
    pub memory: (usize, usize),
}

/// Every device that the linked ggml backends report.
pub fn devices() -> Vec<DeviceInfo> {
    cpu::load_backends();
    // SAFETY: the registry is initialised on first use and lives as long as the process; indices are below its count.
    unsafe {
        (0..sys::ggml_backend_dev_count())
            .map(|index| {
                let device = sys::ggml_backend_dev_get(index);
                let (mut free, mut total) = (0, 0);
                sys::ggml_backend_dev_memory(device, &mut free, &mut total);
                DeviceInfo {
                    name: text(sys::ggml_backend_dev_name(device)),
                    description: text(sys::ggml_backend_dev_description(device)),
                    kind: match sys::ggml_backend_dev_type(device) {
                        sys::GGML_BACKEND_DEVICE_TYPE_GPU => DeviceKind::Gpu,
                        sys::GGML_BACKEND_DEVICE_TYPE_IGPU => DeviceKind::IntegratedGpu,
                        sys::GGML_BACKEND_DEVICE_TYPE_ACCEL => DeviceKind::Accelerator,
                        _ => DeviceKind::Cpu,
                    },
                    memory: (free, total),
                }
            })
            .collect()
    }
}

/// Something that computes graphs: the CPU with a thread pool of its own, or another device.
pub struct Backend {
    handle: Arc<Handle>,
    abort: Arc<AtomicBool>,
}

/// A backend as storages share it: they wait for it before the host looks into their tensors.
pub(super) struct Handle {
    raw: NonNull<sys::ggml_backend>,
    // Freed after the backend, which refers to it (see Drop).
    _threads: Option<ThreadPool>,
    /// Held while the backend is given work, and while it is waited for.
    busy: Mutex<()>,
}

// SAFETY: a backend may be used from any thread, by one at a time, which `busy` sees to; nothing else of it changes.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    fn new(raw: NonNull<sys::ggml_backend>, threads: Option<ThreadPool>) -> Arc<Self> {
        Arc::new(Self {
            raw,
            _threads: threads,
            busy: Mutex::new(()),
        })
    }

    /// Returns once everything has been computed that the backend was given.
    pub(super) fn wait(&self) {
        let _busy = self.lock();
        // SAFETY: the backend is alive, and nothing else uses it meanwhile.
        unsafe { sys::ggml_backend_synchronize(self.raw.as_ptr()) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend {
    /// The CPU with `n_threads` threads, kept across graphs.
    pub fn cpu(n_threads: usize) -> Result<Self> {
        let n_threads = n_threads.clamp(1, MAX_THREADS) as u32;
        let failed = || GgmlError::Failed {
            what: "cpu backend",
            status: -1,
        };
        let device = cpu::device().ok_or_else(failed)?;
        // SAFETY: the device is valid for the life of the process.
        let raw = unsafe { sys::ggml_backend_dev_init(device.as_ptr(), std::ptr::null()) };
        let raw = NonNull::new(raw).ok_or_else(failed)?;
        let threads = ThreadPool::new(n_threads);
        let abort = Arc::new(AtomicBool::new(false));
        let flag = Arc::as_ptr(&abort) as *mut c_void;
        // SAFETY: a CPU backend; pool and flag live as long as it (see Drop).
        unsafe {
            cpu::configure(
                raw.as_ptr(),
                n_threads,
                threads.as_ref(),
                Some(abort_requested),
                flag,
            );
        }
        Ok(Self {
            handle: Handle::new(raw, threads),
            abort,
        })
    }

    /// The device of that name, as [`devices`] lists it.
    pub fn open(name: &str, n_threads: usize) -> Result<Self> {
        let unknown = || GgmlError::NoDevice(name.to_owned());
        let c_name = CString::new(name).map_err(|_| unknown())?;
        cpu::load_backends();
        // SAFETY: the name is a valid C string; a null device or backend is refused.
        unsafe {
            let device =
                NonNull::new(sys::ggml_backend_dev_by_name(c_name.as_ptr())).ok_or_else(unknown)?;
            if sys::ggml_backend_dev_type(device.as_ptr()) == sys::GGML_BACKEND_DEVICE_TYPE_CPU {
                return Self::cpu(n_threads);
            }
            let raw = NonNull::new(sys::ggml_backend_dev_init(
                device.as_ptr(),
                std::ptr::null(),
            ))
            .ok_or(GgmlError::Failed {
                what: "device",
                status: -1,
            })?;
            Ok(Self {
                handle: Handle::new(raw, None),
                abort: Arc::new(AtomicBool::new(false)),
            })
        }
    }

    /// The backend's name, such as `CPU`.
    pub fn name(&self) -> String {
        // SAFETY: the backend is alive, its name is a static C string.
        unsafe { text(sys::ggml_backend_name(self.raw())) }
    }

    /// Whether this is the CPU, where custom operations run.
    pub fn is_cpu(&self) -> bool {
        // SAFETY: the backend is alive, and its device valid for the life of the process.
        unsafe {
            let device = sys::ggml_backend_get_device(self.raw());
            sys::ggml_backend_dev_type(device) == sys::GGML_BACKEND_DEVICE_TYPE_CPU
        }
    }

    /// While this flag is true, a running computation stops at its next node with [`GgmlError::Aborted`].
    pub fn abort_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.abort)
    }

    /// Whether the backend has a kernel for every node of the graph; otherwise the first that it lacks, by name.
    pub fn supports(&self, graph: &Graph<'_>) -> std::result::Result<(), String> {
        for node in graph.nodes() {
            // SAFETY: node and backend are alive.
            if !unsafe { sys::ggml_backend_supports_op(self.raw(), node.raw()) } {
                return Err(node.op_name());
            }
        }
        Ok(())
    }

    pub(super) fn raw(&self) -> *mut sys::ggml_backend {
        self.handle.raw.as_ptr()
    }

    pub(super) fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    /// Runs an allocated graph to its end.
    pub(super) fn run(&mut self, graph: &Graph<'_>) -> Result<()> {
        let _busy = self.handle.lock();
        // SAFETY: `Workspace::compute` has allocated every node; nothing else uses the backend meanwhile.
        let status = unsafe { sys::ggml_backend_graph_compute(self.raw(), graph.raw()) };
        outcome(status)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: ours, freed once, before its threads: fields are dropped after this.
        unsafe { sys::ggml_backend_free(self.raw.as_ptr()) }
    }
}

/// What a computation's status means.
pub(super) fn outcome(status: sys::ggml_status) -> Result<()> {
    match status {
        sys::GGML_STATUS_SUCCESS => Ok(()),
        sys::GGML_STATUS_ABORTED => Err(GgmlError::Aborted),
        status => Err(GgmlError::Failed {
            what: "graph computation",
            status,
        }),
    }
}

unsafe extern "C" fn abort_requested(flag: *mut c_void) -> bool {
    // SAFETY: the pointer is the backend's own flag, which lives as long as the backend.
    unsafe { (*(flag as *const AtomicBool)).load(Ordering::Relaxed) }
}

/// # Safety
/// `pointer` is a valid C string.
unsafe fn text(pointer: *const std::ffi::c_char) -> String {
    // SAFETY: passed on to the caller.
    unsafe { CStr::from_ptr(pointer) }
        .to_string_lossy()
        .into_owned()
}
