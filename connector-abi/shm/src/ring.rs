//! A ring of bytes between one producer and one consumer that do not trust each other.
//!
//! Cursors count the bytes ever written (`tail`) and read (`head`); messages are multiples of 8 bytes and may wrap.
//!
//! ```text
//!            head                    tail
//!   ┌─────────┼────────────────────────┼─────────────┐
//!   │  free   │ message │ message │ …  │    free     │   capacity: a power of two
//!   └─────────┴────────────────────────┴─────────────┘
//! ```
//!
//! Invariants
//! - Each side keeps its own cursor in private memory and never reads it back, so the peer can only lie about its own.
//! - `head <= tail <= head + capacity` on both sides; whatever else the peer publishes is a [`PeerCursorError`].
//! - A side that sleeps sets its flag and then looks again; the other publishes and then looks at the flag. With a
//!   sequentially consistent fence between the two steps on both sides, one of them sees the other. Whoever
//!   finds the flag set clears it and rings, so each sleep costs one ring.

use crate::{
    MESSAGE_BYTES_MIN, MessageBuffer,
    memory::RingMemory,
    primitive::{AtomicU32, Ordering, fence},
};

/// The other side's part of a ring is not sound. Whoever finds this gives up the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerCursorError {
    /// The peer's cursor is not within one capacity of ours, or not a multiple of 8.
    #[error(
        "the peer's cursor is {cursor} where ours is {own}: want a multiple of 8 within {capacity} bytes of it"
    )]
    Cursor {
        /// What the peer published.
        cursor: u64,
        /// Our own cursor.
        own: u64,
        /// Capacity of the ring.
        capacity: u64,
    },
    /// A message says a length it cannot have.
    #[error(
        "a message says it has {length} bytes: want a multiple of 8, from 32 to the {filled} bytes that are there"
    )]
    Length {
        /// The length it says.
        length: u32,
        /// Bytes the peer has published.
        filled: u64,
    },
}

/// Why a message cannot be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BeginError {
    /// There is no room now.
    #[error("the ring is full: {needed} bytes are needed, {free} are free")]
    Full {
        /// Bytes of the message.
        needed: usize,
        /// Bytes that are free.
        free: usize,
    },
    /// There will never be room.
    #[error("the message has {needed} bytes, the ring takes at most {capacity}")]
    TooLarge {
        /// Bytes of the message.
        needed: usize,
        /// Capacity of the ring.
        capacity: usize,
    },
    /// The consumer's cursor is not sound.
    #[error(transparent)]
    Peer(#[from] PeerCursorError),
}

/// What a consumer that wants to sleep should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "sleeping although something is there loses a wake-up"]
pub enum Sleep {
    /// There is something to do: the flag has been taken back.
    Stay,
    /// Nothing is there, and the peer will ring when that changes.
    Go,
}

/// The writing end of a ring.
#[derive(Debug)]
pub struct Producer {
    memory: RingMemory,
    tail: u64,
    head_seen: u64,
}

/// The reading end of a ring.
#[derive(Debug)]
pub struct Consumer {
    memory: RingMemory,
    head: u64,
}

/// A message that is being written. Nothing of it is visible before [`commit`](Self::commit).
#[derive(Debug)]
#[must_use = "a message that is not committed is not sent"]
pub struct Writer<'a> {
    producer: &'a mut Producer,
    at: u64,
    end: u64,
}

impl Producer {
    pub(crate) fn new(memory: RingMemory) -> Self {
        Self {
            memory,
            tail: 0,
            head_seen: 0,
        }
    }

    /// Bytes the ring holds.
    pub fn capacity(&self) -> usize {
        self.memory.capacity()
    }

