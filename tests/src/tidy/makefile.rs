//! The Makefile: every target explains itself, and every `make` command in the documents exists.

use std::collections::BTreeSet;

use super::Problems;
use super::documents::code_spans;
use super::repository::File;

/// The targets that the Makefile declares as commands.
pub fn targets(makefile: &str) -> BTreeSet<String> {
    let declared = makefile.lines().filter_map(|line| line.strip_prefix(".PHONY:"));
    declared
        .flat_map(str::split_whitespace)
        .map(str::to_owned)
        .collect()
}

/// Problems with `make help`: it names every target, with a text.
pub fn check_help(targets: &BTreeSet<String>, help: &str) -> Problems {
    let explained: BTreeSet<&str> = help
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("make "))
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, text)| !text.trim().is_empty())
        .map(|(name, _)| name)
        .collect();
    let silent = targets
        .iter()
        .filter(|target| !explained.contains(target.as_str()));
    silent
        .map(|target| format!("make help does not explain {target}"))
        .collect()
}

/// Problems with documents: each `make TARGET` in code must exist.
pub fn check_commands(documents: &[File], targets: &BTreeSet<String>) -> Problems {
    let mut problems = Problems::new();
    for document in documents {
        for span in code_spans(&document.text) {
            let words: Vec<&str> = span.split_whitespace().collect();
            for pair in words.windows(2).filter(|pair| pair[0] == "make") {
                let is_name = pair[1].chars().all(|c| c.is_ascii_lowercase() || c == '-');
                if is_name && !targets.contains(pair[1]) {
                    problems.push(format!("{}: make {} is not a target", document.path, pair[1]));
                }
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_without_help_is_found() {
        let targets = targets(".PHONY: build\nbuild: ## builds\n\tcargo build\n.PHONY: test clean\n");
        assert_eq!(targets.len(), 3);
        assert_eq!(
            check_help(&targets, "  make build   builds\n  make clean  \n").len(),
            2
        );
        assert_eq!(
            check_help(&targets, "  make build  a\n  make test  b\n make clean  c"),
            Problems::new()
        );
    }

    #[test]
    fn a_command_that_does_not_exist_is_found_in_code_only() {
        let targets = BTreeSet::from(["test".to_owned()]);
        let text = "To make sense, run `make test` or\n\n```sh\nmake tset   # all\nmake X=1\n```\nand `make bnech`.\n";
        assert_eq!(check_commands(&[File::new("README.md", text)], &targets).len(), 2);
    }
}
