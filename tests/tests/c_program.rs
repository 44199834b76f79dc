//! A C program stores, looks up, loads and compares through libkvtier, against a real daemon: plain, under the
//! compiler's sanitizers and under valgrind.

#![allow(clippy::unwrap_used, reason = "a failed test is a panic")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use support::{built, root, succeed};

/// Nothing here takes this long, unless it hangs.
const WATCHDOG: Duration = Duration::from_mins(3);

#[test]
fn the_c_program_gets_back_what_it_stored() {
    let directory = tempfile::tempdir().unwrap();
    let program = compile(directory.path(), &["-Wconversion"]);
    check(&run(Command::new(program), directory.path()));
}

#[test]
fn the_sanitizers_find_nothing_in_the_c_program() {
    let directory = tempfile::tempdir().unwrap();
    let program = compile(
        directory.path(),
        &["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    );
    check(&run(Command::new(program), directory.path()));
}

#[test]
fn valgrind_finds_neither_an_error_nor_a_leak() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        // `make test` installs it; a bare `cargo test` on a machine without it says so and goes on.
        eprintln!("SKIPPED: valgrind is not installed");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let program = compile(directory.path(), &[]);
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--quiet", "--error-exitcode=9", "--leak-check=full"])
        .arg("--errors-for-leak-kinds=definite,possible")
        .arg(program);
    check(&run(valgrind, directory.path()));
}

#[test]
fn the_static_library_and_the_pkg_config_file_are_complete() {
    let template = root().join("connector-abi/kvtier.pc.in");
    let template = std::fs::read_to_string(template).unwrap();
    let private = template
        .lines()
        .find_map(|line| line.strip_prefix("Libs.private:"))
        .unwrap();
    let libraries: Vec<_> = private.split_whitespace().collect();
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("roundtrip");
    let mut compiler = compiler(directory.path(), &program);
    compiler.arg(built().join("libkvtier.a")).args(libraries);
    succeed(compiler);
    check(&run(Command::new(program), directory.path()));
}

fn compiler(directory: &Path, program: &Path) -> Command {
    let mut compiler = Command::new("cc");
    compiler
        .current_dir(directory)
        .args(["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-g", "-O1"])
        .args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-I"])
        .arg(root().join("connector-abi/include"))
        .arg(root().join("connector-abi/tests/c/roundtrip.c"))
        .arg("-o")
        .arg(program);
    compiler
}

/// Compiles the program against the shared library, which the loader finds under its soname beside the program.
fn compile(directory: &Path, flags: &[&str]) -> PathBuf {
    let program = directory.join("roundtrip");
    std::os::unix::fs::symlink(built().join("libkvtier.so"), directory.join("libkvtier.so.1")).unwrap();
    let mut compiler = compiler(directory, &program);
    compiler
        .args(flags)
        .arg(directory.join("libkvtier.so.1"))
        .arg("-Wl,-rpath,$ORIGIN");
    succeed(compiler);
    program
}

/// Ends the daemon, however the test ends.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only if the daemon is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the program against a daemon of its own.
fn run(mut program: Command, directory: &Path) -> Output {
    let socket = directory.join("kvtier.sock");
    let daemon = Command::new(built().join("kvtierd"))
        .env("KVTIER_SOCKET", &socket)
        .env("KVTIER_HOST_CAPACITY", "64MiB")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut daemon = Daemon(daemon.unwrap());
    let deadline = Instant::now() + WATCHDOG;
    while !socket.exists() {
        assert_eq!(
            daemon.0.try_wait().unwrap(),
            None,
            "the daemon ended before it served"
        );
        assert!(Instant::now() < deadline, "the daemon does not serve");
        std::thread::sleep(Duration::from_millis(5));
    }
    // The program has watchdogs of its own on everything it waits for.
    program.arg(&socket).output().unwrap()
}

fn check(output: &Output) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}", output.status);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "roundtrip: ok\n");
    assert_eq!(text, "", "nothing is said on the side");
}
