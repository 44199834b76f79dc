//! Where in a file a key stands, so that whoever has to mend it finds it.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::load::Problem;

/// A file's text, with the places of its keys.
pub(super) struct Lines<'a> {
    path: &'a Path,
    text: &'a str,
    table: Option<DeTable<'a>>,
}

impl<'a> Lines<'a> {
    /// Those of a file.
    pub(super) fn of(path: &'a Path, text: &'a str) -> Self {
        Self {
            path,
            text,
            // What is wrong with the text itself is told with its line already.
            table: DeTable::parse(text).ok().map(toml::Spanned::into_inner),
        }
    }

    /// Puts the place before what is wrong there. What was set in the environment, or nowhere, stays as it is.
    pub(super) fn place(&self, problem: &mut Problem) {
        let path = self.path.display();
        if let Some(number) = problem.key.strip_prefix("line ") {
            problem.key = format!("{path}:{number}");
        } else if let Some(line) = self.line_of(&problem.key) {
            problem.place = Some(format!("{path}:{line}"));
        }
    }

    /// The line of a dotted key; of the table around it if it is not set itself.
    fn line_of(&self, key: &str) -> Option<usize> {
        let mut table = self.table.as_ref()?;
        let mut found = None;
        for name in key.split('.') {
            let entry = table.iter().find(|(known, _)| known.get_ref() == name);
            let Some((known, value)) = entry else {
                // A tenant's key that is missing is mended in that tenant's table.
                break;
            };
            found = Some(known.span().start);
            match value.get_ref() {
                DeValue::Table(inner) => table = inner,
                _ => break,
            }
        }
        let before = self.text.get(..found?)?;
        Some(1 + before.matches('\n').count())
    }
}

/// What was probably meant by a line that is no TOML: sizes and durations are texts there.
pub(super) fn hint(line: &str) -> Option<String> {
    let (key, value) = line.split_once('=')?;
    let value = value.split('#').next().unwrap_or_default().trim();
    let is_bare = value.starts_with(|letter: char| letter.is_ascii_digit())
        && value.ends_with(|letter: char| letter.is_ascii_alphabetic())
        && value
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '.' | ' ' | '_'));
    is_bare.then(|| format!("want a value with a unit in quotes: {} = \"{value}\"", key.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_wherever_they_may_stand() {
        let text = "socket = \"/s\"\nhost.capacity = 7\n\n[nvme]\n# a remark\ndepth = 0\n[tenant.a]\nuids = []\n[tenant.\"B c\"]\n";
        let lines = Lines::of(Path::new("/f"), text);
        let cases = [
            ("socket", Some(1)),
            ("host.capacity", Some(2)),
            ("nvme.depth", Some(6)),
            ("tenant.a.uids", Some(8)),
            ("tenant.a.capacity", Some(7)),
            ("tenant.B c", Some(9)),
            ("remote.kind", None),
        ];
        for (key, line) in cases {
            assert_eq!(lines.line_of(key), line, "{key}");
        }
        assert_eq!(Lines::of(Path::new("/f"), "[").line_of("host"), None);
    }

    #[test]
    fn a_size_without_quotes_is_understood() {
        assert_eq!(
            hint("capacity = 64GiB  # all").unwrap(),
            "want a value with a unit in quotes: capacity = \"64GiB\""
        );
        for line in [
            "capacity = \"64GiB\"",
            "capacity = 64",
            "[host",
            "a = [1, 2",
            "path = /x1y",
        ] {
            assert_eq!(hint(line), None, "{line}");
        }
    }
}
