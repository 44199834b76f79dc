//! What is known of copies in the remote tier, and blocks that leave host memory for it.

use kvstore_types::{BlockHash, Tier};

use super::{Out, Pool};
use crate::block::{BlockIndex, BlockState, Space, mark};
use crate::effect::{Effect, RemovalCause};

impl Pool {
    /// A block has a copy in the remote tier. Announced here, if it was not known.
    pub(crate) fn set_remote(&mut self, block: BlockIndex, out: &mut Out<'_>) {
        let record = self.blocks.get_mut(block);
        if std::mem::replace(&mut record.is_remote, true) {
            return;
        }
        let record = *record;
        self.count_remote(record.space);
        self.announce_remote(block, out);
    }

    /// A block that nobody has a record of is in the remote tier.
    pub(crate) fn add_remote(&mut self, space: Space, hash: BlockHash) -> BlockIndex {
        self.spaces.get_mut(space.namespace()).blocks += 1;
        self.count_remote(space);
        self.blocks.insert_remote(space, hash)
    }

    fn count_remote(&mut self, space: Space) {
        let bytes = self.slot_bytes(space);
        let namespace = self.spaces.get_mut(space.namespace());
        namespace.remote += 1;
        namespace.remote_bytes += bytes;
    }

    /// Says that a block is in the remote tier.
    pub(crate) fn announce_remote(&self, block: BlockIndex, out: &mut Out<'_>) {
        out.effects.list.push(Effect::BlockStored {
            key: self.key(self.blocks.get(block)),
            tier: Tier::Remote,
            descriptor: self.blocks.descriptor(block),
        });
    }

    /// A block has no copy in the remote tier any more, or it is not to be remembered; the record goes with it if that was
    /// the last one.
    pub(crate) fn drop_remote(&mut self, block: BlockIndex, cause: RemovalCause, out: &mut Out<'_>) {
        let record = *self.blocks.get(block);
        if !record.is_remote {
            return;
        }
        let (key, tier) = (self.key(&record), Tier::Remote);
        let bytes = self.slot_bytes(record.space);
        let namespace = self.spaces.get_mut(record.space.namespace());
        namespace.remote -= 1;
        namespace.remote_bytes -= bytes;
        out.effects.list.push(Effect::BlockRemoved { key, tier, cause });
        if record.state == BlockState::Remote {
            self.blocks.remove(block);
            self.count_removed(record.space);
        } else {
            self.blocks.get_mut(block).is_remote = false;
        }
    }

    /// A resident block leaves as soon as the remote tier has taken it.
    pub(crate) fn begin_leaving(&mut self, block: BlockIndex) {
        self.blocks.get_mut(block).marks |= mark::LEAVING;
        self.weight_leaving += self.weight_of(block);
    }

    /// It has been taken, or could not be. The answer is whether it was to leave.
    pub(crate) fn end_leaving(&mut self, block: BlockIndex) -> bool {
        let was_leaving = self.blocks.get(block).has(mark::LEAVING);
        if was_leaving {
            self.blocks.get_mut(block).marks &= !mark::LEAVING;
            self.weight_leaving -= self.weight_of(block);
        }
        was_leaving
    }

    /// What the slots of all blocks that are about to leave weigh, for audits.
    pub(crate) fn check_leaving(&self) {
        let leaving = self.blocks.iter().filter(|(_, block)| block.has(mark::LEAVING));
        let weight: u64 = leaving.map(|(index, _)| self.weight_of(index)).sum();
        assert_eq!(self.weight_leaving, weight, "what is about to leave is counted");
    }

    pub(super) fn weight_of(&self, block: BlockIndex) -> u64 {
        let space = self.blocks.get(block).space;
        let class = self.spaces.get(space.namespace()).classes[usize::from(space.group())];
        self.class(class).slot_weight
    }
}
