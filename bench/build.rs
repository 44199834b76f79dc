//! Builds the C client, and the stand-in for a CUDA driver, with the system's C compiler. They are carried inside the bench's
//! binary, so that the bench is one file; the client loads libkvtier at run time, so that it can be built before the library is.

use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCES: [&str; 11] = [
    "main.c",
    "library.c",
    "engine.c",
    "lookup.c",
    "events.c",
    "host.c",
    "copy.c",
    "device.c",
    "cuda.c",
    "death.c",
    "traces.c",
];

fn main() {
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let include = here.join("../connector-abi/include");
    let client = Path::new(&variable("OUT_DIR")).join("client");
    println!("cargo:rerun-if-changed=client");
    println!("cargo:rerun-if-changed={}", include.display());
    println!("cargo:rerun-if-env-changed=CC");

    compile(|command| {
        command
            .arg("-I")
            .arg(&include)
            .args(SOURCES.map(|source| here.join("client").join(source)))
            .arg("-o")
            .arg(&client)
            .arg("-ldl");
    });
    let twin = here.join("../connector-abi/twin");
    println!("cargo:rerun-if-changed={}", twin.display());
    compile(|command| {
        command
            .args(["-shared", "-fPIC"])
            .arg(twin.join("cuda.c"))
            .arg("-o")
            .arg(Path::new(&variable("OUT_DIR")).join("libcuda.so.1"))
            .arg("-lpthread");
    });
}

fn compile(complete: impl FnOnce(&mut Command)) {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut command = Command::new(&compiler);
    command.args(["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]);
    complete(&mut command);
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{compiler} failed: {status}: {command:?}"),
        Err(error) => panic!("could not run the C compiler {compiler}: {error}"),
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}
