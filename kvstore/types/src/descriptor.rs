//! What a block is about: its tokens and what they follow, so that the block can be announced to a router.
//!
//! A descriptor lives with its block in every tier and is told with it, also by a daemon that has just started.
//! [`DescriptorBytes`] is what is kept: an encoding nobody looks into until it is announced, so that what a later version
//! wrote survives in the hands of an earlier one. `kvstore/nvme/FORMAT.md` specifies the bytes. There is exactly one
//! encoding for each descriptor.
//!
//! ```text
//! | version (u8) | flags (u8) | bits a token (u8) | tokens (u16) | bytes of the LoRA name (u16) |
//! | parent (32, if flag 1) | LoRA name (if flag 2) | tokens, packed | extra keys |
//! ```
//!
//! All tokens have the width of the largest one, in bits: 1,024 tokens of a vocabulary of 150 thousand take 2,304
//! bytes, a quarter less than in whole bytes, and less than any code that tells each token's own length.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::BlockHash;

mod pack;
mod run;

pub use pack::PackedTokens;
pub use run::DescriptorRun;

const VERSION: u8 = 1;
const FIXED_BYTES: usize = 7;
const HASH_BYTES: usize = 32;
const HAS_PARENT: u8 = 1;
const HAS_LORA: u8 = 2;

/// An encoded descriptor, shared by all who hold it. Not looked into: see [`DescriptorBytes::decode`].
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct DescriptorBytes(Arc<[u8]>);

impl DescriptorBytes {
    /// Longest encoding: what a block's header page on NVMe has room for.
    pub const BYTES_MAX: usize = 3840;

    /// What was kept with a block; none if that is nothing, or longer than a descriptor can be.
    pub fn kept(bytes: &[u8]) -> Option<Self> {
        let fits = !bytes.is_empty() && bytes.len() <= Self::BYTES_MAX;
        fits.then(|| Self(bytes.into()))
    }

    /// The encoding: at least one byte, at most [`BYTES_MAX`](Self::BYTES_MAX).
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The descriptor.
    pub fn decode(&self) -> Result<BlockDescriptor<'_>, BlockDescriptorError> {
        BlockDescriptor::decode(&self.0)
    }

    /// The descriptor, its tokens left packed.
    pub fn view(&self) -> Result<DescriptorView<'_>, BlockDescriptorError> {
        DescriptorView::of(&self.0)
    }
}

impl fmt::Debug for DescriptorBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DescriptorBytes({} bytes)", self.0.len())
    }
}

/// A descriptor. The block's group is in its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDescriptor<'a> {
    /// The engine's hash of the block before this one; none for the first block of a sequence.
    pub parent: Option<BlockHash>,
    /// The block's own tokens.
    pub tokens: Cow<'a, [u32]>,
    /// The adapter that the block was computed with.
    pub lora_name: Option<&'a str>,
    /// What else went into the block's hash: one MessagePack array, with an entry for each of the engine's own blocks in it.
    /// Empty: nothing.
    pub extra_keys: &'a [u8],
}

/// A descriptor that was checked and whose parts are read where they lie: the same as [`BlockDescriptor`], without memory of its own.
#[derive(Clone, Copy, Debug)]
pub struct DescriptorView<'a> {
    /// The engine's hash of the block before this one; none for the first block of a sequence.
    pub parent: Option<BlockHash>,
    /// The block's own tokens.
    pub tokens: PackedTokens<'a>,
    /// The adapter that the block was computed with.
    pub lora_name: Option<&'a str>,
    /// What else went into the block's hash.
    pub extra_keys: &'a [u8],
}

