//! Who listens to announcements: what they say must be what is, at every moment.
//!
//! One listener hears everything from the start of the daemon and is strict: nothing is announced twice, nothing leaves that was
//! not there. Another begins in the middle with a snapshot that it takes in slices, and after the last slice knows the
//! same.

use std::collections::{BTreeMap, BTreeSet};

use kvstore_types::{BlockHash, BlockKey, DescriptorBytes, DescriptorRun, Tier};

use super::random::Random;
use crate::counters::Residency;
use crate::effect::Effect;
use crate::engine::Engine;
use crate::snapshot::SnapshotCursor;

/// What a listener knows of one block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    residency: Residency,
    descriptor: Option<DescriptorBytes>,
}

type Blocks = BTreeMap<BlockKey, Known>;

/// Both listeners, and what engines have said of their blocks.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    strict: Blocks,
    late: Option<Late>,
    /// Every descriptor that any engine gave a block, across restarts.
    said: BTreeMap<BlockKey, BTreeSet<Vec<u8>>>,
    pub(super) snapshots: u64,
    pub(super) described: u64,
}

/// One that began in the middle.
#[derive(Debug, Default)]
struct Late {
    blocks: Blocks,
    /// Where its snapshot is; none once it is complete.
    cursor: Option<SnapshotCursor>,
}

fn tier_of(residency: &mut Residency, tier: Tier) -> &mut bool {
    match tier {
        Tier::Host => &mut residency.host,
        Tier::Nvme => &mut residency.nvme,
        Tier::Remote => &mut residency.remote,
    }
}

impl Listeners {
    /// The daemon starts anew: what was announced before is void, what was said is on the devices.
    pub(super) fn restart(&mut self) {
        self.strict.clear();
        self.late = None;
    }

    /// An engine has said what a block is about.
    pub(super) fn said(&mut self, key: BlockKey, descriptor: &DescriptorBytes) {
        let said = self.said.entry(key).or_default();
        said.insert(descriptor.as_bytes().to_vec());
    }

    /// Hears one effect.
    pub(super) fn hear(&mut self, effect: &Effect) {
        match effect {
            Effect::BlockStored {
                key,
                tier,
                descriptor,
            } => {
                let known = self.strict.entry(*key).or_default();
                let place = tier_of(&mut known.residency, *tier);
                assert!(
                    !std::mem::replace(place, true),
                    "{key} was announced in {tier:?} twice"
                );
                assert!(
                    known.descriptor.is_none() || known.descriptor == *descriptor,
                    "{key} was announced with another descriptor"
                );
                known.descriptor.clone_from(descriptor);
                self.check_said(key, descriptor.as_ref());
            }
            Effect::BlockDescribed { key, descriptor } => {
                let known = self.strict.get_mut(key);
                let known = known.filter(|known| known.descriptor.is_none());
                let Some(known) = known else {
                    panic!("{key} was described and was not announced without a descriptor")
                };
                known.descriptor = Some(descriptor.clone());
                self.check_said(key, Some(descriptor));
                self.described += 1;
            }
            Effect::BlockRemoved { key, tier, .. } => {
                let known = self.strict.entry(*key).or_default();
                let was_there = std::mem::take(tier_of(&mut known.residency, *tier));
                assert!(was_there, "{key} left {tier:?} and was not announced there");
                if known.residency == Residency::default() {
                    self.strict.remove(key);
                }
            }
            _ => {}
        }
        if let Some(late) = &mut self.late {
            late.hear(effect);
        }
    }

    fn check_said(&self, key: &BlockKey, descriptor: Option<&DescriptorBytes>) {
        let is_said = |bytes: &DescriptorBytes| {
            self.said
                .get(key)
                .is_some_and(|said| said.contains(bytes.as_bytes()))
        };
        assert!(
            descriptor.is_none_or(is_said),
            "{key} was announced with a descriptor that nobody gave it"
        );
    }

    /// The late listener begins, takes a slice, or does nothing.
    pub(super) fn take_slice(&mut self, engine: &Engine, random: &mut Random) {
        if random.chance(2) {
            let cursor = Some(SnapshotCursor::default());
            self.late = Some(Late {
                blocks: Blocks::new(),
                cursor,
            });
        }
        let Some(late) = self.late.as_mut().filter(|_| random.chance(30)) else {
            return;
        };
        let Some(cursor) = late.cursor else { return };
        let most = random.pick(&[1, 7, 500, 5000]).unwrap_or(7);
        let blocks = &mut late.blocks;
        late.cursor = engine.snapshot(cursor, most, &mut |key, residency, descriptor| {
            let descriptor = descriptor.cloned();
            blocks.insert(
                key,
                Known {
                    residency,
                    descriptor,
                },
            );
        });
        self.snapshots += u64::from(late.cursor.is_none());
    }

