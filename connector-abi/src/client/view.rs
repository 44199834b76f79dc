//! What an attachment lets a session see: region, namespace and layouts. Outlives the loss of the daemon.

use std::sync::Arc;

use connector_shm::{ClientRegion, Completion, Role};
use kvstore_types::{BootEpoch, NamespaceId, SlotRef};

use super::region::RegionCell;
use crate::ClientError;
use crate::copier::{SlotMemory, SlotWindow};

pub use connector_shm::RankLayout as GroupWindow;

/// One attachment's view.
#[derive(Debug)]
pub(super) struct View {
    pub(super) region: Arc<RegionCell>,
    pub(super) boot_epoch: BootEpoch,
    /// `None` until all ranks have attached.
    pub(super) namespace: Option<NamespaceId>,
    layouts: Vec<GroupWindow>,
    pub(super) draining: bool,
}

impl View {
    pub(super) fn new(region: ClientRegion, boot_epoch: BootEpoch) -> Self {
        Self {
            region: Arc::new(RegionCell::new(region)),
            boot_epoch,
            namespace: None,
            layouts: Vec::new(),
            draining: false,
        }
    }

    /// Takes in what the daemon says unasked. Whether it was that, and not the answer to an operation.
    pub(super) fn absorb(
        &mut self,
        completion: &Completion<'_>,
        group_count: usize,
    ) -> Result<bool, ClientError> {
        match *completion {
            Completion::NamespaceReady { namespace, groups } => {
                if groups.len() != group_count {
                    return Err(ClientError::PeerMisbehaved(format!(
                        "it describes {} groups, this session has {group_count}",
                        groups.len()
                    )));
                }
                for (index, layout) in groups.iter().enumerate() {
                    self.check(index, layout)?;
                }
                self.namespace = Some(namespace);
                self.layouts = groups.to_vec();
                Ok(true)
            }
            Completion::Draining => {
                self.draining = true;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    pub(super) fn group_count(&self) -> usize {
        self.layouts.len()
    }

    pub(super) fn region_bytes(&self) -> u64 {
        self.region.bytes()
    }

    pub(super) fn layout(&self, group: u32) -> Result<GroupWindow, ClientError> {
        if self.namespace.is_none() {
            return Err(ClientError::NotReady);
        }
        let layout = usize::try_from(group)
            .ok()
            .and_then(|group| self.layouts.get(group));
        layout
            .copied()
            .ok_or_else(|| ClientError::range("group", format_args!("below {}", self.layouts.len()), group))
    }

    /// The slots of a group as a role sees them: a worker its rank's part, others the whole slot.
    pub(super) fn window(&self, group: u32, role: Role) -> Result<SlotWindow, ClientError> {
        let layout = self.layout(group)?;
        let (rank_offset, rank_bytes) = match role {
            Role::Worker(_) => (layout.rank_offset, layout.rank_bytes),
            Role::Scheduler | Role::Observer => (0, layout.slot_bytes),
        };
        let memory = self.region.get();
        let memory = memory.ok_or_else(|| ClientError::Lost("its region was given back".to_owned()))?;
        Ok(SlotWindow {
            memory: memory as Arc<dyn SlotMemory>,
            slot_bytes: layout.slot_bytes,
            rank_offset,
            rank_bytes,
        })
    }

    /// Address and length of what a role sees of a slot.
    pub(super) fn address(
        &self,
        slot: SlotRef,
        group: u32,
        role: Role,
    ) -> Result<(*mut u8, u64), ClientError> {
        // From now on the caller knows an address.
        self.region.get_addressed();
        let window = self.window(group, role)?;
        Ok((window.address(slot)?, window.rank_bytes))
    }

    fn check(&self, index: usize, layout: &GroupWindow) -> Result<(), ClientError> {
        let part_end = layout.rank_offset.checked_add(layout.rank_bytes);
        let fits =
            part_end.is_some_and(|end| end <= layout.slot_bytes) && layout.slot_bytes <= self.region_bytes();
        if fits {
            return Ok(());
        }
        Err(ClientError::PeerMisbehaved(format!(
            "group {index}: {} bytes at {} of a slot of {} in a region of {} do not fit",
            layout.rank_bytes,
            layout.rank_offset,
            layout.slot_bytes,
            self.region_bytes()
        )))
    }
}
