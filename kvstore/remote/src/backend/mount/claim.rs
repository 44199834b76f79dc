//! Bytes of writes that are under way: the file system may not count them yet, and they will come.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::root::At;

/// What was allowed and has ended, ever. Two sums, and not their difference alone: who asks the file system in between has to
/// count what was allowed before the answer and had not ended before the question.
#[derive(Debug, Default)]
pub(super) struct Claims {
    allowed: AtomicU64,
    ended: AtomicU64,
}

impl Claims {
    /// Bytes that have ended until now.
    pub(super) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Acquire)
    }

    /// Bytes that were allowed until now, without those that had ended by then.
    pub(super) fn under_way(&self, ended: u64) -> u64 {
        self.allowed.load(Ordering::Acquire).wrapping_sub(ended)
    }
}

/// The directory for one call, which may write so many bytes. They are under way until this is dropped, however it ended.
#[derive(Debug)]
pub(super) struct Allowed {
    at: Arc<At>,
    claims: Arc<Claims>,
    bytes: u64,
}

impl Allowed {
    pub(super) fn new(at: Arc<At>, claims: &Arc<Claims>, bytes: u64) -> Self {
        claims.allowed.fetch_add(bytes, Ordering::AcqRel);
        Self {
            at,
            claims: claims.clone(),
            bytes,
        }
    }
}

impl Deref for Allowed {
    type Target = Arc<At>;

    fn deref(&self) -> &Arc<At> {
        &self.at
    }
}

impl Drop for Allowed {
    fn drop(&mut self) {
        self.claims.ended.fetch_add(self.bytes, Ordering::AcqRel);
    }
}
