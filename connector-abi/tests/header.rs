//! The header in `include/` is the one the code generates, and C and C++ compilers take it.
//!
//! `KVTIER_BLESS=1 cargo test -p connector-abi --test header` rewrites it.

#![allow(clippy::unwrap_used, reason = "a failed test is a panic")]

use std::path::{Path, PathBuf};
use std::process::Command;

use cbindgen::{Builder, Config, DocumentationStyle, EnumConfig, ExportConfig, Language, Style};

const OPENING: &str = "\
/*
 * kvtier.h: the C interface of libkvtier.
 *
 * Generated from the library's source; do not edit. Apache-2.0.
 *
 * Rules for all functions
 *   - Functions that can fail return a kvt_status; KVT_OK is 0. Outputs are written only on success.
 *   - NULL is refused where a value is needed (KVT_NULL_ARGUMENT), never followed.
 *   - An object is used by one thread at a time; different objects may be used by different threads.
 *   - Structs that begin with struct_bytes are refused (KVT_BAD_ARGUMENT) unless it is their size, or that of
 *     an earlier minor version.
 *   - No C++ exception or Rust panic passes; nothing is logged; there is no global state; no thread is started but
 *     those that were asked for (KVT_REATTACH_BACKGROUND, copier threads, those of KVT_BACKEND_CUDA), and in those all
 *     signals are blocked.
 *   - After fork() the child may use no object of its parent's, only close it.
 */";

/// Enums and constants that appear in no signature, because C passes them as plain integers.
const CONSTANTS: [&str; 10] = [
    "kvt_role",
    "kvt_attention",
    "kvt_reattach",
    "kvt_session_state",
    "kvt_grant",
    "kvt_op",
    "kvt_backend",
    "kvt_copy_direction",
    "kvt_copy_after",
    "kvt_pinning",
];

fn crate_path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn generate() -> String {
    let config = Config {
        language: Language::C,
        style: Style::Both,
        cpp_compat: true,
        header: Some(OPENING.to_owned()),
        include_guard: Some("KVTIER_H".to_owned()),
        no_includes: true,
        sys_includes: vec!["stddef.h".to_owned(), "stdint.h".to_owned()],
        documentation_style: DocumentationStyle::Doxy,
        usize_is_size_t: true,
        enumeration: EnumConfig::default(),
        export: ExportConfig {
            include: CONSTANTS.map(str::to_owned).to_vec(),
            ..ExportConfig::default()
        },
        line_length: 110,
        ..Config::default()
    };
    let mut builder = Builder::new().with_config(config);
    for file in [
        "status",
        "types",
        "session",
        "lookup",
        "load",
        "blocks",
        "namespace",
        "counters",
        "events",
        "trace",
        "slot",
        "copier",
        "device",
        "hash",
    ] {
        builder = builder.with_src(crate_path(&format!("src/abi/{file}.rs")));
    }
    let mut bytes = Vec::new();
    builder.generate().unwrap().write(&mut bytes);
    // What Rust calls safety is, to a C programmer, what the caller answers for.
    String::from_utf8(bytes)
        .unwrap()
        .replace("* # Safety", "* The caller promises:")
}

#[test]
fn the_committed_header_is_the_generated_one() {
    let path = crate_path("include/kvtier.h");
    let generated = generate();
    if std::env::var_os("KVTIER_BLESS").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert!(
        committed == generated,
        "include/kvtier.h differs from the code: run KVTIER_BLESS=1 cargo test -p connector-abi --test header"
    );
}

#[test]
fn the_header_documents_every_function_and_only_exported_ones() {
    let header = generate();
    let functions = header.matches("\n#[unsafe(no_mangle)]").count();
    assert_eq!(functions, 0, "no Rust leaks into the header");
    let declared = declared_functions(&header);
    assert_eq!(declared.len(), 39, "functions are added on purpose: {declared:?}");
    for line in header
        .lines()
        .filter(|line| line.contains('(') && line.contains(" kvt_") && line.ends_with(';'))
    {
        let at = header.find(line).unwrap();
        let before = header[..at].trim_end();
        assert!(before.ends_with("*/"), "no documentation before {line}");
    }
}

fn declared_functions(header: &str) -> Vec<&str> {
    let is_name = |byte: char| byte.is_ascii_alphanumeric() || byte == '_';
    let code = header.lines().filter(|line| !line.trim_start().starts_with('*'));
    code.filter_map(|line| {
        let (before, _) = line.split_once('(')?;
        let name = before.rsplit(|byte| !is_name(byte)).next()?;
        name.starts_with("kvt_").then_some(name)
    })
    .collect()
}

#[test]
fn c_and_cpp_compilers_take_the_header_without_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("kvtier.h"), generate()).unwrap();
    let body = "#include \"kvtier.h\"\n#include \"kvtier.h\"\n\
                int main(void) { kvt_status status = KVT_OK; return (int)status + (int)KVT_SLOT_NONE; }\n";
    let cases = [
        ("cc", "c", &["-std=c11"][..]),
        ("cc", "c", &["-std=c17", "-Wstrict-prototypes"]),
        ("c++", "cpp", &["-std=c++11"]),
        ("c++", "cpp", &["-std=c++20"]),
    ];
    for (compiler, extension, flags) in cases {
        let source = directory.path().join(format!("use.{extension}"));
        std::fs::write(&source, body).unwrap();
        let output = Command::new(compiler)
            .args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only", "-I"])
            .arg(directory.path())
            .args(flags)
            .arg(&source)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{compiler} {flags:?}: {text}");
    }
}

#[test]
fn the_soname_carries_the_abi_version() {
    let build = std::fs::read_to_string(crate_path("build.rs")).unwrap();
    let soname = format!("libkvtier.so.{}", kvtier::abi::KVT_ABI_VERSION);
    assert!(build.contains(&soname), "build.rs should set the soname {soname}");
}
