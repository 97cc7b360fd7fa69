//! Tells the crate where backend modules were built, in a build that has them.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Ok(folder) = std::env::var("DEP_LLAMA_BACKENDS_DIR") {
        println!("cargo:rustc-env=THUMBPRINT_BACKENDS_BUILT={folder}");
    }
}
