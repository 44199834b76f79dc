//! What is done with a block before it goes to the device and after it has come back, and what is said of it.

use std::io;
use std::time::Instant;

use kvstore_types::{Corruption, IoOutcome};
use tracing::warn;

use super::{COMPLAINT_PAUSE, Carrier, WORK_BYTES};
use crate::directory::outcome_of;
use crate::io::backend::Direction;
use crate::io::proof::{check_block, seal_block};
use crate::io::task::{Active, Task, Work};
use crate::maintenance::Written;
use crate::{DeviceEvent, OrderTimes};

impl Carrier {
    /// Looks at tasks that came back, for a while.
    pub(super) fn look_at_ended(&mut self) {
        let mut bytes = 0;
        while bytes < WORK_BYTES
            && let Some((token, result)) = self.ended.pop_front()
        {
            if let Some(active) = self.active[token].take() {
                bytes += active.task.bytes();
                self.in_hand = Some((active.task.operation, active.task.kind, active.task.received));
                self.finish(token, active, result);
                self.in_hand = None;
            }
        }
    }

    fn finish(&mut self, token: usize, mut active: Active, result: Result<(), io::Error>) {
        let outcome = match result {
            Err(error) => {
                self.complain(&active, &error);
                match active.direction {
                    Direction::Read if error.kind() == io::ErrorKind::UnexpectedEof => {
                        IoOutcome::Corrupt(Corruption::Truncated)
                    }
                    Direction::Read => IoOutcome::Failed,
                    Direction::Write => outcome_of(&error),
                }
            }
            Ok(()) => match (&active.task.work, active.direction) {
                (Work::Move { .. }, Direction::Read) => match self.turn_round(&mut active) {
                    Ok(()) => {
                        self.load.add(active.task.kind, active.task.bytes());
                        self.active[token] = Some(active);
                        return self.push(token);
                    }
                    Err(outcome) => outcome,
                },
                (_, Direction::Read) => match self.check(&active) {
                    Ok(_) => IoOutcome::Done,
                    Err(outcome) => outcome,
                },
                (_, Direction::Write) => {
                    self.tell_written(&mut active);
                    IoOutcome::Done
                }
            },
        };
        if let Some(buffer) = active.buffer.take() {
            self.buffers.give_back(buffer);
        }
        self.free.push(token);
        self.answer(&active.task, outcome);
    }

    fn check(&self, active: &Active) -> Result<Vec<u8>, IoOutcome> {
        let task = &active.task;
        // SAFETY: the place holds all the block's bytes, and no transfer uses it any more.
        unsafe { check_block(&self.spec.tier, active.place.0, task.extent, task.key) }
            .map_err(IoOutcome::Corrupt)
    }

    /// The block of a move has been read: makes it what is written to the other place.
    fn turn_round(&mut self, active: &mut Active) -> Result<(), IoOutcome> {
        let descriptor = self.check(active)?;
        if let Work::Move { to } = active.task.work {
            if !self.files.contains(&to.segment.index) {
                return Err(IoOutcome::Failed);
            }
            // SAFETY: the buffer holds all the block's bytes, and no transfer uses it now.
            unsafe { seal_block(&self.spec.tier, active.place.0, to, active.task.key, &descriptor) };
        }
        active.direction = Direction::Write;
        active.done = 0;
        active.tries = 0;
        Ok(())
    }

    fn tell_written(&mut self, active: &mut Active) {
        let key = active.task.key;
        let (extent, descriptor) = match &mut active.task.work {
            Work::Write { descriptor, .. } => (active.task.extent, std::mem::take(descriptor)),
            Work::Move { to } => {
                let mut page = [0; crate::format::PAGE];
                let header = active.place.0;
                // SAFETY: the buffer is ours, holds the header page, and no transfer uses it any more.
                unsafe { header.copy_to_nonoverlapping(page.as_mut_ptr(), page.len()) };
                let descriptor = crate::format::BlockHeader::decode(&self.spec.tier, &page)
                    .map(|(_, descriptor)| descriptor.to_vec())
                    .unwrap_or_default();
                (*to, descriptor)
            }
            Work::Read { .. } | Work::Verify => return,
        };
        (self.spec.written)(Written {
            extent,
            key,
            descriptor,
        });
    }

    /// Makes headers and checksums of writes that come next, for a while.
    pub(super) fn prepare(&mut self) {
        let mut bytes = 0;
        while bytes < WORK_BYTES && self.ended.is_empty() {
            let Some(task) = self.queues.pop_to_prepare() else {
                return;
            };
            bytes += task.bytes();
            self.in_hand = Some((task.operation, task.kind, task.received));
            if let Work::Write { offset, descriptor } = &task.work
                && let Some(place) = self.spec.memory.at(*offset, task.bytes())
            {
                // SAFETY: the bytes lie in memory, which is mapped; no transfer uses them before this task begins.
                unsafe { seal_block(&self.spec.tier, place, task.extent, task.key, descriptor) };
            }
            self.in_hand = None;
            self.queues.push_prepared(task);
        }
    }

    pub(super) fn answer(&mut self, task: &Task, outcome: IoOutcome) {
        let took = task.received.elapsed();
        self.spec
            .counters
            .answered(task.kind, outcome, task.bytes(), took);
        let waited = task
            .begun
            .map_or(took, |begun| begun.saturating_duration_since(task.received));
        self.events.push(DeviceEvent::Done {
            operation: task.operation,
            outcome,
            times: OrderTimes {
                waited,
                served: took.saturating_sub(waited),
            },
        });
    }

    pub(super) fn refuse(&mut self, task: &Task, problem: &str) {
        if self.may_complain() {
            warn!(device = self.spec.name, operation = task.operation.0, extent = ?task.extent, problem, "an order is not possible");
        }
        self.answer(task, IoOutcome::Failed);
    }

    fn complain(&mut self, active: &Active, error: &io::Error) {
        if self.may_complain() {
            let (kind, direction) = (active.task.kind.name(), active.direction);
            let (segment, page) = (active.task.extent.segment.index, active.task.extent.page);
            warn!(device = self.spec.name, kind, ?direction, segment, page, %error, "a transfer failed");
        }
    }

    fn may_complain(&mut self) -> bool {
        let now = Instant::now();
        let quiet = self
            .complained_last
            .is_none_or(|last| now.duration_since(last) >= COMPLAINT_PAUSE);
        if quiet {
            self.complained_last = Some(now);
        }
        quiet
    }
}