/// Why a descriptor cannot be encoded, or bytes are no descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockDescriptorError {
    /// It would be longer than may be.
    #[error("the descriptor of {tokens} tokens has {actual} bytes, at most {max} are kept with a block")]
    TooLong {
        /// Tokens of the block.
        tokens: usize,
        /// Bytes of the encoding; of one whose counts do not fit into their fields, at least.
        actual: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Another version's.
    #[error("block descriptor of version {found}, want {VERSION}")]
    Version {
        /// The version.
        found: u8,
    },
    /// Not what [`BlockDescriptor::encode`] makes of any descriptor.
    #[error("malformed block descriptor: {0}")]
    Malformed(&'static str),
}

impl<'a> BlockDescriptor<'a> {
    /// The descriptor's only encoding.
    pub fn encode(&self) -> Result<DescriptorBytes, BlockDescriptorError> {
        let width = pack::width(&self.tokens);
        let name = self.lora_name.unwrap_or("").as_bytes();
        let parent = self.parent.as_ref().map_or(&[][..], |parent| &parent.0);
        let packed_bytes = pack::packed_bytes(self.tokens.len(), width);
        let actual = FIXED_BYTES + parent.len() + name.len() + packed_bytes + self.extra_keys.len();
        let too_long = BlockDescriptorError::TooLong {
            tokens: self.tokens.len(),
            actual,
            max: DescriptorBytes::BYTES_MAX,
        };
        if actual > DescriptorBytes::BYTES_MAX {
            return Err(too_long);
        }
        let tokens = u16::try_from(self.tokens.len()).map_err(|_| too_long)?;
        let name_bytes = u16::try_from(name.len()).map_err(|_| too_long)?;
        let flags = if self.parent.is_some() { HAS_PARENT } else { 0 }
            | if self.lora_name.is_some() { HAS_LORA } else { 0 };
        let mut bytes = Vec::with_capacity(actual);
        bytes.extend_from_slice(&[VERSION, flags, width]);
        bytes.extend_from_slice(&tokens.to_le_bytes());
        bytes.extend_from_slice(&name_bytes.to_le_bytes());
        bytes.extend_from_slice(parent);
        bytes.extend_from_slice(name);
        pack::pack(&self.tokens, width, &mut bytes);
        bytes.extend_from_slice(self.extra_keys);
        debug_assert_eq!(
            bytes.len(),
            actual,
            "the encoding has the length it was checked for"
        );
        Ok(DescriptorBytes(bytes.into()))
    }

    /// Reads an encoding back; anything that [`encode`](Self::encode) would not have written is refused.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, BlockDescriptorError> {
        let view = DescriptorView::of(bytes)?;
        Ok(Self {
            parent: view.parent,
            tokens: view.tokens.iter().collect(),
            lora_name: view.lora_name,
            extra_keys: view.extra_keys,
        })
    }
}

impl<'a> DescriptorView<'a> {
    /// Reads an encoding; anything that [`BlockDescriptor::encode`] would not have written is refused.
    pub fn of(bytes: &'a [u8]) -> Result<Self, BlockDescriptorError> {
        const SHORT: BlockDescriptorError = BlockDescriptorError::Malformed("it ends too early");
        match bytes.first() {
            None => return Err(SHORT),
            Some(&VERSION) => {}
            Some(&found) => return Err(BlockDescriptorError::Version { found }),
        }
        if bytes.len() > DescriptorBytes::BYTES_MAX {
            return Err(BlockDescriptorError::Malformed(
                "it is longer than a descriptor may be",
            ));
        }
        let (fixed, rest) = bytes.split_first_chunk::<FIXED_BYTES>().ok_or(SHORT)?;
        let &[_, flags, width, t0, t1, n0, n1] = fixed;
        let token_count = usize::from(u16::from_le_bytes([t0, t1]));
        let name_bytes = usize::from(u16::from_le_bytes([n0, n1]));
        if flags & !(HAS_PARENT | HAS_LORA) != 0 {
            return Err(BlockDescriptorError::Malformed("an unknown flag is set"));
        }
        let parent_bytes = if flags & HAS_PARENT == 0 { 0 } else { HASH_BYTES };
        let (parent, rest) = rest.split_at_checked(parent_bytes).ok_or(SHORT)?;
        let (name, rest) = rest.split_at_checked(name_bytes).ok_or(SHORT)?;
        if flags & HAS_LORA == 0 && name_bytes != 0 {
            return Err(BlockDescriptorError::Malformed("a LoRA name that the flags deny"));
        }
        let name = std::str::from_utf8(name)
            .map_err(|_| BlockDescriptorError::Malformed("the LoRA name is not UTF-8"))?;
        if u32::from(width) > u32::BITS || (width == 0) != (token_count == 0) {
            return Err(BlockDescriptorError::Malformed("no such width of a token"));
        }
        let packed_bytes = pack::packed_bytes(token_count, width);
        let (packed, extra_keys) = rest.split_at_checked(packed_bytes).ok_or(SHORT)?;
        let tokens =
            PackedTokens::checked(packed, token_count, width).map_err(BlockDescriptorError::Malformed)?;
        Ok(Self {
            parent: <[u8; HASH_BYTES]>::try_from(parent).ok().map(BlockHash),
            tokens,
            lora_name: (flags & HAS_LORA != 0).then_some(name),
            extra_keys,
        })
    }
}

#[cfg(test)]
mod tests;
