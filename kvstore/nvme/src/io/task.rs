//! One order to the I/O thread, and whether it can be carried out at all.

use std::time::Instant;

use kvstore_types::{BlockKey, Extent, OperationId, PAGE_BYTES, ReadClass};

use super::backend::{Direction, Place, Transfer};
use super::buffer::Buffer;
use crate::stats::OperationKind;
use crate::{DESCRIPTOR_BYTES_MAX, Memory, Order};

/// Largest block that is moved in one transfer, which the kernel bounds at 2 GiB.
const BLOCK_BYTES_MAX: u64 = 1 << 30;

/// An order to read or write.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) operation: OperationId,
    pub(super) kind: OperationKind,
    /// Where the block is, or for a write where it goes.
    pub(super) extent: Extent,
    pub(super) key: BlockKey,
    pub(super) work: Work,
    pub(super) received: Instant,
    /// When the device got it.
    pub(super) begun: Option<Instant>,
}

/// What to do with the block.
#[derive(Debug)]
pub(super) enum Work {
    Read { offset: u64 },
    Write { offset: u64, descriptor: Vec<u8> },
    Move { to: Extent },
    Verify,
}

impl Task {
    /// Takes an order that is for this thread, and gives any other one back.
    pub(super) fn take(order: Order, received: Instant) -> Result<Self, Order> {
        let (operation, kind, extent, key, work) = match order {
            Order::Read {
                operation,
                extent,
                offset,
                key,
                class,
            } => (operation, class.into(), extent, key, Work::Read { offset }),
            Order::Write {
                operation,
                extent,
                offset,
                key,
                descriptor,
            } => (
                operation,
                OperationKind::Write,
                extent,
                key,
                Work::Write { offset, descriptor },
            ),
            Order::Move {
                operation,
                from,
                to,
                key,
            } => (operation, OperationKind::Move, from, key, Work::Move { to }),
            Order::Verify {
                operation,
                extent,
                key,
            } => (operation, OperationKind::Verify, extent, key, Work::Verify),
            other => return Err(other),
        };
        Ok(Self {
            operation,
            kind,
            extent,
            key,
            work,
            received,
            begun: None,
        })
    }

    /// Bytes of the block, header included.
    pub(super) fn bytes(&self) -> u64 {
        self.extent.bytes()
    }

    pub(super) fn class(&self) -> ReadClass {
        match self.kind {
            OperationKind::Demand => ReadClass::Demand,
            _ => ReadClass::Prefetch,
        }
    }

    /// Whether it needs a buffer of ours.
    pub(super) fn needs_buffer(&self) -> bool {
        matches!(self.work, Work::Move { .. } | Work::Verify)
    }

    /// What makes it impossible.
    pub(super) fn problem(
        &self,
        segment_pages: u32,
        memory: &Memory,
        has_file: impl Fn(u32) -> bool,
    ) -> Option<&'static str> {
        let to = match &self.work {
            Work::Move { to } => Some(to),
            _ => None,
        };
        for extent in [Some(&self.extent), to].into_iter().flatten() {
            let end = u64::from(extent.page) + u64::from(extent.pages);
            if extent.page == 0 || extent.pages < 2 || end > u64::from(segment_pages) {
                return Some("its pages do not lie within a segment");
            }
            if extent.bytes() > BLOCK_BYTES_MAX {
                return Some("it is larger than 1 GiB");
            }
            if !has_file(extent.segment.index) {
                return Some("its segment has no file");
            }
        }
        if to.is_some_and(|to| to.pages != self.extent.pages) {
            return Some("its two places are of different size");
        }
        let offset = match &self.work {
            Work::Read { offset } => *offset,
            Work::Write { offset, descriptor } if descriptor.len() <= DESCRIPTOR_BYTES_MAX => *offset,
            Work::Write { .. } => return Some("its descriptor is too long"),
            Work::Move { .. } | Work::Verify => return None,
        };
        if !offset.is_multiple_of(PAGE_BYTES) || memory.at(offset, self.bytes()).is_none() {
            return Some("its slot does not lie within the memory");
        }
        None
    }
}

/// A task at the device, or just back from it.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) task: Task,
    pub(super) place: Place,
    pub(super) buffer: Option<Buffer>,
    pub(super) direction: Direction,
    /// Bytes that have been moved in this direction.
    pub(super) done: u32,
    /// Times in a row that nothing was moved.
    pub(super) tries: u32,
}

impl Active {
    /// What is still to be moved.
    pub(super) fn transfer(&self, token: u64) -> Transfer {
        let extent = match (&self.task.work, self.direction) {
            (Work::Move { to }, Direction::Write) => to,
            _ => &self.task.extent,
        };
        Transfer {
            token,
            direction: self.direction,
            file: extent.segment.index,
            offset: extent.byte_offset() + u64::from(self.done),
            place: Place(self.place.0.wrapping_add(self.done as usize)),
            bytes: self.bytes() - self.done,
        }
    }

    /// Bytes of the whole block.
    pub(super) fn bytes(&self) -> u32 {
        u32::try_from(self.task.bytes()).unwrap_or(u32::MAX)
    }
}
