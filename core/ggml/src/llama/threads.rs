//! A kept pool of ggml compute threads. Without one (we build without OpenMP) ggml starts and joins
//! threads for every graph.

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

type New = unsafe extern "C" fn(*mut sys::ggml_threadpool_params) -> *mut sys::ggml_threadpool;
type Free = unsafe extern "C" fn(*mut sys::ggml_threadpool);

pub(super) struct ThreadPool {
    raw: NonNull<sys::ggml_threadpool>,
    free: Free,
}

// SAFETY: the pool is only an owner here; it is created, attached and freed by one owner at a time,
// and has no thread affinity.
unsafe impl Send for ThreadPool {}

impl ThreadPool {
    /// A pool of `n_threads`, of which the thread that computes is one. `None` if this build has no
    /// such pool.
    pub(super) fn new(n_threads: u32) -> Option<Self> {
        // Looked up by name, not linked: with dynamic backends ggml-cpu is a module that is loaded
        // at run time.
        let new = cpu_function(c"ggml_threadpool_new")?;
        let free = cpu_function(c"ggml_threadpool_free")?;
        // SAFETY: the CPU backend registers these two names with exactly these signatures
        // (ggml-cpu.h).
        let (new, free) = unsafe {
            (
                std::mem::transmute::<*mut c_void, New>(new),
                std::mem::transmute::<*mut c_void, Free>(free),
            )
        };
        // SAFETY: the parameters are ggml's defaults for a thread count that the caller has bounded
        // (1..=512), and are only read.
        let raw = unsafe {
            let mut params = sys::ggml_threadpool_params_default(n_threads as i32);
            new(&mut params)
        };
        Some(Self {
            raw: NonNull::new(raw)?,
            free,
        })
    }

    pub(super) fn as_ptr(&self) -> *mut sys::ggml_threadpool {
        self.raw.as_ptr()
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        // SAFETY: the owner (a context) drops its llama context first, so that no graph can be
        // running on the pool.
        unsafe { (self.free)(self.raw.as_ptr()) }
    }
}

fn cpu_function(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: reads ggml's registry, which is initialised; the name is nul-terminated.
    let function = unsafe {
        let device = sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU);
        if device.is_null() {
            return None;
        }
        sys::ggml_backend_reg_get_proc_address(
            sys::ggml_backend_dev_backend_reg(device),
            name.as_ptr(),
        )
    };
    (!function.is_null()).then_some(function)
}
