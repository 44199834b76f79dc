//! Descriptors as they travel: one run for blocks that follow each other.

use super::{BlockDescriptor, BlockDescriptorError, DescriptorBytes};
use crate::BlockHash;

/// What consecutive blocks of one sequence in one group are about. They differ in nothing but their tokens, and each is
/// the parent of the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorRun<'a> {
    /// How many blocks.
    pub blocks: u32,
    /// Tokens of each block. 0: these blocks are not described, and everything else is empty.
    pub tokens_per_block: u32,
    /// The engine's hash of the block before the first one; none if that begins its sequence.
    pub parent: Option<BlockHash>,
    /// The tokens of all blocks: `blocks` × `tokens_per_block`.
    pub tokens: &'a [u32],
    /// The adapter that the blocks were computed with.
    pub lora_name: Option<&'a str>,
    /// What else went into the hash of each block, as in [`BlockDescriptor`]. Empty: nothing.
    pub extra_keys: &'a [u8],
}

impl<'a> DescriptorRun<'a> {
    /// A run of blocks that nobody describes.
    pub const fn undescribed(blocks: u32) -> Self {
        Self {
            blocks,
            tokens_per_block: 0,
            parent: None,
            tokens: &[],
            lora_name: None,
            extra_keys: &[],
        }
    }

    /// Whether there are descriptors in it.
    pub const fn is_described(&self) -> bool {
        self.tokens_per_block > 0
    }

    /// The descriptor of the run's block `index`, whose predecessor in the run has the hash `previous`. None: the run has
    /// no descriptors, or no such block.
    pub fn descriptor(
        &self,
        index: usize,
        previous: Option<BlockHash>,
    ) -> Result<Option<DescriptorBytes>, BlockDescriptorError> {
        let length = self.tokens_per_block as usize;
        let tokens = self.tokens.get(index.saturating_mul(length)..);
        let Some(tokens) = tokens.and_then(|rest| rest.get(..length)).filter(|_| length > 0) else {
            return Ok(None);
        };
        let descriptor: BlockDescriptor<'a> = BlockDescriptor {
            parent: if index == 0 { self.parent } else { previous },
            tokens: tokens.into(),
            lora_name: self.lora_name,
            extra_keys: self.extra_keys,
        };
        descriptor.encode().map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_block_of_a_run_has_its_own_tokens_and_the_block_before_it_as_parent() {
        let hash = |byte: u8| BlockHash([byte; 32]);
        let run = DescriptorRun {
            blocks: 2,
            tokens_per_block: 3,
            parent: Some(hash(1)),
            tokens: &[1, 2, 3, 4, 5, 6],
            lora_name: Some("sql"),
            extra_keys: &[0xc0],
        };
        for (index, previous, parent, tokens) in [
            (0, None, hash(1), [1, 2, 3]),
            (1, Some(hash(2)), hash(2), [4, 5, 6]),
        ] {
            let bytes = run.descriptor(index, previous).unwrap().unwrap();
            let descriptor = bytes.decode().unwrap();
            assert_eq!(descriptor.parent, Some(parent));
            assert_eq!(descriptor.tokens.as_ref(), tokens);
            assert_eq!(
                (descriptor.lora_name, descriptor.extra_keys),
                (Some("sql"), &[0xc0][..])
            );
        }
        assert_eq!(run.descriptor(2, None), Ok(None));
        assert_eq!(DescriptorRun::undescribed(4).descriptor(0, None), Ok(None));
    }
}
