//! An administrator lets blocks leave and moves the watermarks.

use kvstore_types::{BlockKey, NamespaceId, Tier};

use super::world::World;
use crate::effect::Effect;
use crate::event::{Event, EvictRange};
use crate::steps::Evicted;

impl World {
    /// The blocks of a namespace, or all, leave a tier, or every one: first counted, then for true.
    pub(super) fn evict(&mut self) {
        let residents = self.model.residents.keys().copied();
        let below = self.model.stored.iter().chain(&self.model.remote);
        let known: Vec<BlockKey> = residents.chain(below.copied()).collect();
        let namespace = match self.random.below(4) {
            0 => None,
            1 => Some(NamespaceId([0x5a; 16])),
            _ => self.random.pick(&known).map(|key| key.namespace),
        };
        let tier = self
            .random
            .pick(&[None, Some(Tier::Host), Some(Tier::Nvme), Some(Tier::Remote)])
            .flatten();
        // Also cursors that no answer gave.
        let cursor = self.random.pick(&[0, 0, 0, 3, u32::MAX]).unwrap_or(0);
        let mut ask = EvictRange {
            namespace,
            tier,
            cursor,
            is_dry_run: true,
        };
        let removed = |world: &Self| {
            let counters = world.engine.counters();
            [
                counters.removed_on_request,
                counters.nvme_removed_on_request,
                counters.remote_removed_on_request,
            ]
        };
        let before = removed(self);
        let promised = self.evict_step(ask);
        assert_eq!(removed(self), before, "what is only counted stays");
        ask.is_dry_run = false;
        let done = self.evict_step(ask);
        let after = removed(self);
        assert_eq!(
            [done.host_blocks, done.nvme_blocks, done.remote_blocks],
            [0, 1, 2].map(|at| after[at] - before[at]),
            "an eviction counts what left"
        );
        assert!(
            promised.host_blocks + promised.nvme_blocks + promised.remote_blocks + promised.busy_blocks
                <= known.len() as u64
                    + self.model.reservations.len() as u64
                    + self.model.transfers.len() as u64,
            "no more is counted than there is"
        );
        if cursor == 0 && done.next.is_none() {
            // What is left of it is in use, or came back as the next step wrote it.
            let again = self.evict_step(EvictRange {
                is_dry_run: true,
                ..ask
            });
            let left = again.host_blocks + again.remote_blocks;
            assert_eq!(left, 0, "what was asked to leave has left");
        }
    }

    fn evict_step(&mut self, ask: EvictRange) -> Evicted {
        self.step(Event::EvictRange(ask));
        let answer = self.effects.list.iter().find_map(|effect| match effect {
            Effect::RangeEvicted(evicted) => Some(*evicted),
            _ => None,
        });
        let Some(answer) = answer else {
            panic!("an eviction got no answer")
        };
        answer
    }

    /// The watermarks move, sometimes to nonsense.
    pub(super) fn tune_host(&mut self) {
        let choices = [(0.5, 0.7), (0.8, 1.0), (0.2, 0.95), (0.9, 0.1), (f64::NAN, 1.0)];
        if let Some((watermark_low, watermark_high)) = self.random.pick(&choices) {
            self.step(Event::HostTuned {
                watermark_low,
                watermark_high,
            });
        }
    }
}