    /// What has been announced is what is: nothing is missing, nothing too much.
    pub(super) fn compare(&self, engine: &Engine) {
        let mut all = Blocks::new();
        let mut cursor = Some(SnapshotCursor::default());
        while let Some(at) = cursor {
            cursor = engine.snapshot(at, u32::MAX, &mut |key, residency, descriptor| {
                let descriptor = descriptor.cloned();
                let before = all.insert(
                    key,
                    Known {
                        residency,
                        descriptor,
                    },
                );
                assert!(before.is_none(), "{key} is told twice in one snapshot");
            });
        }
        for key in all.keys().chain(self.strict.keys()).chain(self.said.keys()) {
            let announced = self.strict.get(key).cloned().unwrap_or_default();
            let (seen, told) = (engine.residency(key), all.get(key).cloned().unwrap_or_default());
            assert_eq!(
                announced.residency, seen,
                "announcements of {key} are not what is: announced, and there"
            );
            assert_eq!(
                announced, told,
                "announcements of {key} are not what a snapshot tells"
            );
        }
        if let Some(late) = self.late.as_ref().filter(|late| late.cursor.is_none()) {
            assert_eq!(
                late.blocks, self.strict,
                "a snapshot and the announcements since its beginning are not what is"
            );
        }
    }
}

impl Late {
    fn hear(&mut self, effect: &Effect) {
        match effect {
            Effect::BlockStored {
                key,
                tier,
                descriptor,
            } => {
                let known = self.blocks.entry(*key).or_default();
                *tier_of(&mut known.residency, *tier) = true;
                known.descriptor.clone_from(descriptor);
            }
            Effect::BlockDescribed { key, descriptor } => {
                if let Some(known) = self.blocks.get_mut(key) {
                    known.descriptor = Some(descriptor.clone());
                }
            }
            Effect::BlockRemoved { key, tier, .. } => {
                if let Some(known) = self.blocks.get_mut(key) {
                    *tier_of(&mut known.residency, *tier) = false;
                    if known.residency == Residency::default() {
                        self.blocks.remove(key);
                    }
                }
            }
            _ => {}
        }
    }
}

/// A run that owns what it says.
#[derive(Debug)]
pub(super) struct OwnedRun {
    blocks: u32,
    tokens_per_block: u32,
    parent: Option<BlockHash>,
    tokens: Vec<u32>,
    extra_keys: Vec<u8>,
}

impl OwnedRun {
    /// What an engine says of the keys of one group that it is about to reserve, cut anywhere.
    pub(super) fn of_group(hashes: &[BlockHash], tokens_per_block: u32, random: &mut Random) -> Vec<Self> {
        let (mut runs, mut rest, mut parent) = (Vec::new(), hashes, None);
        while !rest.is_empty() {
            let (own, tail) = rest.split_at(1 + random.below(rest.len()));
            let is_described = random.chance(80);
            let length = if is_described { tokens_per_block } else { 0 };
            let tokens = own
                .iter()
                .flat_map(|hash| (0..length).map(|at| u32::from(hash.0[at as usize % 8]) << (at % 9)));
            let extra_bytes = random.pick(&[0, 0, 1, 30, 4000]).unwrap_or(0);
            runs.push(Self {
                blocks: u32::try_from(own.len()).unwrap_or(0),
                tokens_per_block: length,
                parent: parent.filter(|_| is_described),
                tokens: tokens.collect(),
                extra_keys: vec![0xc0; if is_described { extra_bytes } else { 0 }],
            });
            (rest, parent) = (tail, own.last().copied());
        }
        runs
    }

    /// The run as it is given to the engine.
    pub(super) fn run(&self) -> DescriptorRun<'_> {
        DescriptorRun {
            blocks: self.blocks,
            tokens_per_block: self.tokens_per_block,
            parent: self.parent,
            tokens: &self.tokens,
            lora_name: None,
            extra_keys: &self.extra_keys,
        }
    }

    /// What it says of each of its blocks, where a descriptor can say it.
    pub(super) fn descriptors(&self, hashes: &[BlockHash]) -> Vec<Option<DescriptorBytes>> {
        let one = |index: usize| {
            let previous = index.checked_sub(1).map(|before| hashes[before]);
            self.run().descriptor(index, previous).ok().flatten()
        };
        (0..self.blocks as usize).map(one).collect()
    }
}
