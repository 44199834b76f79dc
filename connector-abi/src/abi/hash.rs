//! Hashes of blocks, for engines that only have tokens.

use std::num::NonZeroUsize;

use kvstore_types::{BlockHash, NamespaceId};

use super::{boundary, kvt_status, required, slice};
use crate::ClientError;
use crate::hash::BlockHashes;

/// Computes the hashes of the whole blocks of `tokens`, each chained to the one before:
///
///   key  = BLAKE3 derive_key(context "kvtier 2026 block hash v1", namespace_id)
///   h(i) = BLAKE3 keyed_hash(key, h(i-1) || tokens of block i as little-endian uint32 || extra)
///
/// where h(-1) is `parent`, or 32 zero bytes if it is NULL. `extra` is whatever else makes the content differ (a LoRA
/// name, a salt) and goes into every block of the call. Tokens behind the last whole block are left out.
///
/// Writes `*hash_count` hashes of 32 bytes to `hashes`, which must not overlap the inputs. Pure; any thread; takes as long
/// as hashing takes.
///
/// `KVT_OK`; `KVT_TOO_LARGE`: more hashes than `hashes_max`, nothing was written; `KVT_BAD_ARGUMENT`: `tokens_per_block`
/// is 0; `KVT_NULL_ARGUMENT`; `KVT_PANIC`.
///
/// # Safety
/// `namespace_id` points to 16 bytes, `parent` is NULL or points to 32, `tokens` and `extra` are valid for their counts,
/// `hashes` has room for `hashes_max` × 32 bytes, `hash_count` is a place for a count.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_hash_tokens(
    namespace_id: *const u8,
    parent: *const u8,
    tokens: *const u32,
    token_count: usize,
    tokens_per_block: u32,
    extra: *const u8,
    extra_bytes: usize,
    hashes: *mut u8,
    hashes_max: usize,
    hash_count: *mut usize,
) -> kvt_status {
    boundary(|| {
        // SAFETY: the caller's promise.
        let namespace =
            unsafe { required(namespace_id.cast::<[u8; 16]>().cast_mut(), "namespace_id")?.read() };
        let parent = if parent.is_null() {
            [0; 32]
        } else {
            // SAFETY: not NULL; the caller's promise.
            unsafe { parent.cast::<[u8; 32]>().read() }
        };
        // SAFETY: the caller's promise.
        let tokens = unsafe { slice(tokens, token_count, "tokens") }?;
        // SAFETY: the caller's promise.
        let extra = unsafe { slice(extra, extra_bytes, "extra") }?;
        let per_block = usize::try_from(tokens_per_block).ok().and_then(NonZeroUsize::new);
        let per_block = per_block.ok_or_else(|| ClientError::range("tokens_per_block", "at least 1", 0))?;
        let hash_count = required(hash_count, "hash_count")?;
        let chain = BlockHashes::new(
            NamespaceId(namespace),
            BlockHash(parent),
            tokens,
            per_block,
            extra,
        );
        let count = chain.len();
        if count > hashes_max {
            return Err(ClientError::TooLarge {
                what: "the chain",
                actual: count,
                max: hashes_max,
                unit: "hashes",
            });
        }
        if count > 0 {
            let hashes = required(hashes.cast::<BlockHash>(), "hashes")?;
            for (index, hash) in chain.enumerate() {
                // SAFETY: `index < count <= hashes_max`, for which the caller promises room.
                unsafe { hashes.wrapping_add(index).write(hash) };
            }
        }
        // SAFETY: not NULL and aligned, as just checked; a place for a count by the caller's promise.
        unsafe { hash_count.write(count) };
        Ok(())
    })
}
