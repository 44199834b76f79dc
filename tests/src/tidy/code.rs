//! Rules for source files: where unsafe code may be, how long files and functions may be, what the engine may touch.

use super::Problems;
use super::layers::Package;
use super::repository::File;

/// The packages that may contain unsafe code.
pub const MAY_BE_UNSAFE: &[&str] = &[
    "connector-shm",
    "kvstore-threads",
    "kvstore-nvme",
    "kvstore-remote",
    "connector-abi",
];

const FILE_LINES_MOST: usize = 500;
const FUNCTION_LINES_MOST: usize = 70;
const SOURCE_ENDINGS: &[&str] = &["rs", "py", "sh", "c", "go"];

/// Files and Python functions that may be longer, each with its reason.
pub const MAY_BE_LONGER: &[(&str, &str)] = &[];

/// What only a program with a clock, threads or I/O does.
const NOT_IN_ENGINE: &[&str] = &[
    "Instant::now",
    "SystemTime",
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
];

/// Problems with where unsafe code is allowed: every other package forbids it in each of its roots.
///
/// `read` gives the text of a root.
pub fn check_unsafe_is_forbidden(packages: &[Package], read: impl Fn(&str) -> Option<String>) -> Problems {
    let mut problems = Problems::new();
    for package in packages
        .iter()
        .filter(|package| !MAY_BE_UNSAFE.contains(&package.name.as_str()))
    {
        for root in package.roots.iter().filter(|root| !root.ends_with("/build.rs")) {
            match read(root) {
                Some(text) if text.contains("#![forbid(unsafe_code)]") => {}
                Some(_) => problems.push(format!("{root}: want #![forbid(unsafe_code)]")),
                None => problems.push(format!("{root}: cannot be read")),
            }
        }
    }
    problems
}

/// Problems with the lints that make every unsafe block say why it is sound: the workspace denies silence, and every
/// package takes the workspace's lints.
pub fn check_lints_are_shared(manifests: &[File]) -> Problems {
    let mut problems = Problems::new();
    for manifest in manifests {
        let value: toml::Table = match manifest.text.parse() {
            Ok(value) => value,
            Err(error) => {
                problems.push(format!("{}: {error}", manifest.path));
                continue;
            }
        };
        if let Some(workspace) = value.get("workspace") {
            for (tool, lint) in [
                ("clippy", "undocumented_unsafe_blocks"),
                ("rust", "unsafe_op_in_unsafe_fn"),
            ] {
                if workspace
                    .get("lints")
                    .and_then(|lints| lints.get(tool)?.get(lint)?.as_str())
                    != Some("deny")
                {
                    problems.push(format!("{}: want {tool} lint {lint} = \"deny\"", manifest.path));
                }
            }
        } else if value
            .get("lints")
            .and_then(|lints| lints.get("workspace")?.as_bool())
            != Some(true)
        {
            problems.push(format!("{}: want [lints] workspace = true", manifest.path));
        }
    }
    problems
}

/// Problems with the length of files, and of functions in Python; clippy measures those in Rust.
pub fn check_lengths(files: &[File], exceptions: &[(&str, &str)]) -> Problems {
    let mut problems = Problems::new();
    let is_source = |file: &&File| SOURCE_ENDINGS.contains(&file.ending());
    for file in files.iter().filter(is_source) {
        let excepted = |place: &str| exceptions.iter().any(|(name, _)| *name == place);
        let lines = file.text.lines().count();
        if lines > FILE_LINES_MOST && !excepted(&file.path) {
            problems.push(format!(
                "{}: {lines} lines, want at most {FILE_LINES_MOST}",
                file.path
            ));
        }
        if file.ending() != "py" {
            continue;
        }
        for (name, lines) in python_functions(&file.text) {
            if lines > FUNCTION_LINES_MOST && !excepted(&format!("{}::{name}", file.path)) {
                problems.push(format!(
                    "{}::{name}: {lines} lines, want at most {FUNCTION_LINES_MOST}",
                    file.path
                ));
            }
        }
    }
    problems
}

/// Name and length of each Python function: it ends before the next line that is indented no deeper than its `def`,
/// the end of its own parameter list apart.
fn python_functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut functions = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let Some(rest) = code
            .strip_prefix("async def ")
            .or_else(|| code.strip_prefix("def "))
        else {
            continue;
        };
        let name: String = rest
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        let is_after = |next: &&str| {
            !next.trim().is_empty() && indent(next) <= indent(line) && !next.trim_start().starts_with(')')
        };
        let length = lines[start + 1..]
            .iter()
            .position(is_after)
            .unwrap_or(lines.len() - start - 1);
        let body = &lines[start..=start + length];
        let blank_at_end = body
            .iter()
            .rev()
            .take_while(|line| line.trim().is_empty())
            .count();
        functions.push((name, length + 1 - blank_at_end.min(length)));
    }
    functions
}

