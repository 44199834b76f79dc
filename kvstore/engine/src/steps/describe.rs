//! What blocks are about: said when they are reserved, once.
//!
//! A descriptor is made only for a block that has none, so a reservation that finds its blocks described costs nothing. Who
//! says it first is believed: equal keys mean equal blocks, so all say the same.

use kvstore_types::{BlockHash, DescriptorRun};

use crate::block::{BlockIndex, BlockState};
use crate::effect::{Effect, Effects, Violation};
use crate::engine::Engine;
use crate::event::GroupKeys;

/// Goes along the runs of a reservation, key by key.
#[derive(Debug)]
pub(super) struct Story<'a> {
    runs: &'a [DescriptorRun<'a>],
    /// Keys of the first of them that have been passed.
    passed: usize,
    previous: Option<BlockHash>,
}

/// What is said of one key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said<'a> {
    run: &'a DescriptorRun<'a>,
    index: usize,
    previous: Option<BlockHash>,
}

impl<'a> Story<'a> {
    pub(super) fn new(runs: &'a [DescriptorRun<'a>]) -> Self {
        Self {
            runs,
            passed: 0,
            previous: None,
        }
    }

    /// What is said of the next key.
    pub(super) fn next(&mut self, hash: BlockHash) -> Option<Said<'a>> {
        while self.passed >= self.runs.first()?.blocks as usize {
            (self.runs, self.passed) = (&self.runs[1..], 0);
        }
        let said = Said {
            run: &self.runs[0],
            index: self.passed,
            previous: self.previous,
        };
        self.passed += 1;
        self.previous = Some(hash);
        said.run.is_described().then_some(said)
    }
}

impl Engine {
    /// Refuses runs whose blocks have other lengths than those of their groups: nobody could announce them rightly.
    pub(super) fn check_runs(
        &self,
        namespace: u32,
        groups: &[GroupKeys<'_>],
        runs: &[DescriptorRun<'_>],
    ) -> Result<(), Violation> {
        let geometry = &self.pool.spaces.get(namespace).geometry;
        let mut runs = runs.iter();
        for keys in groups {
            let expected = geometry.groups[keys.group as usize].tokens_per_block;
            let mut left = keys.hashes.len() as u64;
            while left > 0
                && let Some(run) = runs.next()
            {
                let is_right = !run.is_described() || run.tokens_per_block == expected;
                if !is_right || u64::from(run.blocks) > left || run.blocks == 0 {
                    return Err(Violation::BadRun {
                        group: keys.group,
                        tokens_per_block: run.tokens_per_block,
                        expected,
                    });
                }
                left -= u64::from(run.blocks);
            }
        }
        Ok(())
    }

    /// A block that has no descriptor gets this one. If it has been announced already, that it is described is announced
    /// now.
    pub(super) fn describe(&mut self, block: BlockIndex, said: Said<'_>, effects: &mut Effects) {
        if self.pool.blocks.descriptors().get(block).is_some() {
            return;
        }
        match said.run.descriptor(said.index, said.previous) {
            Ok(descriptor) => {
                if self.pool.blocks.describe(block, descriptor.as_ref()) {
                    self.announce_described(block, effects);
                }
            }
            Err(_) => self.counters.descriptors_too_long += 1,
        }
    }

    /// A block has got its descriptor.
    pub(crate) fn announce_described(&mut self, block: BlockIndex, effects: &mut Effects) {
        let record = self.pool.blocks.get(block);
        let is_announced = record.state == BlockState::Resident || record.has_lower_copy();
        if let (true, Some(descriptor)) = (is_announced, self.pool.blocks.descriptor(block)) {
            self.counters.descriptors_late += 1;
            let key = self.pool.key(record);
            effects.list.push(Effect::BlockDescribed { key, descriptor });
        }
    }
}
