//! The documents: links lead somewhere, and the code map shows the house as it is.

use super::Problems;
use super::repository::File;

/// The code in a Markdown text: each line of a fenced block, and each inline span.
pub fn code_spans(text: &str) -> Vec<&str> {
    let mut spans = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            spans.push(line.split(" #").next().unwrap_or_default());
        } else {
            spans.extend(line.split('`').skip(1).step_by(2));
        }
    }
    spans
}

/// Problems with relative links. `exists` answers for a path from the top.
pub fn check_links(documents: &[File], exists: impl Fn(&str) -> bool) -> Problems {
    let mut problems = Problems::new();
    for document in documents {
        let directory = document
            .path
            .rsplit_once('/')
            .map_or("", |(directory, _)| directory);
        for link in links(&document.text) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let path = if directory.is_empty() {
                target.to_owned()
            } else {
                format!("{directory}/{target}")
            };
            if !exists(&path) {
                problems.push(format!(
                    "{}: link to {target}, which does not exist",
                    document.path
                ));
            }
        }
    }
    problems
}

fn links(text: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if !fenced {
            found.extend(
                line.split("](")
                    .skip(1)
                    .filter_map(|rest| rest.split_once(')'))
                    .map(|(link, _)| link),
            );
        }
    }
    found
}

/// Problems with the code map of ARCHITECTURE.md: each room is in it, and each path in it exists.
pub fn check_code_map(architecture: &str, rooms: &[String], exists: impl Fn(&str) -> bool) -> Problems {
    let section = architecture
        .split("\n## ")
        .find(|section| section.starts_with("Code map"));
    let Some(section) = section else {
        return vec!["ARCHITECTURE.md has no section 'Code map'".to_owned()];
    };
    let named: Vec<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split_once('`'))
        .map(|(path, _)| path)
        .collect();
    let missing = rooms.iter().filter(|room| !named.contains(&room.as_str()));
    let mut problems: Problems = missing
        .map(|room| format!("the code map does not name {room}"))
        .collect();
    let gone = named.iter().filter(|path| !exists(path));
    problems.extend(gone.map(|path| format!("the code map names {path}, which does not exist")));
    problems
}

/// Problems with version numbers: the workspace's is that of the Python package, and the change log knows it.
pub fn check_versions(workspace: &str, pyproject: &str, changelog: &str) -> Problems {
    let version = |text: &str, table: &[&str]| -> Option<String> {
        let value: toml::Table = text.parse().ok()?;
        let (first, rest) = table.split_first()?;
        let value = rest
            .iter()
            .try_fold(value.get(*first)?, |value, key| value.get(key))?;
        Some(value.as_str()?.to_owned())
    };
    let Some(ours) = version(workspace, &["workspace", "package", "version"]) else {
        return vec!["Cargo.toml: no workspace.package.version".to_owned()];
    };
    let mut problems = Problems::new();
    let python = version(pyproject, &["project", "version"]);
    if python.as_ref() != Some(&ours) {
        problems.push(format!(
            "python-shim/pyproject.toml: version {python:?}, want {ours}"
        ));
    }
    if !changelog
        .lines()
        .any(|line| line.starts_with(&format!("## {ours}")))
    {
        problems.push(format!("CHANGELOG.md: no heading '## {ours}'"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_link_is_found_relative_to_its_document() {
        let text = "[a](b.md) [c](b.md#part) [d](#here) [e](https://example.org)\n```\n[f](no.md)\n```\n[g](gone.md)\n";
        let exists = |path: &str| path == "docs/b.md";
        let problems = check_links(&[File::new("docs/a.md", text)], exists);
        assert_eq!(problems, ["docs/a.md: link to gone.md, which does not exist"]);
    }

    #[test]
    fn a_room_that_is_not_on_the_map_and_a_room_that_is_gone_are_found() {
        let text = "# A\n\n## Code map\n\n| path | what |\n|---|---|\n| `kvstore` | x |\n| `gone` | y |\n\n## Next\n| `no` |";
        let problems = check_code_map(text, &["kvstore".to_owned(), "bench".to_owned()], |path| {
            path != "gone"
        });
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert_eq!(check_code_map("# A", &[], |_| true).len(), 1);
    }

    #[test]
    fn versions_that_differ_are_found() {
        let cargo = "[workspace.package]\nversion = '1.2.3'";
        let python = "[project]\nversion = '1.2.3'";
        assert_eq!(
            check_versions(cargo, python, "## 1.2.3 (today)\n"),
            Problems::new()
        );
        assert_eq!(
            check_versions(cargo, &python.replace('3', "4"), "## 1.2.2\n").len(),
            2
        );
        assert_eq!(check_versions("", python, "").len(), 1);
    }

    #[test]
    fn code_is_told_from_prose() {
        assert_eq!(
            code_spans("make `a b` c `d`\n```sh\ne # f\n```\ng"),
            ["a b", "d", "e"]
        );
    }
}
