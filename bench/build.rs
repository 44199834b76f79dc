//! Builds the C client with the system's C compiler. It is carried inside the bench's binary, so that the bench is one
//! file; it loads libkvtier at run time, so that it can be built before the library is.

use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCES: [&str; 7] = [
    "main.c",
    "library.c",
    "engine.c",
    "lookup.c",
    "events.c",
    "host.c",
    "copy.c",
];

fn main() {
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let include = here.join("../connector-abi/include");
    let client = Path::new(&variable("OUT_DIR")).join("client");
    println!("cargo:rerun-if-changed=client");
    println!("cargo:rerun-if-changed={}", include.display());
    println!("cargo:rerun-if-env-changed=CC");

    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let status = Command::new(&compiler)
        .args(["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(&include)
        .args(SOURCES.map(|source| here.join("client").join(source)))
        .arg("-o")
        .arg(&client)
        .arg("-ldl")
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{compiler} could not build the client: {status}"),
        Err(error) => panic!("could not run the C compiler {compiler}: {error}"),
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}
