//! "Did you mean …?"

/// The candidate closest to `word`, if it is close enough to have been meant.
pub(super) fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3).min(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, with `_` and `-` alike and without regard to case.
fn distance(one: &str, two: &str) -> usize {
    let fold = |text: &str| -> Vec<u8> {
        text.bytes()
            .map(|byte| {
                if byte == b'_' {
                    b'-'
                } else {
                    byte.to_ascii_lowercase()
                }
            })
            .collect()
    };
    let (one, two) = (fold(one), fold(two));
    let mut row: Vec<usize> = (0..=two.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in two.iter().enumerate() {
            let substitute = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[two.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised_and_a_stranger_is_not() {
        let keys = ["capacity", "watermark-low", "watermark-high", "policy"];
        assert_eq!(closest("capacty", keys), Some("capacity"));
        assert_eq!(closest("watermark_low", keys), Some("watermark-low"));
        assert_eq!(closest("Policy", keys), Some("policy"));
        assert_eq!(closest("colour", keys), None);
    }
}
