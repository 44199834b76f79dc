//! Names for spans.

use std::hash::{BuildHasher, Hasher, RandomState};

use crate::SpanId;

/// Draws names for spans; no two of one source are equal.
#[derive(Debug)]
pub struct Ids(u64);

impl Ids {
    /// A source that begins at random.
    pub fn new() -> Self {
        Self(RandomState::new().build_hasher().finish())
    }

    /// The next name.
    pub fn span(&mut self) -> SpanId {
        loop {
            // SplitMix64: each state once, each mixed one to one.
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            if let Some(id) = SpanId::some((mixed ^ (mixed >> 31)).to_be_bytes()) {
                return id;
            }
        }
    }
}

impl Default for Ids {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_spans_have_one_name() {
        let (mut one, mut other) = (Ids::new(), Ids::new());
        let names: BTreeSet<SpanId> = (0..1000).flat_map(|_| [one.span(), other.span()]).collect();
        assert_eq!(names.len(), 2000);
        assert!(SpanId::some([0; 8]).is_none());
    }
}