    /// Begins a message of `length` bytes: a multiple of 8, at least 32.
    pub fn begin(&mut self, length: usize) -> Result<Writer<'_>, BeginError> {
        assert!(
            length.is_multiple_of(8) && length >= MESSAGE_BYTES_MIN,
            "messages are padded to 8 bytes"
        );
        let capacity = self.memory.capacity();
        if length > capacity {
            return Err(BeginError::TooLarge {
                needed: length,
                capacity,
            });
        }
        if self.free() < length {
            self.refresh_head()?;
        }
        let free = self.free();
        if free < length {
            return Err(BeginError::Full { needed: length, free });
        }
        let (at, end) = (self.tail, self.tail.wrapping_add(length as u64));
        Ok(Writer {
            producer: self,
            at,
            end,
        })
    }

    /// Whether the consumer sleeps and has to be rung. Clears its flag. Call after committing, once for a batch.
    #[must_use = "the consumer sleeps until somebody rings"]
    pub fn take_consumer_sleeping(&mut self) -> bool {
        take_flag(self.memory.consumer_sleeping())
    }

    /// Asks the consumer to ring once it has made room. `Stay`: there is room for `length` bytes already.
    pub fn begin_wait(&mut self, length: usize) -> Result<Sleep, PeerCursorError> {
        raise_flag(self.memory.producer_waiting());
        self.refresh_head()?;
        if self.free() < length {
            return Ok(Sleep::Go);
        }
        self.end_wait();
        Ok(Sleep::Stay)
    }

    /// Takes back the wish of [`begin_wait`](Self::begin_wait).
    pub fn end_wait(&mut self) {
        self.memory.producer_waiting().store(0, Ordering::Relaxed);
    }

    /// Whether the consumer has read everything.
    pub fn is_drained(&mut self) -> Result<bool, PeerCursorError> {
        self.refresh_head()?;
        Ok(self.head_seen == self.tail)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most the capacity, which is a usize"
    )]
    fn free(&self) -> usize {
        self.memory.capacity() - self.tail.wrapping_sub(self.head_seen) as usize
    }

    fn refresh_head(&mut self) -> Result<(), PeerCursorError> {
        // SYNC(bytes read): pairs with the Release store in `Consumer::pop_into`; the consumer's copy is done.
        let cursor = self.memory.head().load(Ordering::Acquire);
        let capacity = self.memory.capacity() as u64;
        // A head may only move forward, and never beyond what has been published.
        if self.tail.wrapping_sub(cursor) > self.tail.wrapping_sub(self.head_seen)
            || !cursor.is_multiple_of(8)
        {
            return Err(PeerCursorError::Cursor {
                cursor,
                own: self.tail,
                capacity,
            });
        }
        self.head_seen = cursor;
        Ok(())
    }
}

impl Writer<'_> {
    /// Bytes that are still to be written.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most the capacity, which is a usize"
    )]
    pub fn remaining(&self) -> usize {
        self.end.wrapping_sub(self.at) as usize
    }

    /// Appends to the message. Copies in at most two pieces.
    ///
    /// # Panics
    /// If the message would become longer than it was begun with.
    pub fn write(&mut self, bytes: &[u8]) {
        assert!(
            bytes.len() <= self.remaining(),
            "a message is no longer than it was begun with"
        );
        let memory = &self.producer.memory;
        let at = position(self.at, memory.capacity());
        let (first, second) = bytes.split_at(bytes.len().min(memory.capacity() - at));
        memory.write(at, first);
        memory.write(0, second);
        self.at = self.at.wrapping_add(bytes.len() as u64);
    }

    /// Pads the message with zeros and publishes it.
    ///
    /// # Panics
    /// If more than padding is missing.
    pub fn commit(mut self) {
        let padding = self.remaining();
        assert!(padding < 8, "a message is as long as it was begun with");
        self.write(&[0; 8][..padding]);
        self.producer.tail = self.end;
        // SYNC(message published): pairs with the Acquire load in `Consumer::filled`.
        self.producer.memory.tail().store(self.end, Ordering::Release);
    }
}

impl Consumer {
    pub(crate) fn new(memory: RingMemory) -> Self {
        Self { memory, head: 0 }
    }

    /// Bytes the ring holds.
    pub fn capacity(&self) -> usize {
        self.memory.capacity()
    }

