//! What only the CPU's backend offers, found by name and not linked: with the feature `dynamic-backends` it is a module that is loaded
//! at run time, in the variant that suits the machine.

use std::ffi::{CStr, c_int, c_void};
use std::mem::transmute;
use std::ptr::NonNull;
use std::sync::Once;

use llama_cpp_sys_2 as sys;

/// An environment variable that names the folder of backend modules.
#[cfg(feature = "dynamic-backends")]
const FOLDER: &str = "THUMBPRINT_BACKENDS";

/// Makes the backends known that are modules, once in a process: those in the folder that `THUMBPRINT_BACKENDS` names, else in the one
/// they were built in, else beside the program. Whatever asks for a device calls this first.
pub(crate) fn load_backends() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        #[cfg(feature = "dynamic-backends")]
        {
            let built_in = option_env!("THUMBPRINT_BACKENDS_BUILT").map(std::ffi::OsString::from);
            let folder = std::env::var_os(FOLDER).or(built_in);
            let folder = folder.filter(|folder| std::path::Path::new(folder).is_dir());
            let folder = folder.and_then(|folder| {
                std::ffi::CString::new(folder.to_string_lossy().into_owned()).ok()
            });
            // SAFETY: `quiet` is a valid function for the life of the process. The path is a valid C string, or ggml looks where it does by
            // itself. Modules register themselves.
            unsafe {
                // Each module is announced on the terminal otherwise.
                sys::ggml_log_set(Some(quiet), std::ptr::null_mut());
                match folder {
                    Some(folder) => sys::ggml_backend_load_all_from_path(folder.as_ptr()),
                    None => sys::ggml_backend_load_all(),
                }
            }
        }
    });
}

#[cfg(feature = "dynamic-backends")]
unsafe extern "C" fn quiet(_: sys::ggml_log_level, _: *const std::ffi::c_char, _: *mut c_void) {}

/// Compute threads that are kept: without a pool (we build without OpenMP) ggml starts and joins threads for every graph.
pub(crate) struct ThreadPool {
    raw: NonNull<sys::ggml_threadpool>,
    free: Free,
}

type New = unsafe extern "C" fn(*mut sys::ggml_threadpool_params) -> *mut sys::ggml_threadpool;
type Free = unsafe extern "C" fn(*mut sys::ggml_threadpool);
type SetThreads = unsafe extern "C" fn(sys::ggml_backend_t, c_int);
type SetPool = unsafe extern "C" fn(sys::ggml_backend_t, *mut sys::ggml_threadpool);
type SetAbort = unsafe extern "C" fn(sys::ggml_backend_t, sys::ggml_abort_callback, *mut c_void);
type Features = unsafe extern "C" fn(sys::ggml_backend_reg_t) -> *mut sys::ggml_backend_feature;

// SAFETY: the pool is only an owner here; it is created, attached and freed by one owner at a time,
// and has no thread affinity.
unsafe impl Send for ThreadPool {}

impl ThreadPool {
    /// A pool of `n_threads`, of which the thread that computes is one. `None` if this build has no such pool.
    pub(crate) fn new(n_threads: u32) -> Option<Self> {
        // SAFETY: the CPU backend registers these two names with exactly these signatures (ggml-cpu.h).
        let (new, free) = unsafe {
            (
                transmute::<*mut c_void, New>(function(c"ggml_threadpool_new")?),
                transmute::<*mut c_void, Free>(function(c"ggml_threadpool_free")?),
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

    pub(crate) fn as_ptr(&self) -> *mut sys::ggml_threadpool {
        self.raw.as_ptr()
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        // SAFETY: the owner frees what computes on the pool first, so that no graph can be running on it.
        unsafe { (self.free)(self.raw.as_ptr()) }
    }
}

/// Has a CPU backend compute on so many threads, those of the pool if there is one, and ask before each node whether to stop.
///
/// # Safety
/// `backend` is the CPU's and alive; the pool and `data` live as long as it computes.
pub(super) unsafe fn configure(
    backend: sys::ggml_backend_t,
    n_threads: u32,
    pool: Option<&ThreadPool>,
    abort: sys::ggml_abort_callback,
    data: *mut c_void,
) {
    // SAFETY: as above, and the CPU backend registers these names with exactly these signatures (ggml-cpu.h).
    unsafe {
        if let Some(set) = function(c"ggml_backend_set_n_threads") {
            transmute::<*mut c_void, SetThreads>(set)(backend, n_threads as c_int);
        }
        if let (Some(set), Some(pool)) = (function(c"ggml_backend_cpu_set_threadpool"), pool) {
            transmute::<*mut c_void, SetPool>(set)(backend, pool.as_ptr());
        }
        if let Some(set) = function(c"ggml_backend_set_abort_callback") {
            transmute::<*mut c_void, SetAbort>(set)(backend, abort, data);
        }
    }
}

/// Instruction sets and libraries that the CPU's backend was compiled with and uses here, by their usual names.
pub fn cpu_features() -> Vec<String> {
    let mut found = Vec::new();
    let (Some(features), Some(registry)) = (function(c"ggml_backend_get_features"), registry())
    else {
        return found;
    };
    // SAFETY: the registered function has this signature; it returns static names and values up to one without a name.
    unsafe {
        let mut next = transmute::<*mut c_void, Features>(features)(registry);
        while !next.is_null() && !(*next).name.is_null() {
            let name = CStr::from_ptr((*next).name)
                .to_string_lossy()
                .to_lowercase();
            if CStr::from_ptr((*next).value) != c"0" {
                found.push(if name == "matmul_int8" {
                    "i8mm".to_owned()
                } else {
                    name
                });
            }
            next = next.add(1);
        }
    }
    found
}

/// The CPU's device.
pub(super) fn device() -> Option<NonNull<sys::ggml_backend_device>> {
    load_backends();
    // SAFETY: reads ggml's registry.
    NonNull::new(unsafe { sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU) })
}

fn registry() -> Option<sys::ggml_backend_reg_t> {
    // SAFETY: the device is valid for the life of the process.
    device().map(|device| unsafe { sys::ggml_backend_dev_backend_reg(device.as_ptr()) })
}

fn function(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the registry is valid, and the name is nul-terminated.
    let function = unsafe { sys::ggml_backend_reg_get_proc_address(registry()?, name.as_ptr()) };
    (!function.is_null()).then_some(function)
}
