//! Room for the descriptors of namespaces.

use std::collections::BTreeSet;

use super::{Out, Pool};
use crate::block::{BlockIndex, BlockState, mark};
use crate::effect::RemovalCause;
use crate::nvme::Nvme;

/// Most blocks that leave in one step with their namespaces. A namespace with more leaves over several.
const REMOVALS_MAX: u64 = 1 << 16;

/// How much more room than wanted is made at once, as a part of the limit, because each time walks all records.
const SPARE_PART: usize = 8;

impl Pool {
    /// Makes room for `bytes` beyond the namespaces there are: the blocks of namespaces that no engine is attached to
    /// leave, those of the one left longest ago first, and their namespaces with them. False if that is not enough.
    pub(crate) fn make_room_for_names(&mut self, bytes: usize, nvme: &mut Nvme, out: &mut Out<'_>) -> bool {
        let max = self.config.descriptor_bytes_max;
        let room = max.saturating_sub(bytes);
        // What no removal could make fit costs nobody a block.
        if bytes > max || self.spaces.bytes_used() > room {
            return false;
        }
        if self.spaces.bytes() <= room {
            return true;
        }
        let mut removals = REMOVALS_MAX;
        let wanted = self.spaces.bytes() - room + max / SPARE_PART;
        let small = self.choose_unused(wanted, removals);
        self.remove_blocks_of(&small, &mut removals, nvme, out);
        if self.spaces.bytes() > room {
            // The rest is leased or large.
            let all = self.spaces.unused().iter().map(|&(index, _)| index).collect();
            self.remove_blocks_of(&all, &mut removals, nvme, out);
        }
        self.spaces.bytes() <= room
    }

    /// Namespaces without an engine that take `bytes` and have not more than `blocks` together.
    fn choose_unused(&self, bytes: usize, mut blocks: u64) -> BTreeSet<u32> {
        let (mut chosen, mut freed) = (BTreeSet::new(), 0);
        for (index, namespace) in self.spaces.unused() {
            if freed < bytes && namespace.blocks <= blocks {
                blocks -= namespace.blocks;
                freed += namespace.bytes();
                chosen.insert(index);
            }
        }
        chosen
    }

    fn remove_blocks_of(
        &mut self,
        namespaces: &BTreeSet<u32>,
        removals: &mut u64,
        nvme: &mut Nvme,
        out: &mut Out<'_>,
    ) {
        let blocks = self.blocks.iter().filter(|(_, block)| {
            let is_removable = match block.state {
                BlockState::Resident => !block.is_busy(),
                BlockState::Stored | BlockState::Remote => true,
                BlockState::Filling | BlockState::Promoting | BlockState::Vacant => false,
            };
            let is_kept = block.has(mark::KEPT_IN_HOST | mark::KEPT_ON_NVME);
            is_removable && !is_kept && namespaces.contains(&block.space.namespace())
        });
        let limit = usize::try_from(*removals).unwrap_or(usize::MAX);
        let blocks: Vec<BlockIndex> = blocks.map(|(index, _)| index).take(limit).collect();
        *removals -= blocks.len() as u64;
        out.counters.removed_namespace_dropped += blocks.len() as u64;
        for block in blocks {
            // The lower copies first: the record goes with the last copy.
            let is_resident = self.blocks.get(block).state == BlockState::Resident;
            self.drop_remote(block, RemovalCause::NamespaceDropped, out);
            self.drop_copy(nvme, block, RemovalCause::NamespaceDropped, out);
            if is_resident {
                self.remove_resident(block, RemovalCause::NamespaceDropped, out);
            }
        }
    }
}
