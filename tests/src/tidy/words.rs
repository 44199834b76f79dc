//! Words that must not be committed: paths of somebody's machine, and notes about work that is not done.

use super::Problems;
use super::repository::File;

/// Built from pieces, so that this file does not contain them.
fn unwanted() -> [(String, &'static str); 9] {
    let word = |pieces: [&str; 2]| pieces.concat();
    [
        (word(["TO", "DO"]), "an issue says it better"),
        (word(["FIX", "ME"]), "an issue says it better"),
        (word(["XX", "X"]), "an issue says it better"),
        (word(["/home", "/"]), "a path of one machine"),
        (word(["/root", "/"]), "a path of one machine"),
        (word(["/work", "/"]), "a path of one machine"),
        (word(["/tmp/", "brief"]), "a path of one machine"),
        (word(["todo", "!("]), "unfinished code"),
        (word(["unimplemented", "!("]), "unfinished code"),
    ]
}

/// Problems with the words in the files.
pub fn check(files: &[File]) -> Problems {
    let unwanted = unwanted();
    let mut problems = Problems::new();
    for file in files {
        for (number, line) in file.text.lines().enumerate() {
            for (word, why) in unwanted.iter().filter(|(word, _)| contains_word(line, word)) {
                problems.push(format!("{}:{}: {word}: {why}", file.path, number + 1));
            }
        }
    }
    problems
}

/// Whether the line has the word, not as a part of a longer one.
fn contains_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '}' | ')');
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_part))
}

/// Problems with a pip requirements file: every line pins one version.
pub fn check_requirements_are_pinned(file: &File) -> Problems {
    let lines = file
        .text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let loose = lines.filter(|line| {
        line.split_once("==")
            .is_none_or(|(name, version)| name.is_empty() || version.is_empty())
    });
    loose
        .map(|line| format!("{}: {line}: want NAME==VERSION", file.path))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unwanted_word_is_found() {
        for (word, _) in unwanted() {
            assert_eq!(
                check(&[File::new("a", &format!("see {word}x"))]).len(),
                1,
                "{word}"
            );
        }
    }

    #[test]
    fn a_word_inside_a_longer_one_is_not_meant() {
        let text = ["$HOME/work", "/x a/home", "/y ", "NOTO", "DO"].concat();
        assert_eq!(check(&[File::new("a", &text)]), Problems::new());
    }

    #[test]
    fn a_requirement_without_a_version_is_found() {
        let file = File::new("r.txt", "# text\na==1\nb>=2\nc==\n");
        assert_eq!(check_requirements_are_pinned(&file).len(), 2);
    }
}
