//! The house rules, checked on this repository. The rules and their own tests are in `src/tidy`.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a check that cannot run fails")]

use kvtier_tests::tidy::repository::{File, files, make, metadata, top};
use kvtier_tests::tidy::{Problems, code, documents, layers, licences, makefile, words};

/// Fails with all problems at once.
#[track_caller]
fn assert_none(problems: &Problems) {
    assert!(
        problems.is_empty(),
        "{} problems:\n  {}",
        problems.len(),
        problems.join("\n  ")
    );
}

fn all_files() -> Vec<File> {
    let files = files().unwrap();
    assert!(files.len() > 50, "only {} files were found", files.len());
    files
}

fn all_documents() -> Vec<File> {
    all_files()
        .into_iter()
        .filter(|file| file.ending() == "md")
        .collect()
}

fn manifests() -> Vec<File> {
    all_files()
        .into_iter()
        .filter(|file| file.path.ends_with("Cargo.toml"))
        .collect()
}

fn text(path: &str) -> String {
    std::fs::read_to_string(top().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn exists(path: &str) -> bool {
    top().join(path).exists()
}

fn packages() -> Vec<layers::Package> {
    let packages = layers::packages(&metadata().unwrap()).unwrap();
    assert!(
        packages.len() >= 10,
        "only {} packages were found",
        packages.len()
    );
    packages
}

#[test]
fn packages_use_each_other_downwards_only() {
    assert_none(&layers::check_directions(&packages()));
}

#[test]
fn the_engine_has_no_clock_threads_or_io() {
    assert_none(&layers::check_engine(&packages()));
    assert_none(&code::check_engine_is_pure(&all_files()));
}

#[test]
fn unsafe_code_is_forbidden_where_it_is_not_needed_and_explained_where_it_is() {
    assert_none(&code::check_unsafe_is_forbidden(&packages(), |path| {
        std::fs::read_to_string(path).ok()
    }));
    assert_none(&code::check_lints_are_shared(&manifests()));
}

#[test]
fn files_and_functions_have_a_readable_length() {
    assert_none(&code::check_lengths(&all_files(), code::MAY_BE_LONGER));
    assert!(
        text("clippy.toml").contains("too-many-lines-threshold = 70"),
        "clippy measures functions in Rust"
    );
}

#[test]
fn the_code_map_shows_the_house_as_it_is() {
    let top = top().display().to_string();
    let relative = |directory: &String| {
        directory
            .trim_start_matches(&top)
            .trim_start_matches('/')
            .to_owned()
    };
    let mut rooms: Vec<String> = packages()
        .iter()
        .map(|package| relative(&package.directory))
        .collect();
    rooms.extend(["python-shim".to_owned(), "charts".to_owned()]);
    assert_none(&documents::check_code_map(
        &text("ARCHITECTURE.md"),
        &rooms,
        exists,
    ));
}

#[test]
fn links_in_documents_lead_somewhere() {
    assert_none(&documents::check_links(&all_documents(), exists));
}

#[test]
fn commands_in_documents_are_targets_and_help_explains_each() {
    let targets = makefile::targets(&text("Makefile"));
    assert!(
        ["demo", "test", "install"]
            .iter()
            .all(|name| targets.contains(*name)),
        "{targets:?}"
    );
    assert_none(&makefile::check_help(&targets, &make("help").unwrap()));
    assert_none(&makefile::check_commands(&all_documents(), &targets));
    assert!(
        text(".ci/run").contains("make test"),
        "continuous integration runs the README's test command"
    );
}

#[test]
fn no_file_names_a_machine_or_unfinished_work() {
    assert_none(&words::check(&all_files()));
}

#[test]
fn licences_and_sources_are_those_of_deny_toml() {
    let allowed = licences::allowed(&text("deny.toml")).unwrap();
    assert_none(&licences::check(&metadata().unwrap(), &allowed));
    assert!(
        packages()
            .iter()
            .all(|package| package.licence.as_deref() == Some("Apache-2.0"))
    );
    assert!(text("LICENSE").contains("Apache License"));
    assert!(text("python-shim/pyproject.toml").contains("license = \"Apache-2.0\""));
}

#[test]
fn versions_agree() {
    let problems = documents::check_versions(
        &text("Cargo.toml"),
        &text("python-shim/pyproject.toml"),
        &text("CHANGELOG.md"),
    );
    assert_none(&problems);
}

#[test]
fn python_requirements_are_pinned() {
    let path = "scripts/requirements-vllm.txt";
    assert_none(&words::check_requirements_are_pinned(&File::new(
        path,
        &text(path),
    )));
}

#[test]
fn the_c_header_is_committed_and_a_test_compares_it() {
    assert!(
        exists("connector-abi/include/kvtier.h"),
        "the generated header is committed"
    );
    let compares =
        |file: &File| file.path.starts_with("connector-abi/") && file.text.contains("KVTIER_BLESS");
    assert!(
        all_files()
            .iter()
            .any(|file| file.ending() == "rs" && compares(file)),
        "no test compares it"
    );
}