/// Problems in the engine's own code, its simulation and examples apart: it knows no clock, threads or I/O.
pub fn check_engine_is_pure(files: &[File]) -> Problems {
    let mut problems = Problems::new();
    for file in files.iter().filter(|file| is_engine(&file.path)) {
        for (number, line) in file
            .text
            .lines()
            .take_while(|line| *line != "#[cfg(test)]")
            .enumerate()
        {
            let code = line.split("//").next().unwrap_or_default();
            for word in NOT_IN_ENGINE.iter().filter(|word| code.contains(**word)) {
                problems.push(format!("{}:{}: {word} in the engine", file.path, number + 1));
            }
        }
    }
    problems
}

fn is_engine(path: &str) -> bool {
    let in_source = path.starts_with("kvstore/engine/src/");
    let is_test = path.ends_with("tests.rs") || path.contains("/tests/");
    in_source && !is_test && !path.contains("/sim/") && !path.contains("/bin/") && !path.ends_with("/sim.rs")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, root: &str) -> Package {
        Package {
            name: name.to_owned(),
            roots: vec![root.to_owned()],
            ..Package::default()
        }
    }

    #[test]
    fn a_root_without_forbid_is_found_unless_its_package_may_be_unsafe() {
        let read = |path: &str| (path != "gone.rs").then(|| "//! Text.\nfn main() {}".to_owned());
        assert_eq!(
            check_unsafe_is_forbidden(&[package("kvstore", "main.rs")], read).len(),
            1
        );
        assert_eq!(
            check_unsafe_is_forbidden(&[package("kvstore", "gone.rs")], read).len(),
            1
        );
        assert_eq!(
            check_unsafe_is_forbidden(&[package("connector-shm", "lib.rs")], read),
            Problems::new()
        );
        let forbids = |_: &str| Some("#![forbid(unsafe_code)]".to_owned());
        assert_eq!(
            check_unsafe_is_forbidden(&[package("kvstore", "main.rs")], forbids),
            Problems::new()
        );
    }

    #[test]
    fn lints_that_are_weakened_or_not_taken_over_are_found() {
        let good = "[workspace.lints.rust]\nunsafe_op_in_unsafe_fn = 'deny'\n\
                    [workspace.lints.clippy]\nundocumented_unsafe_blocks = 'deny'";
        let cases = [
            (good, 0),
            (&good.replace("'deny'", "'warn'"), 2),
            ("[package]\n[lints]\nworkspace = true", 0),
            ("[package]", 1),
            ("[lints", 1),
        ];
        for (text, count) in cases {
            assert_eq!(
                check_lints_are_shared(&[File::new("Cargo.toml", text)]).len(),
                count,
                "{text}"
            );
        }
    }

    #[test]
    fn long_files_and_long_python_functions_are_found_unless_excepted() {
        let long = File::new("a.rs", &"x\n".repeat(501));
        assert_eq!(check_lengths(std::slice::from_ref(&long), &[]).len(), 1);
        assert_eq!(check_lengths(&[long], &[("a.rs", "a table")]), Problems::new());
        assert_eq!(
            check_lengths(&[File::new("a.rs", &"x\n".repeat(500))], &[]),
            Problems::new()
        );
        assert_eq!(
            check_lengths(&[File::new("a.md", &"x\n".repeat(900))], &[]),
            Problems::new()
        );

        let function = format!(
            "class A:\n    def f(\n        self,\n    ):\n{}\n\ndef g(): pass\n",
            "        x\n".repeat(68)
        );
        let file = File::new("a.py", &function);
        assert_eq!(check_lengths(std::slice::from_ref(&file), &[]).len(), 1);
        assert_eq!(check_lengths(&[file], &[("a.py::f", "a table")]), Problems::new());
    }

    #[test]
    fn python_functions_are_measured_to_their_last_line() {
        let text = "def f():\n    a\n\n    b\n\n\ndef g(\n    x,\n):\n    c\n";
        assert_eq!(python_functions(text), [("f".to_owned(), 4), ("g".to_owned(), 4)]);
    }

    #[test]
    fn a_clock_in_the_engine_is_found_but_not_in_a_remark_or_a_test() {
        let path = "kvstore/engine/src/engine.rs";
        assert_eq!(
            check_engine_is_pure(&[File::new(path, "let now = Instant::now();")]).len(),
            1
        );
        assert_eq!(
            check_engine_is_pure(&[File::new(path, "// not Instant::now\n#[cfg(test)]\nstd::fs")]),
            Problems::new()
        );
        let simulation = File::new("kvstore/engine/src/sim/run.rs", "Instant::now()");
        assert_eq!(check_engine_is_pure(&[simulation]), Problems::new());
    }
}
