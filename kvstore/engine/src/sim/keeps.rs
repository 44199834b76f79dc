//! An administrator wants blocks to stay, and changes their mind.

use std::collections::BTreeSet;

use kvstore_types::{BlockKey, NamespaceId, Tier};

use super::world::World;
use crate::block::mark;
use crate::effect::{Effect, RemovalCause};
use crate::event::{Event, KeepAsk};
use crate::steps::{KeepRefusal, Kept};

impl World {
    /// A namespace, some blocks or nothing are to stay from now on.
    pub(super) fn keep(&mut self) {
        let residents = self.model.residents.keys().copied();
        let known: Vec<BlockKey> = residents.chain(self.model.stored.iter().copied()).collect();
        let keeps: Vec<u64> = self.engine.keeps().map(|keep| keep.keep).collect();
        // Also cursors that no answer gave, and wishes nobody made.
        let cursor = self.random.pick(&[0, 0, 0, 3, u32::MAX]).unwrap_or(0);
        match self.random.below(10) {
            0..3 => {
                let namespace = self.random.pick(&known).map(|key| key.namespace);
                let namespace = namespace.unwrap_or(NamespaceId([0x5a; 16]));
                if let Ok(kept) = self.keep_step(KeepAsk::Namespace { namespace, cursor }) {
                    self.check_kept_namespace(namespace, cursor, kept);
                }
            }
            3..7 => {
                let count = self.random.below(6);
                let keys: Vec<BlockKey> = (0..count).filter_map(|_| self.random.pick(&known)).collect();
                let keep = if self.random.chance(30) {
                    self.random.pick(&keeps)
                } else {
                    None
                };
                let _ = self.keep_step(KeepAsk::Blocks { keep, keys: &keys });
            }
            _ => {
                let keep = self.random.pick(&keeps).unwrap_or(77_777);
                let _ = self.keep_step(KeepAsk::End { keep });
                let seen = self.engine.occupancy();
                let is_over = self.engine.keeps().next().is_none();
                assert!(
                    !is_over || seen.kept_host_blocks + seen.kept_nvme_blocks == 0,
                    "nobody wishes anything, and something is kept: {seen:?}"
                );
            }
        }
    }

    fn keep_step(&mut self, ask: KeepAsk<'_>) -> Result<Kept, KeepRefusal> {
        self.step(Event::Keep(ask));
        let answer = self.effects.list.iter().find_map(|effect| match effect {
            Effect::Kept(kept) => Some(*kept),
            _ => None,
        });
        let Some(answer) = answer else {
            panic!("a wish got no answer")
        };
        answer
    }

    /// All of it stays, or there is no room for the rest.
    fn check_kept_namespace(&mut self, namespace: NamespaceId, cursor: u32, kept: Kept) {
        self.tally.kept += kept.host_blocks + kept.nvme_blocks;
        if cursor != 0 || kept.next.is_some() {
            return;
        }
        let residents = self.model.residents.keys();
        let residents = residents.filter(|key| key.namespace == namespace).count() as u64;
        assert!(
            kept.host_blocks + kept.over_share_blocks >= residents,
            "a wish leaves out blocks: {kept:?} of {residents}"
        );
        assert!(kept.host_blocks <= residents, "no more is kept than there is");
    }

    /// What may not leave in the next step, by tier.
    pub(super) fn kept(&self) -> BTreeSet<(BlockKey, Tier)> {
        if self.engine.keeps().next().is_none() {
            return BTreeSet::new();
        }
        let pool = &self.engine.pool;
        let tiers = [(mark::KEPT_IN_HOST, Tier::Host), (mark::KEPT_ON_NVME, Tier::Nvme)];
        let blocks = pool.blocks.iter();
        let kept = blocks.flat_map(|(_, block)| {
            let marked = tiers.into_iter().filter(|(mark, _)| block.has(*mark));
            marked.map(|(_, tier)| (pool.key(block), tier))
        });
        kept.collect()
    }

    /// Nobody's victim was kept. A device may lose what it likes, and one that has no room at all has to.
    pub(super) fn check_victims(kept: &BTreeSet<(BlockKey, Tier)>, effects: &[Effect]) {
        for effect in effects {
            let Effect::BlockRemoved { key, tier, cause } = effect else {
                continue;
            };
            let is_trouble = matches!(
                cause,
                RemovalCause::Corrupt | RemovalCause::Unreadable | RemovalCause::DeviceLost
            );
            let is_excused = *tier == Tier::Nvme && (is_trouble || *cause == RemovalCause::Reclaimed);
            assert!(
                is_excused || !kept.contains(&(*key, *tier)),
                "a kept block left {tier:?}: {cause:?}"
            );
        }
    }
}
