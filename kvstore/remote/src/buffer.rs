//! Memory of one operation: a block's object from header to end, aligned for direct I/O.
//!
//! Blocks go through this memory and not straight between slot and store, for one reason: an operation at a mount that hangs
//! keeps its memory until the kernel is done with it, which may be never. That must not be a slot. So a slot is free again
//! when its order is answered, and what a store that hangs holds is bounded by the budget. It costs one copy of the bytes,
//! made while they are checksummed.

use std::sync::{Arc, Mutex, PoisonError};

use xxhash_rust::xxh3::Xxh3;

use crate::SlotMemory;
use crate::format::PAGE;

/// Bytes that are copied and checksummed at a time, so that they are in the nearest cache when they are read again.
const PIECE_BYTES: usize = 16 << 10;

/// Buffers that wait to be used again.
#[derive(Debug)]
pub(crate) struct BufferPool {
    free: Mutex<Vec<Vec<u8>>>,
    bytes_max: usize,
}

impl BufferPool {
    /// A pool that keeps at most so many bytes.
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Mutex::default(),
            bytes_max,
        })
    }

    /// A buffer of `bytes` bytes, which may hold anything.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Buffer {
        // One page more, so that an aligned place for all of it is in there wherever the allocation begins.
        let whole = bytes + PAGE;
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let found = free.iter().position(|memory| memory.len() == whole);
        let memory = found.map(|at| free.swap_remove(at));
        drop(free);
        let memory = memory.unwrap_or_else(|| vec![0; whole]);
        let begin = memory.as_ptr().align_offset(PAGE).min(PAGE);
        Buffer {
            memory,
            begin,
            bytes,
            pool: self.clone(),
        }
    }

    fn give_back(&self, memory: Vec<u8>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let kept: usize = free.iter().map(Vec::len).sum();
        if memory.is_empty() || kept + memory.len() > self.bytes_max {
            return;
        }
        free.push(memory);
    }
}

/// Memory that belongs to one operation until it is dropped. It begins on a page.
#[derive(Debug)]
pub(crate) struct Buffer {
    memory: Vec<u8>,
    begin: usize,
    bytes: usize,
    pool: Arc<BufferPool>,
}

impl Buffer {
    /// The memory as a vector and where in it the bytes lie, for those that need to own it. Comes back by
    /// [`put_back`](Self::put_back).
    pub(crate) fn lend(&mut self) -> (Vec<u8>, std::ops::Range<usize>) {
        (
            std::mem::take(&mut self.memory),
            self.begin..self.begin + self.bytes,
        )
    }

    /// The memory is back.
    pub(crate) fn put_back(&mut self, memory: Vec<u8>) {
        self.memory = memory;
    }

    /// Cuts it off behind `bytes` bytes.
    pub(crate) fn truncate(&mut self, bytes: usize) {
        self.bytes = self.bytes.min(bytes);
    }

    /// The first page.
    pub(crate) fn header_mut(&mut self) -> Option<&mut [u8; PAGE]> {
        self.as_mut().first_chunk_mut()
    }

    /// Fills everything behind the first page from memory, and gives its checksum. `None` if it does not lie there.
    pub(crate) fn fill(&mut self, memory: &dyn SlotMemory, offset: u64) -> Option<u128> {
        let mut hasher = Xxh3::new();
        let mut at = offset;
        for piece in self.as_mut().get_mut(PAGE..)?.chunks_mut(PIECE_BYTES) {
            if !memory.copy_out(at, piece) {
                return None;
            }
            hasher.update(piece);
            at += piece.len() as u64;
        }
        Some(hasher.digest128())
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.memory
            .get(self.begin..self.begin + self.bytes)
            .unwrap_or_default()
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self.memory
            .get_mut(self.begin..self.begin + self.bytes)
            .unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.memory));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Slots;

    #[test]
    fn buffers_begin_on_a_page_are_used_again_and_are_bounded() {
        let pool = BufferPool::new(5 * PAGE);
        let places: Vec<Buffer> = (0..3).map(|_| pool.take(PAGE)).collect();
        for buffer in &places {
            assert_eq!(buffer.as_ref().as_ptr().align_offset(PAGE), 0);
            assert_eq!(buffer.as_ref().len(), PAGE);
        }
        let first = places[0].memory.as_ptr();
        drop(places);
        assert_eq!(pool.free.lock().unwrap().len(), 2);
        let again: Vec<Buffer> = (0..2).map(|_| pool.take(PAGE)).collect();
        assert!(again.iter().any(|buffer| buffer.memory.as_ptr() == first));
        assert_eq!(pool.take(2 * PAGE).as_ref().len(), 2 * PAGE);
    }

    #[test]
    fn a_slot_is_copied_behind_the_header_with_its_checksum() {
        let payload: Vec<u8> = (0..3 * PIECE_BYTES + PAGE)
            .map(|at| at.to_le_bytes()[at % 2])
            .collect();
        let slots = Slots::new(payload.len() + 100);
        assert!(slots.copy_in(100, &payload));
        let pool = BufferPool::new(0);
        let mut buffer = pool.take(PAGE + payload.len());
        let sum = buffer.fill(&*slots, 100);
        assert_eq!(sum, Some(xxhash_rust::xxh3::xxh3_128(&payload)));
        assert!(buffer.as_ref()[PAGE..] == payload);
        assert_eq!(buffer.fill(&*slots, 101), None, "it ends outside of the memory");
        assert!(buffer.header_mut().is_some());
        assert!(pool.take(100).header_mut().is_none());
    }
}
