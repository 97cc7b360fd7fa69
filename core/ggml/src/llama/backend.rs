//! The process-wide parts: initialisation, the log callback, devices.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};
use std::sync::Once;

use llama_cpp_sys_2 as sys;

use crate::ggml::cpu::load_backends;

thread_local! {
    /// While a handle is being made on this thread: the errors that llama.cpp logged about it.
    static CAPTURED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Initialises llama.cpp and silences its log, once per process.
pub(crate) fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        load_backends();
        // SAFETY: `on_log` is a valid function for the life of the process and uses no user data.
        // `Once` makes this the only call that runs, and every other entry into llama.cpp in this
        // crate comes after it.
        unsafe {
            sys::llama_log_set(Some(on_log), std::ptr::null_mut());
            sys::llama_backend_init();
        }
    });
}

/// Runs `make`; if it gives `None`, returns what llama.cpp logged as errors meanwhile.
pub(crate) fn explain<T>(make: impl FnOnce() -> Option<T>) -> Result<T, String> {
    CAPTURED.with_borrow_mut(|c| *c = Some(String::new()));
    let made = make();
    let log = CAPTURED.take().unwrap_or_default();
    made.ok_or_else(|| {
        if log.is_empty() {
            "llama.cpp gave no reason".into()
        } else {
            log
        }
    })
}

/// Called by llama.cpp with one piece of log text, on whichever thread logs. It takes no lock, and
/// never logs itself.
unsafe extern "C" fn on_log(
    level: sys::ggml_log_level,
    text: *const c_char,
    _user_data: *mut c_void,
) {
    const LONGEST: usize = 600;
    if level != sys::GGML_LOG_LEVEL_ERROR || text.is_null() {
        return;
    }
    // A panic must not cross into C. `try_with` covers a thread that is ending.
    let _ = std::panic::catch_unwind(|| {
        let _ = CAPTURED.try_with(|captured| {
            if let Ok(mut captured) = captured.try_borrow_mut()
                && let Some(captured) = captured.as_mut()
                && captured.len() < LONGEST
            {
                // SAFETY: llama.cpp passes a nul-terminated string that lives for the call.
                let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
                if !captured.is_empty() {
                    captured.push_str("; ");
                }
                captured.push_str(text.trim());
            }
        });
    });
}

/// A GPU that this build of ggml can use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuDevice {
    /// ggml's short name, such as `CUDA0`.
    pub name: String,
    /// The maker's name of the device.
    pub description: String,
    /// Free memory in bytes, as the driver reports it.
    pub free_bytes: u64,
    /// All memory in bytes.
    pub total_bytes: u64,
}

/// The GPUs that models can be offloaded to; empty in a build without a GPU backend.
pub fn gpu_devices() -> Vec<GpuDevice> {
    init();
    let mut found = Vec::new();
    // SAFETY: the registry is initialised; indices are below the count; names and descriptions are
    // static strings of the device.
    unsafe {
        for i in 0..sys::ggml_backend_dev_count() {
            let device = sys::ggml_backend_dev_get(i);
            let kind = sys::ggml_backend_dev_type(device);
            if kind != sys::GGML_BACKEND_DEVICE_TYPE_GPU
                && kind != sys::GGML_BACKEND_DEVICE_TYPE_IGPU
            {
                continue;
            }
            let (mut free, mut total) = (0, 0);
            sys::ggml_backend_dev_memory(device, &mut free, &mut total);
            found.push(GpuDevice {
                name: CStr::from_ptr(sys::ggml_backend_dev_name(device))
                    .to_string_lossy()
                    .into_owned(),
                description: CStr::from_ptr(sys::ggml_backend_dev_description(device))
                    .to_string_lossy()
                    .into_owned(),
                free_bytes: free as u64,
                total_bytes: total as u64,
            });
        }
    }
    found
}

/// The instruction sets and features that ggml was built with, as llama.cpp prints them.
pub fn system_info() -> String {
    init();
    // SAFETY: returns a nul-terminated string in a static buffer, which only this call writes;
    // copied at once. Two threads calling at the same time write the same bytes.
    unsafe { CStr::from_ptr(sys::llama_print_system_info()) }
        .to_string_lossy()
        .into_owned()
}
