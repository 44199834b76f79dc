//! Who may use whom. Directions are those of ARCHITECTURE.md: nouns at the bottom, the daemon and the library on top.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Problems;

/// One package of the workspace.
#[derive(Clone, Debug, Default)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub directory: String,
    /// Its licence, as declared.
    pub licence: Option<String>,
    /// The source files of its library and programs.
    pub roots: Vec<String>,
    /// Names of what it uses in the product: normal and build dependencies.
    pub uses: BTreeSet<String>,
    /// Names of what only its tests use.
    pub uses_in_tests: BTreeSet<String>,
}

/// For each package, the packages of the workspace it may use. A package that is not named may use none.
const MAY_USE: &[(&str, &[&str])] = &[
    ("kvstore-types", &[]),
    ("kvstore-table", &[]),
    ("kvstore-threads", &[]),
    ("kvstore-engine", &["kvstore-table", "kvstore-types"]),
    ("kvstore-nvme", &["kvstore-types"]),
    ("kvstore-remote", &["kvstore-types"]),
    (
        "kvstore-events",
        &["kvstore-table", "kvstore-types", "kvstore-threads"],
    ),
    ("kvstore-trace", &["kvstore-threads"]),
    ("connector-shm", &["kvstore-types"]),
    ("kvtier-proto", &["kvstore-types"]),
    ("connector-abi", &["kvstore-types", "connector-shm"]),
    (
        "kvstore",
        &[
            "kvstore-types",
            "kvstore-engine",
            "kvstore-events",
            "kvstore-nvme",
            "kvstore-remote",
            "kvstore-threads",
            "kvstore-trace",
            "connector-shm",
            "connector-abi",
            "kvtier-proto",
        ],
    ),
    (
        "kvtier-bench",
        &[
            "kvstore-types",
            "kvstore-events",
            "kvstore-nvme",
            "kvstore-remote",
            "kvstore-threads",
            "connector-shm",
            "connector-abi",
        ],
    ),
    (
        "kvtier-tests",
        &["kvstore-types", "connector-shm", "connector-abi", "kvstore"],
    ),
];

/// What the engine must not use, because it decides and does nothing else.
const NOT_IN_ENGINE: &[&str] = &[
    "async-io", "io-uring", "libc", "memmap2", "mio", "nix", "rustix", "tokio",
];

/// The packages of the workspace in the answer of `cargo metadata`.
///
/// # Errors
/// When the answer does not look as expected; the text names the field.
pub fn packages(metadata: &Value) -> Result<Vec<Package>, String> {
    let members: BTreeSet<&str> = array(metadata, "workspace_members")?
        .iter()
        .filter_map(Value::as_str)
        .collect();
    array(metadata, "packages")?
        .iter()
        .filter(|package| package["id"].as_str().is_some_and(|id| members.contains(id)))
        .map(package)
        .collect()
}

fn package(value: &Value) -> Result<Package, String> {
    let text = |field: &str| {
        value[field]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| format!("no {field}"))
    };
    let mut package = Package {
        name: text("name")?,
        directory: text("manifest_path")?.trim_end_matches("/Cargo.toml").to_owned(),
        licence: value["license"].as_str().map(str::to_owned),
        ..Package::default()
    };
    for target in array(value, "targets")? {
        let is_product = array(target, "kind")?
            .iter()
            .any(|kind| !matches!(kind.as_str(), Some("test" | "example" | "bench")));
        if is_product && let Some(path) = target["src_path"].as_str() {
            package.roots.push(path.to_owned());
        }
    }
    for dependency in array(value, "dependencies")? {
        let name = dependency["name"]
            .as_str()
            .ok_or("a dependency without a name")?
            .to_owned();
        let uses = if dependency["kind"] == "dev" {
            &mut package.uses_in_tests
        } else {
            &mut package.uses
        };
        uses.insert(name);
    }
    Ok(package)
}

fn array<'a>(value: &'a Value, field: &str) -> Result<&'a Vec<Value>, String> {
    value[field]
        .as_array()
        .ok_or_else(|| format!("cargo metadata has no list '{field}'"))
}

/// Problems with the directions between packages.
pub fn check_directions(packages: &[Package]) -> Problems {
    let rules: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let ours: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut problems = Problems::new();
    for package in packages {
        let Some(allowed) = rules.get(package.name.as_str()) else {
            problems.push(format!(
                "{}: not in the table of layers, add it to {}",
                package.name,
                file!()
            ));
            continue;
        };
        for used in package.uses.union(&package.uses_in_tests) {
            let itself = *used == package.name;
            if ours.contains(used.as_str()) && !itself && !allowed.contains(&used.as_str()) {
                problems.push(format!("{} uses {used}, want only {allowed:?}", package.name));
            }
        }
    }
    problems
}

/// Problems with what the engine uses.
pub fn check_engine(packages: &[Package]) -> Problems {
    let Some(engine) = packages.iter().find(|package| package.name == "kvstore-engine") else {
        return vec!["there is no package kvstore-engine".to_owned()];
    };
    let used = engine
        .uses
        .iter()
        .filter(|name| NOT_IN_ENGINE.contains(&name.as_str()));
    used.map(|name| format!("kvstore-engine uses {name}, but the engine does no I/O"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, uses: &[&str]) -> Package {
        let uses = uses.iter().map(|name| (*name).to_owned()).collect();
        Package {
            name: name.to_owned(),
            uses,
            ..Package::default()
        }
    }

    #[test]
    fn rooms_beside_each_other_must_not_meet() {
        let bottom = package("kvstore-types", &["thiserror"]);
        let shm = package("connector-shm", &["kvstore-types"]);
        let good = package("kvstore-engine", &["kvstore-types", "lru"]);
        assert_eq!(
            check_directions(&[bottom.clone(), shm.clone(), good]),
            Problems::new()
        );
        let bad = package("kvstore-engine", &["connector-shm"]);
        assert_eq!(check_directions(&[bottom, shm, bad]).len(), 1);
    }

    #[test]
    fn a_test_dependency_counts_too_and_a_new_package_must_be_placed() {
        let mut types = package("kvstore-types", &[]);
        types.uses_in_tests.insert("kvstore-engine".to_owned());
        assert_eq!(
            check_directions(&[types, package("kvstore-engine", &[])]).len(),
            1
        );
        assert_eq!(check_directions(&[package("kvtier-newcomer", &[])]).len(), 1);
    }

    #[test]
    fn an_engine_with_a_runtime_or_system_calls_is_refused() {
        assert_eq!(
            check_engine(&[package("kvstore-engine", &["lru"])]),
            Problems::new()
        );
        assert_eq!(
            check_engine(&[package("kvstore-engine", &["tokio", "rustix", "libc"])]).len(),
            3
        );
        assert_eq!(check_engine(&[]).len(), 1);
    }
}
