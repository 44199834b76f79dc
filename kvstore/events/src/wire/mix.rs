//! Hashes on the wire have the model's name mixed in.
//!
//! Engines of two models that read the same tokens name their blocks alike. A router keeps one table from such a name to
//! its own keys for all models, and counts by name for each pod: what one model's blocks are told would then be taken for the
//! other's, and a block that is gone stay believed in for ever. So the last eight bytes, which are those that routers look at,
//! differ by model. To routers a hash only links events; what it stands for they compute from the tokens.
//!
//! A relay's hashes are the engine's own: its publisher speaks for one model, and tells of its other blocks by the same names.

use kvstore_types::BlockHash;

use crate::book::TOPIC_PREFIX;

/// What is mixed into the hashes of one topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mix([u8; 8]);

impl Mix {
    /// Of a topic: by the model in its name, nothing if it is a relay's.
    pub(crate) fn of(topic: &str) -> Self {
        let model = topic
            .strip_prefix(TOPIC_PREFIX)
            .and_then(|name| name.rsplit_once('@'))
            .map(|(_, model)| model);
        model.map_or(Self::default(), |model| {
            Self(fnv1a(model.as_bytes()).to_be_bytes())
        })
    }

    /// The hash as it goes over the wire; the hash again of one that came from there.
    pub(crate) fn apply(self, hash: &BlockHash) -> BlockHash {
        let mut mixed = *hash;
        let last = mixed.0.iter_mut().rev().zip(self.0.iter().rev());
        last.for_each(|(byte, mix)| *byte ^= mix);
        mixed
    }
}

/// FNV-1a: every daemon must find the same, whenever it was built.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_differ_by_model_and_by_nothing_else() {
        let hash = BlockHash([7; 32]);
        let mixed = |topic: &str| Mix::of(topic).apply(&hash);
        assert_eq!(mixed("kv@10.0.0.1:80@m"), mixed("kv@node:n@m"));
        assert_ne!(mixed("kv@node:n@m"), mixed("kv@node:n@other"));
        assert_eq!(mixed("kv@node:n@m").0[..24], hash.0[..24]);
        assert_eq!(Mix::of("kv@node:n@m").apply(&mixed("kv@node:n@m")), hash);
        assert_eq!(mixed("relay:0:7"), hash);
        // FNV-1a's own test vector.
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
