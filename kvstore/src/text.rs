//! Texts of others in our own.

/// As much of a text as helps whoever wrote it; what does not fit ends in an ellipsis.
pub(crate) fn shortened(text: &str, letters_max: usize) -> String {
    match text.char_indices().nth(letters_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::shortened;

    #[test]
    fn letters_are_counted_and_not_cut() {
        for (text, expected) in [("", ""), ("ééé", "ééé"), ("éééé", "ééé…")] {
            assert_eq!(shortened(text, 3), expected);
        }
    }
}
