//! Blocks are fetched from the remote tier into slots.

use kvstore_types::{DescriptorBytes, ReadClass, Tier};

use crate::block::{BlockIndex, BlockState};
use crate::effect::{Effect, Effects, RemoteOrder, RemovalCause};
use crate::engine::Engine;
use crate::event::RemoteOutcome;
use crate::nvme::Source;
use crate::pool::{Effort, Out};
use crate::remote::Operation;
use crate::steps::nvme::bytes;

impl Engine {
    /// Begins to fetch a block that is in the remote tier only. False if it has to stay there: the tier is out of service,
    /// as much as may be is on its way, or no slot can be had.
    pub(crate) fn fetch(&mut self, block: BlockIndex, effort: &mut Effort, effects: &mut Effects) -> bool {
        let record = *self.pool.blocks.get(block);
        debug_assert_eq!(record.state, BlockState::Remote);
        if !self.remote.serves_reads() {
            return false;
        }
        let pages = self.pool.pages_of(record.space);
        let max = self
            .remote
            .config
            .as_ref()
            .map_or(0, |config| config.promotion_bytes_max);
        let under_way = self.nvme.promotions.bytes;
        if under_way > 0 && under_way.saturating_add(bytes(pages)) > max {
            self.counters.remote_fetch_over_bound += 1;
            return false;
        }
        let promotion = self.nvme.promotions.next();
        let out = &mut Out {
            counters: &mut self.counters,
            effects,
        };
        let Some(slot) = self.pool.take_for_promotion(block, promotion, effort, out) else {
            self.counters.remote_fetch_no_space += 1;
            return false;
        };
        self.keep_remote_namespace(record.space.namespace(), effects);
        let operation = self.nvme.next_operation();
        self.remote
            .operations
            .insert(operation, Operation::Fetch { promotion });
        self.remote.fetches += 1;
        effects.list.push(Effect::Remote(RemoteOrder::Fetch {
            operation,
            slot,
            key: self.pool.key(&record),
            class: ReadClass::Demand,
        }));
        self.nvme.promotions.add(block, Source::Remote, pages, operation);
        true
    }

    /// A fetch has ended: the block is resident, or a miss.
    pub(super) fn on_fetched(
        &mut self,
        promotion: u32,
        outcome: RemoteOutcome,
        descriptor: Option<&DescriptorBytes>,
        effects: &mut Effects,
    ) {
        self.remote.fetches -= 1;
        let mut waiters = std::mem::take(&mut self.scratch.waiters);
        let Some(over) = self.nvme.promotions.remove(promotion, &mut waiters) else {
            return;
        };
        let block = over.block;
        let is_done = outcome == RemoteOutcome::Done;
        if is_done {
            self.counters.remote_fetched += 1;
            self.counters.remote_fetched_bytes += bytes(over.pages);
            let namespace = self.pool.blocks.get(block).space.namespace();
            self.pool.spaces.get_mut(namespace).traffic.remote_read_bytes += bytes(over.pages);
            if self.pool.blocks.describe(block, descriptor) {
                self.announce_described(block, effects);
            }
            self.publish_promoted(block, effects);
        } else {
            self.count_missed_fetch(outcome);
            // What could not be had may be there all the same.
            let gone = match outcome {
                RemoteOutcome::Missing => Some(RemovalCause::Missing),
                RemoteOutcome::Corrupt => Some(RemovalCause::Corrupt),
                _ => None,
            };
            if let Some(cause) = gone {
                self.drop_remote(block, cause, effects);
            }
            self.pool.end_promotion(block);
        }
        let arrived = is_done.then_some(block);
        for wait in waiters.drain(..) {
            self.promotion_ended(wait, arrived, Tier::Remote, effects);
        }
        self.scratch.waiters = waiters;
    }

    fn count_missed_fetch(&mut self, outcome: RemoteOutcome) {
        let counters = &mut self.counters;
        *match outcome {
            RemoteOutcome::Missing => &mut counters.remote_fetch_missing,
            RemoteOutcome::Corrupt => &mut counters.remote_fetch_corrupt,
            RemoteOutcome::TimedOut => &mut counters.remote_fetch_late,
            RemoteOutcome::Refused => &mut counters.remote_fetch_refused,
            RemoteOutcome::Done
            | RemoteOutcome::AlreadyPresent
            | RemoteOutcome::NoSpace
            | RemoteOutcome::Unavailable => &mut counters.remote_fetch_failed,
        } += 1;
    }
}
