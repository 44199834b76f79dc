//! Whose turn it is at the device.
//!
//! What a read waits for is not the queue in front of it but the bytes that are at the device already: nothing can be
//! taken back from there. So everything that nobody waits for is given to the device in small amounts, smaller still
//! while look-ups are reading.

use std::time::Duration;

use crate::stats::OperationKind;

/// For so long after a demand read more of them are expected.
pub(super) const DEMAND_MEMORY: Duration = Duration::from_secs(2);
/// A write that has waited for so long goes before demand reads, so that slots that wait to be written come free.
pub(super) const WRITE_PATIENCE: Duration = Duration::from_millis(100);

/// Bytes of writes and moves at the device, while look-ups are reading and otherwise. One block is always allowed.
const WRITE_BYTES_MAX: [u64; 2] = [2 << 20, 16 << 20];
/// Bytes of prefetches at the device, likewise.
const PREFETCH_BYTES_MAX: [u64; 2] = [4 << 20, 128 << 20];

/// What is at the device.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    counts: [usize; 5],
    bytes: [u64; 5],
}

impl Load {
    pub(super) fn add(&mut self, kind: OperationKind, bytes: u64) {
        self.counts[kind as usize] += 1;
        self.bytes[kind as usize] += bytes;
    }

    pub(super) fn remove(&mut self, kind: OperationKind, bytes: u64) {
        self.counts[kind as usize] -= 1;
        self.bytes[kind as usize] -= bytes;
    }

    pub(super) fn count(&self, kind: OperationKind) -> usize {
        self.counts[kind as usize]
    }

    pub(super) fn total(&self) -> usize {
        self.counts.iter().sum()
    }

    /// Writes and moves.
    pub(super) fn writes(&self) -> usize {
        self.count(OperationKind::Write) + self.count(OperationKind::Move)
    }

    /// Whether one more of `kind` may go to the device.
    pub(super) fn allows(&self, kind: OperationKind, bytes: u64, depth: usize, demand: bool) -> bool {
        if self.total() >= depth {
            return false;
        }
        let bytes_of = |kind: OperationKind| self.bytes[kind as usize];
        let limit = |limits: [u64; 2]| if demand { limits[0] } else { limits[1] };
        match kind {
            OperationKind::Demand => true,
            // One place is kept for the demand read that may come.
            OperationKind::Prefetch => {
                let count = self.count(kind);
                let fits = bytes_of(kind) + bytes <= limit(PREFETCH_BYTES_MAX);
                count == 0 || (fits && count + 1 < depth)
            }
            OperationKind::Write | OperationKind::Move => {
                let under_way = bytes_of(OperationKind::Write) + bytes_of(OperationKind::Move);
                let fits = under_way + bytes <= limit(WRITE_BYTES_MAX);
                self.writes() == 0 || (fits && self.writes() < (depth / 2).max(1))
            }
            OperationKind::Verify => self.total() == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 2 << 20;

    #[test]
    fn writes_leave_half_of_the_device_and_at_least_one_may_go() {
        let mut load = Load::default();
        for _ in 0..8 {
            assert!(load.allows(OperationKind::Write, BLOCK, 32, false));
            load.add(OperationKind::Write, BLOCK);
        }
        assert!(
            !load.allows(OperationKind::Write, BLOCK, 32, false),
            "16 MiB are at the device"
        );
        assert!(load.allows(OperationKind::Demand, BLOCK, 32, false));
        let mut load = Load::default();
        assert!(
            load.allows(OperationKind::Write, 1 << 30, 1, true),
            "one is always allowed"
        );
        for _ in 0..4 {
            load.add(OperationKind::Write, 8192);
        }
        assert!(
            !load.allows(OperationKind::Write, 8192, 8, false),
            "half of the depth"
        );
    }

    #[test]
    fn little_is_given_to_the_device_while_look_ups_read() {
        let mut load = Load::default();
        load.add(OperationKind::Move, BLOCK);
        assert!(!load.allows(OperationKind::Write, 8192, 32, true));
        load.add(OperationKind::Prefetch, BLOCK);
        load.add(OperationKind::Prefetch, BLOCK);
        assert!(!load.allows(OperationKind::Prefetch, BLOCK, 32, true));
        assert!(load.allows(OperationKind::Prefetch, BLOCK, 32, false));
    }

    #[test]
    fn verifying_is_for_a_device_with_nothing_else_to_do() {
        let mut load = Load::default();
        assert!(load.allows(OperationKind::Verify, BLOCK, 32, false));
        load.add(OperationKind::Write, 8192);
        assert!(!load.allows(OperationKind::Verify, BLOCK, 32, false));
    }
}
