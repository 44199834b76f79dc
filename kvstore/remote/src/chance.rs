//! Chance, as much as spreading waits needs.

use std::hash::{BuildHasher, RandomState};

/// A number between 0 and 1, by the hasher's random keys.
pub(crate) fn draw() -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "nobody needs more than 53 bits")]
    let number = RandomState::new().hash_one(0) as f64;
    number / 2_f64.powi(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_differ_and_lie_between_0_and_1() {
        let draws: Vec<f64> = (0..100).map(|_| draw()).collect();
        assert!(draws.iter().all(|draw| (0.0..=1.0).contains(draw)));
        assert!(draws.iter().any(|draw| *draw < 0.5) && draws.iter().any(|draw| *draw > 0.5));
    }
}
