//! A session and what it has: look-ups with holds, and leases.

use std::collections::BTreeMap;
use std::time::Instant;

use kvstore_types::{EngineGroupId, Field, GroupGeometry, GroupSpan, ProcessId, Tag};

use crate::block::BlockIndex;
use crate::event::Role;
use crate::pool::Hold;
use crate::space::fields_bytes;

/// One attached client.
#[derive(Debug)]
pub(crate) struct Session {
    /// The process behind it.
    pub(crate) process: ProcessId,
    /// What it does in its engine.
    pub(crate) role: Role,
    /// Its engine. An observer's is only a name: it is no member.
    pub(crate) group: EngineGroupId,
    /// Descriptor fields of its rank alone.
    pub(crate) rank_fields: Vec<Field>,
    /// The KV cache groups as it knows them.
    pub(crate) groups: Vec<GroupGeometry>,
    /// Look-ups whose holds are alive.
    pub(crate) lookups: BTreeMap<Tag, HeldLookup>,
    /// Leases.
    pub(crate) leases: BTreeMap<Tag, Lease>,
    /// Look-ups that wait for promotions.
    pub(crate) waits: BTreeMap<Tag, u64>,
    /// Blocks held and leased, and those that waiting look-ups may come to hold.
    pub(crate) held: usize,
}

/// The holds of one look-up.
#[derive(Debug)]
pub(crate) struct HeldLookup {
    /// The hit, one span a group.
    pub(crate) spans: Vec<GroupSpan>,
    /// One hold for each block of the spans, in order.
    pub(crate) holds: Vec<Hold>,
}

impl HeldLookup {
    /// The holds on the blocks of `span`, if all of them belong to the look-up.
    pub(crate) fn holds_of(&self, span: GroupSpan) -> Option<&[Hold]> {
        let mut start = 0_usize;
        for held in &self.spans {
            if held.group == span.group {
                let first = span.first.checked_sub(held.first)?;
                let end = first.checked_add(span.count).filter(|&end| end <= held.count)?;
                return self.holds.get(start + first as usize..start + end as usize);
            }
            start += held.count as usize;
        }
        None
    }
}

/// A load that is under way.
#[derive(Debug)]
pub(crate) struct Lease {
    /// The blocks, each leased once for every time it stands here.
    pub(crate) blocks: Vec<BlockIndex>,
    /// When it began.
    pub(crate) since: Instant,
}

impl Session {
    /// The name of its role.
    pub(crate) fn role_name(&self) -> &'static str {
        match self.role {
            Role::Scheduler => "scheduler",
            Role::Worker(_) => "worker",
            Role::Observer => "observer",
        }
    }

    /// Memory that the fields of its rank take, about.
    pub(crate) fn fields_bytes(&self) -> usize {
        let fields = self.rank_fields.iter();
        fields_bytes(fields.map(|field| (field.tag.as_str(), field.value.as_slice())))
    }

    /// Look-ups and leases alive.
    pub(crate) fn operations(&self) -> usize {
        self.lookups.len() + self.leases.len() + self.waits.len()
    }

    /// Whether a look-up or a lease goes by this tag.
    pub(crate) fn has_tag(&self, tag: Tag) -> bool {
        self.lookups.contains_key(&tag) || self.leases.contains_key(&tag) || self.waits.contains_key(&tag)
    }
}

#[cfg(test)]
mod tests {
    use kvstore_types::SlotRef;

    use super::*;

    #[test]
    fn a_span_is_found_only_inside_the_hit() {
        let span = |group, first, count| GroupSpan { group, first, count };
        let holds = (0..5).map(|page| Hold {
            block: BlockIndex(page),
            slot: SlotRef { page, generation: 1 },
        });
        let lookup = HeldLookup {
            spans: vec![span(0, 0, 3), span(2, 4, 2)],
            holds: holds.collect(),
        };
        let cases = [
            (span(0, 0, 3), Some(vec![0, 1, 2])),
            (span(0, 2, 1), Some(vec![2])),
            (span(2, 4, 2), Some(vec![3, 4])),
            (span(2, 5, 1), Some(vec![4])),
            (span(2, 6, 0), Some(vec![])),
            (span(0, 2, 2), None),
            (span(2, 3, 1), None),
            (span(1, 0, 1), None),
            (span(0, 1, u32::MAX), None),
        ];
        for (span, expected) in cases {
            let found = lookup
                .holds_of(span)
                .map(|holds| holds.iter().map(|hold| hold.block.0).collect::<Vec<_>>());
            assert_eq!(found, expected, "{span:?}");
        }
    }
}
