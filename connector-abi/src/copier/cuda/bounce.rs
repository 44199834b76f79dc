//! Copies for memory that is not pinned (yet): through a small pinned buffer of two halves, filled and emptied by turns.
//!
//! ```text
//! store   pages ─device─▶ half A ─CPU─▶ slots          while the device fills B
//! load    slots ─CPU─▶ half A ─device─▶ pages          while the CPU fills B
//! ```
//!
//! The thread of the lane does it and waits for the device between halves; the engine's thread does not.

use std::sync::Arc;

use super::context::{Context, Entered, Event, EventPool, PinnedBuffer};
use super::error::DriverError;
use super::issue::Issuer;
use crate::copier::{CopyJob, CopyLoop, Direction, Piece};

/// The buffer of one lane.
pub(super) struct Bounce {
    buffer: PinnedBuffer,
    halves: [Half; 2],
    current: usize,
    copy_loop: CopyLoop,
}

struct Half {
    /// What lies in it, in order; the places follow one another.
    parts: Vec<Piece>,
    used: usize,
    /// The device's last use of it.
    event: Event,
    /// That use may not be over.
    busy: bool,
}

// SAFETY: the addresses of parts are of a batch that may itself move between threads, and are used by one at a time.
unsafe impl Send for Half {}

impl Bounce {
    pub(super) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, DriverError> {
        let entered = context.enter()?;
        let events = EventPool::new(context);
        let half = |event| Half {
            parts: Vec::new(),
            used: 0,
            event,
            busy: false,
        };
        Ok(Self {
            buffer: PinnedBuffer::allocate(context, bytes)?,
            halves: [half(events.take(&entered)?), half(events.take(&entered)?)],
            current: 0,
            copy_loop: CopyLoop::detect(),
        })
    }

    /// Copies a batch. A store is over when this returns; of a load the last halves are on their way.
    pub(super) fn copy(
        &mut self,
        issuer: &mut Issuer,
        entered: &Entered<'_>,
        job: &CopyJob,
    ) -> Result<(), DriverError> {
        let mut outcome = Ok(());
        job.for_each_piece(0..job.page_count(), |piece| {
            let mut left = Some(piece);
            while let (Some(piece), Ok(())) = (left, &outcome) {
                left = self.put(piece);
                if left.is_some() {
                    outcome = self.turn(issuer, entered, job.direction());
                }
            }
        });
        for _ in 0..2 {
            if outcome.is_ok() {
                outcome = self.turn(issuer, entered, job.direction());
            }
        }
        if outcome.is_err() {
            // What the device was given may still be using the halves; the next batch waits for it.
            for half in &mut self.halves {
                half.parts.clear();
                half.used = 0;
            }
        }
        outcome
    }

    /// Puts a piece into the current half; what does not fit is left.
    fn put(&mut self, piece: Piece) -> Option<Piece> {
        let room = self.half_bytes() - self.halves[self.current].used;
        let bytes = piece.bytes.min(room);
        if bytes > 0 {
            let half = &mut self.halves[self.current];
            half.parts.push(Piece { bytes, ..piece });
            half.used += bytes;
        }
        (bytes < piece.bytes).then(|| Piece {
            device: piece.device.wrapping_add(bytes),
            slot: piece.slot.wrapping_add(bytes),
            bytes: piece.bytes - bytes,
        })
    }

    /// Hands the current half to the device and makes the other one ready to be filled.
    fn turn(
        &mut self,
        issuer: &mut Issuer,
        entered: &Entered<'_>,
        direction: Direction,
    ) -> Result<(), DriverError> {
        let current = self.current;
        if !self.halves[current].parts.is_empty() {
            if direction == Direction::Load {
                self.wait(entered, current)?;
                self.move_by_cpu(current, Direction::Load);
            }
            let give = self.give(issuer, entered, current, direction);
            self.halves[current].busy = true;
            // Also after a refusal: pieces before it may have been taken.
            self.halves[current]
                .event
                .record(entered, issuer.stream.handle())?;
            give?;
        }
        self.current = 1 - current;
        if direction == Direction::Store {
            self.wait(entered, self.current)?;
            self.move_by_cpu(self.current, Direction::Store);
        }
        let next = &mut self.halves[self.current];
        next.parts.clear();
        next.used = 0;
        Ok(())
    }

    fn give(
        &mut self,
        issuer: &mut Issuer,
        entered: &Entered<'_>,
        index: usize,
        direction: Direction,
    ) -> Result<(), DriverError> {
        let mut place = self.place(index);
        for part in &self.halves[index].parts {
            issuer
                .pieces()
                .push(direction, part.device.addr(), place.addr(), part.bytes);
            place = place.wrapping_add(part.bytes);
            if issuer.pieces().is_full() {
                issuer.flush(entered)?;
            }
        }
        issuer.flush(entered)
    }

    /// Sleeps until the device is done with a half.
    fn wait(&mut self, entered: &Entered<'_>, index: usize) -> Result<(), DriverError> {
        if self.halves[index].busy {
            self.halves[index].event.synchronize(entered)?;
            self.halves[index].busy = false;
        }
        Ok(())
    }

    /// Moves bytes between a half and slots.
    fn move_by_cpu(&self, index: usize, direction: Direction) {
        let half = &self.halves[index];
        let mut place = self.place(index);
        for part in &half.parts {
            let (source, target) = match direction {
                Direction::Store => (place, part.slot),
                Direction::Load => (part.slot, place),
            };
            let stores = self.copy_loop.choose(direction, half.used as u64, part.bytes);
            // SAFETY: the half has room for its parts and the device is done with it; the slot's bytes are the batch's by
            // its lease or reservation; both are apart.
            unsafe { self.copy_loop.copy(stores, source, target, part.bytes) };
            place = place.wrapping_add(part.bytes);
        }
        self.copy_loop.fence();
    }

    fn half_bytes(&self) -> usize {
        self.buffer.bytes() / 2
    }

    fn place(&self, index: usize) -> *mut u8 {
        self.buffer.base().wrapping_add(index * self.half_bytes())
    }
}
