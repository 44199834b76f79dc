//! Memory of one operation: a block's object from header to end, aligned for direct I/O.
//!
//! Blocks go through this memory and not straight between slot and store, for one reason: an operation at a mount that hangs
//! keeps its memory until the kernel is done with it, which may be never. That must not be a slot. So a slot is free again
//! when its order is answered, and what a store that hangs holds is bounded by the budget. It costs one copy of the bytes,
//! made while they are checksummed.

mod memory;

use std::sync::{Arc, Mutex, PoisonError};

use xxhash_rust::xxh3::Xxh3;

use crate::SlotMemory;
use crate::format::PAGE;
pub(crate) use memory::Memory;

/// Bytes that are copied and checksummed at a time, so that they are in the nearest cache when they are read again.
const PIECE_BYTES: usize = 16 << 10;

/// Buffers that wait to be used again.
#[derive(Debug)]
pub(crate) struct BufferPool {
    free: Mutex<Vec<Place>>,
    bytes_max: usize,
}

/// So many bytes somewhere in a memory.
#[derive(Debug)]
struct Place {
    memory: Memory,
    begin: usize,
    bytes: usize,
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
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let found = free.iter().position(|place| place.bytes == bytes);
        let place = found.map(|at| free.swap_remove(at));
        drop(free);
        let place = place.unwrap_or_else(|| {
            let (memory, begin) = Memory::make(bytes);
            Place { memory, begin, bytes }
        });
        Buffer {
            place,
            bytes,
            pool: self.clone(),
        }
    }

    fn give_back(&self, place: Place) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let kept: usize = free.iter().map(|place| place.bytes).sum();
        if place.memory.is_empty() || kept + place.bytes > self.bytes_max {
            return;
        }
        free.push(place);
    }
}

/// Memory that belongs to one operation until it is dropped. It begins on a page.
#[derive(Debug)]
pub(crate) struct Buffer {
    place: Place,
    /// As many as it was asked for, or fewer.
    bytes: usize,
    pool: Arc<BufferPool>,
}

impl Buffer {
    /// The memory and where in it the bytes lie, for those that need to own it. Comes back by [`put_back`](Self::put_back).
    pub(crate) fn lend(&mut self) -> (Memory, std::ops::Range<usize>) {
        let begin = self.place.begin;
        (std::mem::take(&mut self.place.memory), begin..begin + self.bytes)
    }

    /// The memory is back.
    pub(crate) fn put_back(&mut self, memory: Memory) {
        self.place.memory = memory;
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
        let begin = self.place.begin;
        self.place
            .memory
            .as_ref()
            .get(begin..begin + self.bytes)
            .unwrap_or_default()
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        let begin = self.place.begin;
        self.place
            .memory
            .as_mut()
            .get_mut(begin..begin + self.bytes)
            .unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let place = Place {
            memory: std::mem::take(&mut self.place.memory),
            ..self.place
        };
        self.pool.give_back(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Slots;

    #[test]
    fn buffers_begin_on_a_page_are_used_again_and_are_bounded() {
        let pool = BufferPool::new(2 * PAGE);
        let places: Vec<Buffer> = (0..3).map(|_| pool.take(PAGE)).collect();
        for buffer in &places {
            assert_eq!(buffer.as_ref().as_ptr().align_offset(PAGE), 0);
            assert_eq!(buffer.as_ref().len(), PAGE);
        }
        let first = places[0].as_ref().as_ptr();
        drop(places);
        assert_eq!(pool.free.lock().unwrap().len(), 2);
        let again: Vec<Buffer> = (0..2).map(|_| pool.take(PAGE)).collect();
        assert!(again.iter().any(|buffer| buffer.as_ref().as_ptr() == first));
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
