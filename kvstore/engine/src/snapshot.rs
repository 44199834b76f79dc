//! All that is cached, told in slices while everything goes on.
//!
//! A block keeps its record for as long as it has a copy in any tier, and a slice tells of each record what is true at that
//! moment. Whoever applies slices and effects in the order in which they come therefore knows, after the last slice, what
//! the engine knows:
//!
//! - a block that was there when its record was passed has been told, and every later change of it is an effect;
//! - a block that came afterwards, in whatever record, came with an effect;
//! - a block that left before its record was passed is not told; one that left afterwards left with an effect.
//!
//! Between two slices blocks may be told twice or leave unheard of: a slice *sets* where a block is, `BlockStored` adds a
//! tier, `BlockRemoved` takes one away, and taking away what is not there does nothing.

use kvstore_types::{BlockKey, DescriptorBytes};

use crate::block::{BlockIndex, BlockState};
use crate::counters::Residency;
use crate::engine::Engine;

/// Where a snapshot is. Begins at the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotCursor(u32);

impl Engine {
    /// Tells of the next blocks: their names, where usable copies are and what they are about, in no order. At most
    /// `blocks_max` records are looked at. The answer is where to go on; none: that was all.
    pub fn snapshot(
        &self,
        cursor: SnapshotCursor,
        blocks_max: u32,
        tell: &mut impl FnMut(BlockKey, Residency, Option<&DescriptorBytes>),
    ) -> Option<SnapshotCursor> {
        let records = self.pool.blocks.records();
        let end = cursor.0.saturating_add(blocks_max.max(1)).min(records);
        for index in (cursor.0..end).map(BlockIndex) {
            let record = self.pool.blocks.get(index);
            let residency = record.residency();
            if record.state != BlockState::Vacant && residency != Residency::default() {
                tell(
                    self.pool.key(record),
                    residency,
                    self.pool.blocks.descriptors().get(index),
                );
            }
        }
        (end < records).then_some(SnapshotCursor(end))
    }
}
