//! The engine's own hashing: fixed, so that a run replays exactly.

use std::hash::{BuildHasherDefault, Hasher};

use kvstore_types::BlockHash;

use crate::block::Space;

/// What the table knows of a block's name: two multiplications folded, as in wyhash, over all of the hash. A client
/// chooses its hashes but does not know the seed, so it cannot aim them at one place and make each probe a long one.
pub(crate) fn fingerprint(seed: u64, space: Space, hash: &BlockHash) -> u32 {
    let [a, b, c, d] = hash.words();
    let folded = fold(a ^ seed, b ^ FOLD[0]) ^ fold(c ^ seed.rotate_left(32), d ^ FOLD[1]);
    (mix(folded ^ u64::from(space.bits())) >> 32) as u32
}

/// Odd numbers with as many ones as zeros.
const FOLD: [u64; 2] = [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db];

#[expect(
    clippy::cast_possible_truncation,
    reason = "the two halves of a product are folded together"
)]
const fn fold(a: u64, b: u64) -> u64 {
    let product = (a as u128) * (b as u128);
    product as u64 ^ (product >> 64) as u64
}

/// Spreads small integer keys over a table. Not keyed: clients can make their own tenant's tables slow and nobody
/// else's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MixHasher(u64);

/// Builds [`MixHasher`]s.
pub(crate) type FixedState = BuildHasherDefault<MixHasher>;

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for MixHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = mix(self.0 ^ value);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Mixes 64 bits so that the upper 32 depend on all of them.
pub(crate) const fn mix(value: u64) -> u64 {
    let product = (value ^ (value >> 32)).wrapping_mul(MULTIPLIER);
    product ^ (product >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_that_differ_in_a_few_bits_anywhere_are_spread() {
        let space = Space::new(1, 0);
        for word in 0..4 {
            let mut prints = std::collections::BTreeSet::new();
            for number in 0..10_000_u64 {
                let mut bytes = [0x5a; 32];
                bytes[word * 8..][..8].copy_from_slice(&number.to_le_bytes());
                prints.insert(fingerprint(0x1234_5678_9abc_def1, space, &BlockHash(bytes)));
            }
            // Ten thousand random numbers of 32 bits collide 0.01 times.
            assert!(prints.len() > 9_990, "word {word}: {} prints", prints.len());
        }
    }
}
