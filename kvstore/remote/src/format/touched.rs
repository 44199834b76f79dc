//! `v1/<namespace>/touched/*`: blocks that one node has read since its record before this one.
//!
//! ```text
//! 0       8         12      16          32
//! | magic | version | count | namespace | block* | checksum |          block = | group | hash's first 15 bytes |
//! ```
//!
//! When they were read is not in it: the store's own time of the object is, so no node's clock matters.

use kvstore_types::{BlockKey, NamespaceId};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::FORMAT_VERSION;
use super::layout::{read_prefix, seal, strip_checksum};

const MAGIC: [u8; 8] = *b"KVTTOUCH";

/// Most blocks in one record: it has 512 KiB then.
pub(crate) const TOUCHED_BLOCKS_MAX: usize = 32_768;

/// A block, shortened: two blocks that share 15 bytes of hash would keep each other a little longer, no more.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub(crate) struct TouchedBlock {
    group: u8,
    hash: [u8; 15],
}

impl From<&BlockKey> for TouchedBlock {
    fn from(key: &BlockKey) -> Self {
        let mut hash = [0; 15];
        hash.copy_from_slice(&key.hash.0[..15]);
        Self {
            group: key.group.0,
            hash,
        }
    }
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Touched {
    /// Whose blocks.
    pub(crate) namespace: NamespaceId,
    /// Which; at most [`TOUCHED_BLOCKS_MAX`].
    pub(crate) blocks: Vec<TouchedBlock>,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Fixed {
    magic: [u8; 8],
    version: U32,
    count: U32,
    namespace: [u8; 16],
}

const _: () = assert!(size_of::<Fixed>() == 32);
const _: () = assert!(size_of::<TouchedBlock>() == 16);

impl Touched {
    /// Most bytes of a record.
    pub(crate) const BYTES_MAX: u64 = (32 + 16 * TOUCHED_BLOCKS_MAX + 16) as u64;

    /// Its bytes. What is beyond [`TOUCHED_BLOCKS_MAX`] is left out.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let blocks = &self.blocks[..self.blocks.len().min(TOUCHED_BLOCKS_MAX)];
        #[expect(clippy::cast_possible_truncation, reason = "at most TOUCHED_BLOCKS_MAX")]
        let count = blocks.len() as u32;
        let fixed = Fixed {
            magic: MAGIC,
            version: U32::new(FORMAT_VERSION),
            count: U32::new(count),
            namespace: self.namespace.0,
        };
        seal([fixed.as_bytes(), blocks.as_bytes()].concat())
    }

    /// Reads it back; `None` if it is not one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let covered = strip_checksum(bytes)?;
        let fixed: Fixed = read_prefix(covered)?;
        let known = fixed.magic == MAGIC && fixed.version.get() == FORMAT_VERSION;
        let blocks = <[TouchedBlock]>::ref_from_bytes(covered.get(size_of::<Fixed>()..)?).ok()?;
        if !known || blocks.len() != fixed.count.get() as usize || blocks.len() > TOUCHED_BLOCKS_MAX {
            return None;
        }
        Some(Self {
            namespace: NamespaceId(fixed.namespace),
            blocks: blocks.to_vec(),
        })
    }
}
