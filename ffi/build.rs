//! Links the shared library for devices whose pages have 16 KB, as newer Android phones have: the linker's own choice is 4 KB there, and the
//! system refuses to load that. On x86-64 Linux, too, so that it is checked where the library is built and tested.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |key| std::env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    let (os, arch) = (target("OS"), target("ARCH"));
    if os == "android" || (os == "linux" && arch == "x86_64") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,max-page-size=16384");
    }
}
