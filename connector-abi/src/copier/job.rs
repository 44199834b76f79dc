//! One checked batch of copies and the pieces it consists of.
//!
//! A batch of `n` transfers over a group of `r` runs is `n × r` pages, numbered transfer by transfer. Any range of
//! them can be copied by itself, so threads share a batch by taking ranges. Neighbours that are contiguous on both
//! sides are copied as one piece.

use std::ops::Range;
use std::sync::Arc;

use kvstore_types::SlotRef;

use super::{CopyRequest, DeviceGroup, Direction, Pins, TRANSFERS_MAX};
use crate::ClientError;

/// Memory that slots lie in. Stays where it is, and mapped, as long as the value lives.
///
/// # Safety
/// `base .. base + bytes` is readable and writable memory of this process until the value is dropped, and `pins` is dropped
/// before it ceases to be.
pub unsafe trait SlotMemory: Send + Sync {
    /// Address of the first byte.
    fn base(&self) -> *mut u8;
    /// Number of bytes.
    fn bytes(&self) -> u64;
    /// What devices hold on to it with.
    fn pins(&self) -> &Pins;
}

/// One rank's view of the slots of one group.
#[derive(Clone)]
pub struct SlotWindow {
    /// What the slots lie in.
    pub memory: Arc<dyn SlotMemory>,
    /// Bytes of a whole slot.
    pub slot_bytes: u64,
    /// Where the rank's part begins in a slot.
    pub rank_offset: u64,
    /// Bytes of the rank's part.
    pub rank_bytes: u64,
}

impl SlotWindow {
    /// Address of the rank's part of a slot, if the slot lies within the memory and the part within the slot.
    pub fn address(&self, slot: SlotRef) -> Result<*mut u8, ClientError> {
        let end = slot.byte_offset().checked_add(self.slot_bytes);
        if slot.page == 0 || end.is_none_or(|end| end > self.memory.bytes()) {
            return Err(ClientError::BadArgument(format!(
                "slot at {slot}: want {} bytes within the region's {}",
                self.slot_bytes,
                self.memory.bytes()
            )));
        }
        let part_end = self.rank_offset.checked_add(self.rank_bytes);
        if part_end.is_none_or(|end| end > self.slot_bytes) {
            return Err(ClientError::PeerMisbehaved(format!(
                "this rank's part ({} bytes at {}) is not within a slot of {}",
                self.rank_bytes, self.rank_offset, self.slot_bytes
            )));
        }
        let offset = usize::try_from(slot.byte_offset() + self.rank_offset)
            .map_err(|_| ClientError::BadArgument(format!("slot at {slot} cannot be addressed")))?;
        // SAFETY: the offset lies within the memory, as was just checked.
        Ok(unsafe { self.memory.base().add(offset) })
    }
}

/// One device block and its place in a slot. Laid out as C sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The slot.
    pub slot: SlotRef,
    /// The device block.
    pub device_block: u32,
    /// Which of the chunk's device blocks it is.
    pub block_in_chunk: u32,
}

/// Bytes that are contiguous on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Address in device memory.
    pub device: *mut u8,
    /// Address in the region.
    pub slot: *mut u8,
    /// How many.
    pub bytes: usize,
}

impl Piece {
    fn joined(self, next: Self) -> Option<Self> {
        let joins = self.device.wrapping_add(self.bytes) == next.device
            && self.slot.wrapping_add(self.bytes) == next.slot;
        joins.then_some(Self {
            bytes: self.bytes + next.bytes,
            ..self
        })
    }
}

/// A batch whose every address has been checked. Owns a share of the region, so the slots stay mapped.
pub struct CopyJob {
    tag: u64,
    direction: Direction,
    group: Arc<DeviceGroup>,
    window: SlotWindow,
    transfers: Vec<Transfer>,
}

// SAFETY: the addresses a job names are used only to copy bytes; that the pages stay valid and are not touched
// meanwhile, in whichever thread it runs, is what the caller of `Copier::set_group` promises.
unsafe impl Send for CopyJob {}
// SAFETY: as above; a job is not changed after it was made.
unsafe impl Sync for CopyJob {}

