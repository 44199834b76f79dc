//! What the fuzz targets (`fuzz/`) and the replay of their corpus call.
#![allow(
    clippy::missing_panics_doc,
    reason = "a property that does not hold is a panic, which is what a fuzzer looks for"
)]

use crate::testing::{Value, decode_value};
use crate::wire::check_extra_keys;
use crate::zmtp;

/// A client's extra keys: whatever is let through is nothing, or one value that a decoder understands.
pub fn extra_keys(data: &[u8]) {
    if check_extra_keys(data).is_ok() && !data.is_empty() {
        let decoded = decode_value(data);
        assert!(
            matches!(decoded, Some((Value::Nil | Value::Array(_), []))),
            "extra keys that nobody can decode are let through"
        );
    }
}

/// What a peer says first and then: decoded or refused.
pub fn zmtp(data: &[u8]) {
    zmtp::fuzz(data);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    fn replay(target: &str, run: fn(&[u8])) {
        let place = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../fuzz/corpus")
            .join(target);
        let mut count = 0;
        for entry in fs::read_dir(&place).unwrap() {
            run(&fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count >= 3, "{}: want some, got {count}", place.display());
    }

    #[test]
    fn the_corpus_of_the_fuzz_targets_is_handled() {
        replay("extra_keys", super::extra_keys);
        replay("zmtp", super::zmtp);
    }
}
