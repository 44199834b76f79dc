//! How a block is named.

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The engine's own hash of a block: of its tokens, its whole prefix and whatever else makes its content differ
/// (LoRA, multimodal inputs, salt). Opaque and cryptographic, so it is compared whole and never hashed again.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(transparent)]
pub struct BlockHash(pub [u8; 32]);

impl BlockHash {
    /// The hash as four numbers.
    pub fn words(&self) -> [u64; 4] {
        let (words, _) = self.0.as_chunks::<8>();
        std::array::from_fn(|index| u64::from_le_bytes(words[index]))
    }
}

/// Names everything that must be equal for two blocks' bytes to be interchangeable: the first 16 bytes of the
/// BLAKE3 digest of a [`NamespaceDescriptor`](crate::NamespaceDescriptor).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespaceId(pub [u8; 16]);

/// Index of a KV cache group within its namespace. An engine has one group per kind of attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupIndex(pub u8);

/// The full name of a block. All of it is kept and compared in every tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockKey {
    /// What makes the bytes interchangeable.
    pub namespace: NamespaceId,
    /// Which of the namespace's groups.
    pub group: GroupIndex,
    /// Which prefix.
    pub hash: BlockHash,
}

macro_rules! hex {
    ($name:ident, $shown:expr) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0
                    .iter()
                    .take($shown)
                    .try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    };
}
hex!(BlockHash, 8);
hex!(NamespaceId, 16);

impl fmt::Display for BlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.group.0, self.hash)
    }
}
