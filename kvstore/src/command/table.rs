//! Tables for people.

use std::fmt::Write;

/// Columns that line up: text to the left, numbers to the right.
#[derive(Debug)]
pub(super) struct Table {
    titles: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    /// What is said where there are no rows.
    empty: &'static str,
}

impl Table {
    pub(super) fn new(titles: &[&'static str], empty: &'static str) -> Self {
        Self {
            titles: titles.to_vec(),
            rows: Vec::new(),
            empty,
        }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = cells.into_iter().map(|cell| {
            let cell = printable(&cell);
            if cell.is_empty() { "-".to_owned() } else { cell }
        });
        self.rows.push(cells.collect());
    }

    /// All of it, a line each.
    pub(super) fn text(&self) -> String {
        if self.rows.is_empty() {
            return format!("{}\n", self.empty);
        }
        let cells = |column: usize| self.rows.iter().filter_map(move |row| row.get(column));
        let shapes: Vec<(usize, bool)> = self
            .titles
            .iter()
            .enumerate()
            .map(|(column, title)| {
                let width = cells(column).map(|cell| cell.chars().count()).max().unwrap_or(0);
                (width.max(title.len()), cells(column).all(|cell| is_number(cell)))
            })
            .collect();
        let mut text = String::new();
        let titles: Vec<String> = self.titles.iter().map(|title| (*title).to_owned()).collect();
        for row in std::iter::once(&titles).chain(&self.rows) {
            let mut line = String::new();
            for (cell, (width, is_right)) in row.iter().zip(&shapes) {
                let gap = if line.is_empty() { "" } else { "  " };
                let _ = if *is_right {
                    write!(line, "{gap}{cell:>width$}")
                } else {
                    write!(line, "{gap}{cell:<width$}")
                };
            }
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }
}

fn is_number(cell: &str) -> bool {
    cell == "-" || cell.starts_with(|letter: char| letter.is_ascii_digit())
}

/// What a client said of itself must not move a person's cursor.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { '?' } else { letter })
        .collect()
}

/// A part of something in percent.
#[expect(clippy::cast_precision_loss, reason = "it is rounded anyway")]
pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return String::new();
    }
    format!("{:.1}%", part as f64 * 100.0 / whole as f64)
}

/// A time as people say it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is rounded, and no time is negative"
)]
pub(super) fn time(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..60 => format!("{:.1}s", seconds.max(0.0)),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h{:02}m", whole / 3600, whole / 60 % 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole / 3600 % 24),
    }
}

/// The first digits of a name, which are enough for people.
pub(super) fn short(digits: &str) -> String {
    digits.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["name", "count"], "nothing");
        assert_eq!(table.text(), "nothing\n");
        table.row(["a".to_owned(), "7".to_owned()]);
        table.row(["long\u{1b}[2J".to_owned(), "100".to_owned()]);
        table.row([String::new(), String::new()]);
        assert_eq!(
            table.text(),
            "name      count\na             7\nlong?[2J    100\n-             -\n"
        );
    }

    #[test]
    fn numbers_are_said_as_people_say_them() {
        assert_eq!(
            (percent(1, 3), percent(1, 0)),
            ("33.3%".to_owned(), String::new())
        );
        let cases = [
            (1.25, "1.2s"),
            (61.0, "1m01s"),
            (7265.0, "2h01m"),
            (90_000.0, "1d01h"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(time(seconds), expected);
        }
    }
}
