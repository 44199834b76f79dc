//! Gives the shared library its soname: the number is the major version of the ABI and changes with
//! `KVT_ABI_VERSION`, which a test compares.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libkvtier.so.1");
}
