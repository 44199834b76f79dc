//! The engine's own hashing: fixed, so that a run replays exactly.

use std::hash::{BuildHasherDefault, Hasher};

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