impl CopyJob {
    /// Checks everything a batch names.
    pub fn check(
        group: Arc<DeviceGroup>,
        window: SlotWindow,
        request: CopyRequest<'_>,
    ) -> Result<Self, ClientError> {
        let CopyRequest { transfers, .. } = request;
        if transfers.len() > TRANSFERS_MAX {
            return Err(ClientError::TooLarge {
                what: "a batch",
                actual: transfers.len(),
                max: TRANSFERS_MAX,
                unit: "transfers",
            });
        }
        if group.chunk_bytes() != window.rank_bytes {
            return Err(ClientError::range(
                &format!("bytes of a chunk of group {}", request.group),
                format_args!("{} as in the namespace", window.rank_bytes),
                group.chunk_bytes(),
            ));
        }
        check_apart(&group, &*window.memory)?;
        for (index, transfer) in transfers.iter().enumerate() {
            check_transfer(index, transfer, &group)?;
            window.address(transfer.slot)?;
        }
        Ok(Self {
            tag: request.tag,
            direction: request.direction,
            group,
            window,
            transfers: transfers.to_vec(),
        })
    }

    /// The tag it was submitted with.
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// Which way it goes.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// What its slots lie in.
    pub fn memory(&self) -> &Arc<dyn SlotMemory> {
        &self.window.memory
    }

    /// Number of pages.
    pub fn page_count(&self) -> usize {
        self.transfers.len() * self.group.runs().len()
    }

    /// Bytes of all pages.
    pub fn bytes(&self) -> u64 {
        self.transfers.len() as u64 * self.group.block_bytes() as u64
    }

    /// Calls `visit` with the pieces that make up a range of pages, in order.
    pub fn for_each_piece(&self, pages: Range<usize>, mut visit: impl FnMut(Piece)) {
        let run_count = self.group.runs().len();
        let mut pending: Option<Piece> = None;
        for page in pages {
            let piece = self.piece(page / run_count, page % run_count);
            pending = match pending {
                None => Some(piece),
                Some(before) => before.joined(piece).or_else(|| {
                    visit(before);
                    Some(piece)
                }),
            };
        }
        if let Some(last) = pending {
            visit(last);
        }
    }

    fn piece(&self, transfer: usize, run: usize) -> Piece {
        let transfer = self.transfers[transfer];
        let pages = self.group.runs()[run];
        let device = pages.base + transfer.device_block as usize * pages.stride_bytes;
        let in_part = transfer.block_in_chunk as usize * self.group.block_bytes() + self.group.offset(run);
        let slot = transfer.slot.byte_offset() + self.window.rank_offset;
        let slot = self.window.memory.base().wrapping_add(to_usize(slot) + in_part);
        Piece {
            device: std::ptr::with_exposed_provenance_mut(device),
            slot,
            bytes: pages.page_bytes,
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "an offset within mapped memory, as was checked before the job was made"
)]
fn to_usize(offset: u64) -> usize {
    offset as usize
}

fn check_transfer(index: usize, transfer: &Transfer, group: &DeviceGroup) -> Result<(), ClientError> {
    if transfer.device_block as usize >= group.block_count() {
        return Err(ClientError::range(
            &format!("transfer {index}: device_block"),
            format_args!("below {}", group.block_count()),
            transfer.device_block,
        ));
    }
    if transfer.block_in_chunk >= group.blocks_per_chunk() {
        return Err(ClientError::range(
            &format!("transfer {index}: block_in_chunk"),
            format_args!("below {}", group.blocks_per_chunk()),
            transfer.block_in_chunk,
        ));
    }
    Ok(())
}

/// Device pages that lie in the region would make source and target overlap.
fn check_apart(group: &DeviceGroup, memory: &dyn SlotMemory) -> Result<(), ClientError> {
    let base = memory.base().addr();
    let end = base.saturating_add(to_usize(memory.bytes()));
    for (index, run) in group.runs().iter().enumerate() {
        if run.base < end && base < run.end() {
            return Err(ClientError::BadArgument(format!(
                "run {index}: want pages outside the shared region, got {run:?}"
            )));
        }
    }
    Ok(())
}
