//! What this node knows about which blocks are at the store: bounded, and forgotten after a while.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use kvstore_types::{BlockKey, NamespaceId};
use lru::LruCache;

/// How much is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExistencePolicy {
    /// Most blocks that are known to be there. About 150 bytes each.
    pub present_max: usize,
    /// For how long: a sweeper of another node may have removed them.
    pub present_for: Duration,
    /// Most blocks that are known to be missing.
    pub missing_max: usize,
    /// For how long: another node may have written them.
    pub missing_for: Duration,
}

impl Default for ExistencePolicy {
    fn default() -> Self {
        Self {
            present_max: 262_144,
            present_for: Duration::from_mins(5),
            missing_max: 65_536,
            missing_for: Duration::from_secs(5),
        }
    }
}

/// The caches of one store.
pub(crate) struct Existence {
    policy: ExistencePolicy,
    present: LruCache<BlockKey, Instant>,
    missing: LruCache<BlockKey, Instant>,
    /// Blocks whose bytes were found to be wrong: missing until somebody replaces them, and written over then.
    spoiled: LruCache<BlockKey, Instant>,
}

/// What is known of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Present,
    Missing,
    /// There, and not the block.
    Spoiled,
}

impl Existence {
    pub(crate) fn new(policy: ExistencePolicy) -> Self {
        let cache = |most| LruCache::new(NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN));
        Self {
            policy,
            present: cache(policy.present_max),
            missing: cache(policy.missing_max),
            spoiled: cache(policy.missing_max),
        }
    }

    /// What is known. Asking is a use.
    pub(crate) fn get(&mut self, now: Instant, key: &BlockKey) -> Option<Known> {
        let policy = self.policy;
        let is_fresh = |since: Option<&Instant>, most| {
            since.is_some_and(|&since| now.saturating_duration_since(since) < most)
        };
        if is_fresh(self.spoiled.get(key), policy.present_for) {
            return Some(Known::Spoiled);
        }
        if is_fresh(self.present.get(key), policy.present_for) {
            return Some(Known::Present);
        }
        if is_fresh(self.missing.get(key), policy.missing_for) {
            return Some(Known::Missing);
        }
        None
    }

    /// A block was found to be there, or was written.
    pub(crate) fn set_present(&mut self, now: Instant, key: BlockKey) {
        self.missing.pop(&key);
        self.present.put(key, now);
    }

    /// A block was written over, or read well.
    pub(crate) fn set_good(&mut self, now: Instant, key: BlockKey) {
        self.spoiled.pop(&key);
        self.set_present(now, key);
    }

    /// A block was found missing, or was removed.
    pub(crate) fn set_missing(&mut self, now: Instant, key: BlockKey) {
        self.present.pop(&key);
        self.spoiled.pop(&key);
        self.missing.put(key, now);
    }

    /// A block's bytes are wrong.
    pub(crate) fn set_spoiled(&mut self, now: Instant, key: BlockKey) {
        self.present.pop(&key);
        self.spoiled.put(key, now);
    }

    /// Blocks of a namespace are of no use any more.
    pub(crate) fn forget(&mut self, namespace: NamespaceId) {
        for cache in [&mut self.present, &mut self.missing, &mut self.spoiled] {
            let keys: Vec<BlockKey> = cache
                .iter()
                .map(|(key, _)| *key)
                .filter(|key| key.namespace == namespace)
                .collect();
            for key in keys {
                cache.pop(&key);
            }
        }
    }

    /// How many are known to be there, and to be missing.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.present.len(), self.missing.len())
    }
}

#[cfg(test)]
mod tests {
    use kvstore_types::{BlockHash, GroupIndex};

    use super::*;

    fn key(number: u8) -> BlockKey {
        BlockKey {
            namespace: NamespaceId([number % 2; 16]),
            group: GroupIndex(0),
            hash: BlockHash([number; 32]),
        }
    }

    fn policy() -> ExistencePolicy {
        ExistencePolicy {
            present_max: 3,
            present_for: Duration::from_mins(1),
            missing_max: 2,
            missing_for: Duration::from_secs(5),
        }
    }

    #[test]
    fn what_was_seen_last_is_known_and_only_for_a_while() {
        let (mut known, now) = (Existence::new(policy()), Instant::now());
        let later = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(known.get(now, &key(1)), None);
        known.set_missing(now, key(1));
        assert_eq!(known.get(later(4), &key(1)), Some(Known::Missing));
        assert_eq!(known.get(later(5), &key(1)), None);
        known.set_present(now, key(1));
        assert_eq!(known.get(later(59), &key(1)), Some(Known::Present));
        assert_eq!(known.get(later(60), &key(1)), None);
        known.set_missing(now, key(1));
        assert_eq!(known.get(now, &key(1)), Some(Known::Missing));
    }

    #[test]
    fn a_spoiled_block_stays_spoiled_until_it_is_replaced_or_gone() {
        let (mut known, now) = (Existence::new(policy()), Instant::now());
        known.set_spoiled(now, key(1));
        known.set_present(now, key(1));
        assert_eq!(known.get(now, &key(1)), Some(Known::Spoiled));
        known.set_good(now, key(1));
        assert_eq!(known.get(now, &key(1)), Some(Known::Present));
        known.set_spoiled(now, key(1));
        known.set_missing(now, key(1));
        assert_eq!(known.get(now, &key(1)), Some(Known::Missing));
    }

    #[test]
    fn both_are_bounded_and_what_was_used_last_stays() {
        let (mut known, now) = (Existence::new(policy()), Instant::now());
        for number in 0..3 {
            known.set_present(now, key(number));
        }
        assert_eq!(known.get(now, &key(0)), Some(Known::Present));
        known.set_present(now, key(3));
        assert_eq!(known.get(now, &key(1)), None);
        assert_eq!(known.get(now, &key(0)), Some(Known::Present));
        for number in 10..20 {
            known.set_missing(now, key(number));
        }
        assert_eq!(known.counts(), (3, 2));
    }

    #[test]
    fn a_namespace_that_is_forgotten_leaves_nothing() {
        let (mut known, now) = (Existence::new(policy()), Instant::now());
        known.set_present(now, key(1));
        known.set_present(now, key(2));
        known.set_missing(now, key(3));
        known.forget(NamespaceId([1; 16]));
        assert_eq!(known.counts(), (1, 0));
        assert_eq!(known.get(now, &key(2)), Some(Known::Present));
    }
}
