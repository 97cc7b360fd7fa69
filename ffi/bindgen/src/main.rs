//! Generates Kotlin, Swift and Python from the library that `thumbprint-ffi` becomes: `uniffi-bindgen generate --help`.

fn main() {
    uniffi::uniffi_bindgen_main();
}
