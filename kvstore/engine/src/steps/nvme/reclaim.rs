//! A segment is emptied, to be written anew: copies that were hit since they were written are carried over, the others
//! leave. What an administrator wants kept is carried over in any case.

use std::time::Instant;

use super::write_back::bytes;
use crate::block::{ExtentHandle, mark};
use crate::effect::{Effects, NvmeOrder, RemovalCause};
use crate::engine::Engine;
use crate::nvme::{END, Operation, Place, Reclaim, SegmentState};

/// Blocks on their way from one segment to another at a device at a time.
const MOVES_MAX: u32 = 4;

/// What becomes of a copy.
enum Fate {
    /// It is carried over.
    Move,
    /// It leaves.
    Drop,
    /// It is not known yet.
    Wait,
}

impl Engine {
    /// Reclaims as far as can be done at once. True if anything changed.
    pub(super) fn reclaim(
        &mut self,
        now: Instant,
        index: usize,
        budget: &mut u32,
        effects: &mut Effects,
    ) -> bool {
        let before = self.nvme.devices[index].reclaim.is_some();
        if !before && !self.begin_reclaim(now, index) {
            return false;
        }
        let mut has_changed = !before;
        while *budget > 0 {
            let Some(reclaim) = self.nvme.devices[index].reclaim else {
                // The last copy has left.
                return true;
            };
            if reclaim.cursor == END {
                // What is left is on its way out; a move, a read or a verification ends it.
                if self.nvme.devices[index].settle(reclaim.victim) {
                    continue;
                }
                return has_changed;
            }
            let handle = ExtentHandle(reclaim.cursor);
            match self.judge_copy(now, index, handle, reclaim, effects) {
                Fate::Wait => return has_changed,
                Fate::Move => self.order_move(index, handle, effects),
                Fate::Drop => {
                    let block = self.nvme.extents.get(handle).block;
                    self.counters.nvme_reclaimed_blocks += 1;
                    self.nvme.devices[index].reclaimed_in_vain = 0;
                    // This moves the cursor.
                    self.drop_copy(block, RemovalCause::Reclaimed, effects);
                }
            }
            *budget -= 1;
            has_changed = true;
        }
        has_changed
    }

    /// Chooses a segment, if one has to be reclaimed.
    fn begin_reclaim(&mut self, now: Instant, index: usize) -> bool {
        let Some(config) = &self.nvme.config else {
            return false;
        };
        let device = &mut self.nvme.devices[index];
        device.is_reclaiming = device.wants_reclaim(now, &config.tuning);
        let victim = device.segments.oldest_full().filter(|_| device.is_reclaiming);
        let Some(victim) = victim else {
            return false;
        };
        let existing = device.segments.existing();
        device.segments.set_state(victim, SegmentState::Reclaiming);
        device.reclaim = Some(Reclaim {
            victim,
            cursor: device.segments.get(victim).chain.first,
            carried_bytes: 0,
            // Having gone through all segments without a copy that left, more of the same would make no room either: a
            // device of few segments may be unable to keep what it should.
            spares_kept: device.reclaimed_in_vain <= existing,
        });
        true
    }

    fn judge_copy(
        &mut self,
        now: Instant,
        index: usize,
        handle: ExtentHandle,
        reclaim: Reclaim,
        effects: &mut Effects,
    ) -> Fate {
        let record = self.pool.blocks.get(self.nvme.extents.get(handle).block);
        let (is_hit, pages) = (record.has(mark::HIT), self.pool.pages_of(record.space));
        let is_kept = record.has(mark::KEPT_ON_NVME);
        let device = &self.nvme.devices[index];
        let most = bytes(device.segments.pages()) / 2;
        // What is kept goes along whole, as long as it is no more than may be kept.
        let is_whole =
            is_kept && reclaim.spares_kept && self.pool.keeps.nvme_bytes <= self.kept_nvme_bytes_max();
        let is_worth_it = is_whole || is_hit && reclaim.carried_bytes + bytes(pages) <= most;
        if !is_worth_it || device.suspension.is_some() {
            return Fate::Drop;
        }
        if device.moves >= MOVES_MAX {
            return Fate::Wait;
        }
        if !self.make_room_for_carried(now, index, pages, effects) {
            return Fate::Drop;
        }
        if self.nvme.devices[index].segments.has_room(pages) {
            Fate::Move
        } else {
            Fate::Wait
        }
    }

    fn order_move(&mut self, index: usize, handle: ExtentHandle, effects: &mut Effects) {
        let entry = *self.nvme.extents.get(handle);
        let record = *self.pool.blocks.get(entry.block);
        let (pages, key) = (self.pool.pages_of(record.space), self.pool.key(&record));
        let device = &mut self.nvme.devices[index];
        let Some((segment, page)) = device.segments.allocate(pages) else {
            return;
        };
        device.moves += 1;
        // Carried-over bytes count, and do not wait: new blocks wait for them, as long as a debt of the rate lasts.
        device.write_tokens.take(bytes(pages));
        if let Some(reclaim) = &mut device.reclaim {
            reclaim.cursor = entry.next;
            reclaim.carried_bytes += bytes(pages);
        }
        device.segments.get_mut(entry.place.index()).readers += 1;
        let to = Place::new(index, segment, page);
        let operation = Operation::Move {
            extent: handle,
            from: entry.place,
            to,
            pages,
        };
        let (from, to) = (
            self.nvme.extent_at(entry.place, pages),
            self.nvme.extent_at(to, pages),
        );
        let order = |operation| NvmeOrder::Move {
            operation,
            from,
            to,
            key,
        };
        self.order(index, operation, order, effects);
    }
}
