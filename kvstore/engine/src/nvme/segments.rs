//! The segments of one device.
//!
//! ```text
//!           create        open, answered       no room left     reclaim: blocks leave or are carried over
//!   Absent ───────▶ Free ──▶ Opening ──▶ Open ──────────▶ Full ──────────▶ Reclaiming
//!     ▲              ▲│                                    │ emptied            │ nothing in it, nothing under way
//!     └── Deleting ◀──┘◀───────────────────────────────────┴────────────────────┘
//! ```
//!
//! Invariants
//! - A segment is opened only when no copy is in it and no read, move, verification or write of it is under way.
//! - Pages are handed out once in each use of a segment, in order (`tail`).
//! - There are never more files than `segments_max`, but for those that wait to be deleted.

use std::collections::{BTreeSet, VecDeque};

use super::extents::Chain;

/// Where a segment is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum SegmentState {
    /// There is no file.
    Absent,
    /// Its file is being made.
    Creating,
    /// Its file could not be deleted, or not be opened at the start. It counts, and is not used.
    Broken,
    /// Told at start, while its blocks are being told.
    Found,
    /// Nothing in it is wanted.
    Free,
    /// Its next use is being begun.
    Opening,
    /// It takes writes.
    Open,
    /// It takes no more writes.
    Full,
    /// Its copies are leaving.
    Reclaiming,
    /// Its file is being deleted.
    Deleting,
}

const STATES: usize = 10;

/// One segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) state: SegmentState,
    pub(crate) generation: u64,
    /// The first page that has not been handed out.
    pub(crate) tail: u32,
    pub(crate) chain: Chain,
    /// Reads, moves from it and verifications under way.
    pub(crate) readers: u32,
    /// Writes and moves to it under way.
    pub(crate) writers: u32,
    /// Whether the device has been told that it is full.
    pub(crate) is_told_full: bool,
}

const ABSENT: Segment = Segment {
    state: SegmentState::Absent,
    generation: 0,
    tail: 1,
    chain: Chain::EMPTY,
    readers: 0,
    writers: 0,
    is_told_full: false,
};

/// All segments of one device.
#[derive(Debug)]
pub(crate) struct Segments {
    list: Vec<Segment>,
    counts: [u32; STATES],
    free: BTreeSet<u32>,
    /// No segment below this one is absent.
    absent_from: u32,
    /// Pages of a segment.
    pages: u32,
    /// The one that is being written.
    pub(crate) current: Option<u32>,
    /// The one that comes next, opened ahead.
    pub(crate) ahead: Option<u32>,
    /// Those that an earlier run left partly written.
    pub(crate) partial: VecDeque<u32>,
    /// The highest generation of any of them: each use of a segment gets a higher one, so that they tell the age.
    generation: u64,
}

impl Segments {
    /// None.
    pub(crate) fn new(pages: u32) -> Self {
        Self {
            list: Vec::new(),
            counts: [0; STATES],
            free: BTreeSet::new(),
            absent_from: 0,
            pages,
            current: None,
            ahead: None,
            partial: VecDeque::new(),
            generation: 0,
        }
    }

    /// Pages of a segment.
    pub(crate) const fn pages(&self) -> u32 {
        self.pages
    }

    /// All of them by number, absent ones included.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Segment)> {
        (0_u32..).zip(&self.list)
    }

    /// A segment; one that was never heard of is absent.
    pub(crate) fn get(&self, index: u32) -> &Segment {
        self.list.get(index as usize).unwrap_or(&ABSENT)
    }

    /// A segment, to be changed. Its state is changed by [`set_state`](Self::set_state).
    pub(crate) fn get_mut(&mut self, index: u32) -> &mut Segment {
        let len = self.list.len().max(index as usize + 1);
        if len > self.list.len() {
            self.counts[SegmentState::Absent as usize] +=
                u32::try_from(len - self.list.len()).unwrap_or(u32::MAX);
            self.list.resize(len, ABSENT);
        }
        &mut self.list[index as usize]
    }

    /// How many are in a state.
    pub(crate) const fn count(&self, state: SegmentState) -> u32 {
        self.counts[state as usize]
    }

    /// Files there are, or may be.
    pub(crate) fn existing(&self) -> u32 {
        u32::try_from(self.list.len()).unwrap_or(u32::MAX) - self.count(SegmentState::Absent)
    }

    /// Changes a segment's state.
    pub(crate) fn set_state(&mut self, index: u32, state: SegmentState) {
        let before = std::mem::replace(&mut self.get_mut(index).state, state);
        self.counts[before as usize] -= 1;
        self.counts[state as usize] += 1;
        match state {
            SegmentState::Free => {
                self.free.insert(index);
            }
            SegmentState::Absent => {
                self.absent_from = self.absent_from.min(index);
                *self.get_mut(index) = ABSENT;
            }
            _ => {}
        }
        if before == SegmentState::Free && state != SegmentState::Free {
            self.free.remove(&index);
        }
    }

    /// A segment told at start.
    pub(crate) fn found(&mut self, index: u32, generation: u64, tail: u32) {
        self.set_state(index, SegmentState::Found);
        let pages = self.pages;
        let segment = self.get_mut(index);
        segment.generation = generation;
        segment.tail = tail.clamp(1, pages);
        self.generation = self.generation.max(generation);
    }

    /// The lowest number without a file.
    pub(crate) fn first_absent(&mut self) -> u32 {
        while self.get(self.absent_from).state != SegmentState::Absent {
            self.absent_from += 1;
        }
        self.absent_from
    }

    /// A free one.
    pub(crate) fn first_free(&self) -> Option<u32> {
        self.free.first().copied()
    }

    /// Begins the next use of a free segment, which is to be opened. The answer is its new generation.
    pub(crate) fn open(&mut self, index: u32) -> u64 {
        self.set_state(index, SegmentState::Opening);
        self.generation += 1;
        let generation = self.generation;
        let segment = self.get_mut(index);
        debug_assert!(segment.chain.len == 0 && segment.readers == 0 && segment.writers == 0);
        segment.generation = generation;
        segment.tail = 1;
        segment.is_told_full = false;
        self.ahead = Some(index);
        generation
    }

    /// Whether a block of so many pages could be written now.
    pub(crate) fn has_room(&self, pages: u32) -> bool {
        let fits = |index: u32| pages <= self.pages - self.get(index).tail;
        self.current.is_some_and(fits)
    }

    /// Takes pages of the current segment for a write.
    pub(crate) fn allocate(&mut self, pages: u32) -> Option<(u32, u32)> {
        let current = self.current.filter(|_| self.has_room(pages))?;
        let segment = self.get_mut(current);
        let page = segment.tail;
        segment.tail += pages;
        segment.writers += 1;
        Some((current, page))
    }

    /// Takes the next segment that is ready for writing as the current one. False if there is none, or one is current.
    pub(crate) fn advance(&mut self) -> bool {
        if self.current.is_some() {
            return false;
        }
        let ahead = self
            .ahead
            .filter(|&ahead| self.get(ahead).state == SegmentState::Open);
        self.current = self.partial.pop_front().or(ahead);
        if self.current == self.ahead {
            self.ahead = None;
        }
        self.current.is_some()
    }

    /// The full segment that was opened longest ago and that nothing is being written to.
    pub(crate) fn oldest_full(&self) -> Option<u32> {
        let full = self
            .iter()
            .filter(|(_, segment)| segment.state == SegmentState::Full && segment.writers == 0);
        full.min_by_key(|(_, segment)| segment.generation)
            .map(|(index, _)| index)
    }
}