    /// Takes the next message, copied out of shared memory exactly once.
    pub fn pop_into<'b>(
        &mut self,
        buffer: &'b mut MessageBuffer,
    ) -> Result<Option<&'b [u8]>, PeerCursorError> {
        let filled = self.filled()?;
        if filled == 0 {
            return Ok(None);
        }
        // The first eight bytes never wrap, because cursors and capacity are multiples of eight. They are kept as
        // read: reading the length a second time would let the peer change it after the check.
        let mut first = [0; 8];
        self.memory
            .read(position(self.head, self.memory.capacity()), &mut first);
        let [a, b, c, d, ..] = first;
        let length = u32::from_le_bytes([a, b, c, d]);
        if !length.is_multiple_of(8) || (length as usize) < MESSAGE_BYTES_MIN || u64::from(length) > filled {
            return Err(PeerCursorError::Length { length, filled });
        }
        let message = buffer.reserve(length as usize);
        message[..8].copy_from_slice(&first);
        self.copy_out(self.head.wrapping_add(8), &mut message[8..]);
        self.head = self.head.wrapping_add(u64::from(length));
        // SYNC(bytes read): pairs with the Acquire load in `Producer::refresh_head`; the space may be written again.
        self.memory.head().store(self.head, Ordering::Release);
        Ok(Some(message))
    }

    /// Whether no message is there.
    pub fn is_empty(&mut self) -> Result<bool, PeerCursorError> {
        Ok(self.filled()? == 0)
    }

    /// Whether the producer waits for room and has to be rung. Clears its flag. Call after popping, once for a batch.
    #[must_use = "the producer waits until somebody rings"]
    pub fn take_producer_waiting(&mut self) -> bool {
        take_flag(self.memory.producer_waiting())
    }

    /// Says that this side is about to sleep, unless a message is there.
    pub fn begin_sleep(&mut self) -> Result<Sleep, PeerCursorError> {
        raise_flag(self.memory.consumer_sleeping());
        if self.filled()? == 0 {
            return Ok(Sleep::Go);
        }
        self.end_sleep();
        Ok(Sleep::Stay)
    }

    /// Says that this side is awake.
    pub fn end_sleep(&mut self) {
        self.memory.consumer_sleeping().store(0, Ordering::Relaxed);
    }

    fn filled(&self) -> Result<u64, PeerCursorError> {
        // SYNC(message published): pairs with the Release store in `Writer::commit`.
        let cursor = self.memory.tail().load(Ordering::Acquire);
        let filled = cursor.wrapping_sub(self.head);
        let capacity = self.memory.capacity() as u64;
        if filled > capacity || !filled.is_multiple_of(8) {
            return Err(PeerCursorError::Cursor {
                cursor,
                own: self.head,
                capacity,
            });
        }
        Ok(filled)
    }

    fn copy_out(&self, cursor: u64, bytes: &mut [u8]) {
        let at = position(cursor, self.memory.capacity());
        let pieces = bytes.len().min(self.memory.capacity() - at);
        let (first, second) = bytes.split_at_mut(pieces);
        self.memory.read(at, first);
        self.memory.read(0, second);
    }
}

fn raise_flag(flag: &AtomicU32) {
    flag.store(1, Ordering::Relaxed);
    // SYNC(sleeper's fence): pairs with the fence in `take_flag`. Either we see what the peer published before it,
    // or the peer sees our flag after it.
    fence(Ordering::SeqCst);
}

fn take_flag(flag: &AtomicU32) -> bool {
    // SYNC(publisher's fence): pairs with the fence in `raise_flag`.
    fence(Ordering::SeqCst);
    flag.load(Ordering::Relaxed) != 0 && flag.swap(0, Ordering::Relaxed) != 0
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "masked to less than the capacity, which is a usize"
)]
fn position(cursor: u64, capacity: usize) -> usize {
    (cursor & (capacity as u64 - 1)) as usize
}

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
