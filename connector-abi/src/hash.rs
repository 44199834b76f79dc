//! Block hashes for engines that only have tokens.
//!
//! ```text
//! key   = BLAKE3 derive_key("kvtier 2026 block hash v1", namespace id)             32 bytes
//! h(-1) = the parent, or 32 zero bytes at the start of a sequence
//! h(i)  = BLAKE3 keyed_hash(key, h(i-1) ‖ tokens of block i, u32 little-endian ‖ extra)
//! ```
//!
//! All 32 bytes are kept. `extra` is what else makes the content differ (a LoRA name, a salt) and goes into every block
//! of the call. Only whole blocks have a hash.

use kvstore_types::{BlockHash, NamespaceId};

/// Context of the key derivation; a change of the format above changes it.
const KEY_CONTEXT: &str = "kvtier 2026 block hash v1";

/// Tokens turned into bytes at a time.
const TOKENS_STAGED: usize = 256;

/// The hashes of the whole blocks of one sequence, in order.
#[derive(Debug)]
pub struct BlockHashes<'a> {
    root: blake3::Hasher,
    parent: BlockHash,
    blocks: std::slice::ChunksExact<'a, u32>,
    extra: &'a [u8],
}

impl<'a> BlockHashes<'a> {
    /// Hashes `tokens` in blocks of `tokens_per_block` (at least 1), as a continuation of `parent`; a parent of 32
    /// zero bytes is the start of a sequence.
    pub fn new(
        namespace: NamespaceId,
        parent: BlockHash,
        tokens: &'a [u32],
        tokens_per_block: std::num::NonZeroUsize,
        extra: &'a [u8],
    ) -> Self {
        let key = blake3::derive_key(KEY_CONTEXT, &namespace.0);
        Self {
            root: blake3::Hasher::new_keyed(&key),
            parent,
            blocks: tokens.chunks_exact(tokens_per_block.get()),
            extra,
        }
    }
}

impl Iterator for BlockHashes<'_> {
    type Item = BlockHash;

    fn next(&mut self) -> Option<BlockHash> {
        let block = self.blocks.next()?;
        let mut hasher = self.root.clone();
        hasher.update(&self.parent.0);
        let mut staged = [0_u8; TOKENS_STAGED * 4];
        for tokens in block.chunks(TOKENS_STAGED) {
            for (bytes, token) in staged.chunks_exact_mut(4).zip(tokens) {
                bytes.copy_from_slice(&token.to_le_bytes());
            }
            hasher.update(&staged[..tokens.len() * 4]);
        }
        hasher.update(self.extra);
        self.parent = BlockHash(*hasher.finalize().as_bytes());
        Some(self.parent)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.blocks.size_hint()
    }
}

impl ExactSizeIterator for BlockHashes<'_> {}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    const ROOT: BlockHash = BlockHash([0; 32]);

    fn hashes(namespace: u8, parent: BlockHash, tokens: &[u32], extra: &[u8]) -> Vec<BlockHash> {
        let per_block = NonZeroUsize::new(4).unwrap();
        BlockHashes::new(NamespaceId([namespace; 16]), parent, tokens, per_block, extra).collect()
    }

    #[test]
    fn the_chain_is_what_the_module_specifies() {
        let found = hashes(7, ROOT, &[1, 2, 3, 4, 5, 6, 7, 8, 9], b"lora");
        let key = blake3::derive_key("kvtier 2026 block hash v1", &[7; 16]);
        let mut parent = [0_u8; 32];
        for (block, hash) in [[1_u32, 2, 3, 4], [5, 6, 7, 8]].iter().zip(&found) {
            let mut input = parent.to_vec();
            input.extend(block.iter().flat_map(|token| token.to_le_bytes()));
            input.extend(b"lora");
            parent = *blake3::keyed_hash(&key, &input).as_bytes();
            assert_eq!(hash.0, parent);
        }
        assert_eq!(found.len(), 2, "the ninth token is not a whole block");
    }

    #[test]
    fn a_golden_vector_keeps_the_format() {
        let found = hashes(0, ROOT, &[1, 2, 3, 4, 5, 6, 7, 8], b"");
        assert_eq!(found[1].to_string(), GOLDEN);
    }

    #[test]
    fn continuing_from_a_parent_equals_hashing_at_once() {
        let whole = hashes(1, ROOT, &[9; 12], b"x");
        assert_eq!(hashes(1, whole[0], &[9; 8], b"x"), whole[1..]);
    }

    #[test]
    fn every_input_separates() {
        let base = hashes(1, ROOT, &[1, 2, 3, 4], b"");
        assert_ne!(base, hashes(2, ROOT, &[1, 2, 3, 4], b""));
        assert_ne!(base, hashes(1, BlockHash([1; 32]), &[1, 2, 3, 4], b""));
        assert_ne!(base, hashes(1, ROOT, &[1, 2, 3, 5], b""));
        assert_ne!(base, hashes(1, ROOT, &[1, 2, 3, 4], b"x"));
    }

    #[test]
    fn blocks_longer_than_the_staging_buffer_are_hashed_whole() {
        let tokens: Vec<u32> = (0..1000).collect();
        let per_block = NonZeroUsize::new(1000).unwrap();
        let found: Vec<_> = BlockHashes::new(NamespaceId([0; 16]), ROOT, &tokens, per_block, b"").collect();
        let key = blake3::derive_key(KEY_CONTEXT, &[0; 16]);
        let mut input = vec![0; 32];
        input.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
        assert_eq!(found, [BlockHash(*blake3::keyed_hash(&key, &input).as_bytes())]);
    }

    /// Computed once; a change means that stored blocks are not found any more.
    const GOLDEN: &str = "f99787379d3dfc90ca01b4ffcea8d19084d870a3919ba582f120a44320040181";
}
