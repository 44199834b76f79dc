//! What a remote tier counts.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvstore_types::{Corruption, ReadClass};

use crate::backend::Fault;
use crate::{Direction, FaultKind, Outcome};

/// What an order does, and how urgent it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OperationKind {
    /// A fetch that a look-up waits for.
    Demand,
    /// A fetch that nobody waits for.
    Prefetch,
    /// A store.
    Store,
    /// A look-up.
    Lookup,
    /// A deletion.
    Delete,
}

impl OperationKind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Demand,
        Self::Prefetch,
        Self::Store,
        Self::Lookup,
        Self::Delete,
    ];

    /// The name used in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Demand => "demand",
            Self::Prefetch => "prefetch",
            Self::Store => "store",
            Self::Lookup => "lookup",
            Self::Delete => "delete",
        }
    }
}

impl From<ReadClass> for OperationKind {
    fn from(class: ReadClass) -> Self {
        match class {
            ReadClass::Demand => Self::Demand,
            ReadClass::Prefetch => Self::Prefetch,
        }
    }
}

/// Steps in which times are told: the last but one ends at half an hour.
const LATENCIES: usize = 32;

/// Figures of one kind of order, from the start of the tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperationStats {
    /// Orders that came out well.
    pub done: u64,
    /// Stores of blocks that were there already.
    pub already_present: u64,
    /// Fetches and deletions of blocks that were not there.
    pub missing: u64,
    /// Fetches that found something else than the block.
    pub corrupt: u64,
    /// Orders that a fault ended.
    pub unavailable: u64,
    /// Orders whose deadline passed.
    pub timed_out: u64,
    /// Orders that were never begun.
    pub refused: u64,
    /// Bytes of payloads that were moved.
    pub bytes: u64,
    /// Time from order to answer of all together, in microseconds.
    pub latency_us_sum: u64,
    /// Those that were not answered at once, by that time: place *n* has the ones that took less than 2^*n* microseconds and no less
    /// than half of it; the last one all that took longer.
    pub latency_counts: [u64; LATENCIES],
}

impl OperationStats {
    /// The time in microseconds below which so many percent of the orders were answered, at most twice too long; `None`: there were
    /// none, or it is longer than can be told.
    pub fn latency_us(&self, percent: u64) -> Option<u64> {
        let total: u64 = self.latency_counts.iter().sum();
        let wanted = (total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let place = self.latency_counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        place
            .filter(|place| place + 1 < LATENCIES)
            .map(|place| 1 << place)
    }
}

/// Figures of sweeping, from the start of the tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepStats {
    /// Whether this node holds the lease.
    pub is_holder: bool,
    /// Sweeps that came to their end.
    pub sweeps: u64,
    /// Sweeps that a fault, or a lease that was lost, ended early.
    pub broken: u64,
    /// Blocks that were removed.
    pub blocks_removed: u64,
    /// Bytes of those.
    pub bytes_removed: u64,
    /// Half-written files that were removed.
    pub temporaries_removed: u64,
}

/// An outage that is going on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// What failed first; or what cannot be mended by repeating, if that ended the row.
    pub cause: FaultKind,
    /// The same for people.
    pub text: String,
    /// Since when.
    pub since: Instant,
}

/// The fault that was met last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastFault {
    /// What kind of fault.
    pub kind: FaultKind,
    /// The same for people.
    pub text: String,
    /// When.
    pub at: Instant,
}

/// The room of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes of all of it.
    pub bytes: u64,
    /// Bytes that may still be written.
    pub free_bytes: u64,
    /// Bytes that are left free.
    pub reserve_bytes: u64,
}

/// Figures of a remote tier, from its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteStats {
    /// What it is and how it works, for people. Nothing in it is secret.
    pub description: String,
    /// What kind it is: `mount`, or the language of a store.
    pub kind: &'static str,
    /// Whether it is in service, by direction.
    pub in_service: [bool; 2],
    /// What this node is called at the store: the beginning of its half of a [`crate::WriterId`].
    pub node: String,
    /// The outage that is going on, by direction.
    pub outage: [Option<Outage>; 2],
    /// The fault that was met last, by direction, whether it led to an outage or not.
    pub last_fault: [Option<LastFault>; 2],
    /// What the file system told of its room; none: it did not, or there is none.
    pub room: Option<Room>,
    /// Orders, by [`OperationKind`].
    pub operations: [OperationStats; 5],
    /// Orders that wait for their turn: fetches, writes, look-ups.
    pub waiting: [u64; 3],
    /// Operations that the store is not done with, by the same. They may be answered already.
    pub under_way: [u64; 3],
    /// Orders that have not been answered.
    pub unanswered: u64,
    /// Attempts that failed, by [`FaultKind`].
    pub faults: [u64; FaultKind::ALL.len()],
    /// Attempts that were repeated.
    pub retries: u64,
    /// Fetches that were asked for a second time before the first answer came.
    pub hedges: u64,
    /// And whose second answer came first.
    pub hedges_won: u64,
    /// How often the store went out of service, by direction.
    pub outages: [u64; 2],
    /// Probes that failed, by direction.
    pub probes_failed: [u64; 2],
    /// What was wrong with blocks, by [`Corruption`].
    pub corrupt: [u64; Corruption::ALL.len()],
    /// Blocks that were read wrong at first and right when they were read again.
    pub corrupt_in_flight: u64,
    /// Damaged blocks that were replaced.
    pub replaced: u64,
    /// Blocks of look-ups that were known to be there, known to be missing, and asked for.
    pub lookup_blocks: [u64; 3],
    /// Records of accesses that were written.
    pub touched_written: u64,
    /// Accesses that were not told to the store.
    pub touched_dropped: u64,
    /// Sweeping.
    pub sweep: SweepStats,
}

impl RemoteStats {
    /// The count of one kind of fault.
    pub fn fault(&self, kind: FaultKind) -> u64 {
        self.faults[kind as usize]
    }

    /// The figures of one kind of order.
    pub fn operation(&self, kind: OperationKind) -> &OperationStats {
        &self.operations[kind as usize]
    }
}

/// Where figures are collected.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<RemoteStats>);

impl Counters {
    /// The figures, to be changed or read.
    pub(crate) fn lock(&self) -> MutexGuard<'_, RemoteStats> {
        // Numbers are never half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An order was answered.
    pub(crate) fn answered(&self, kind: OperationKind, outcome: Outcome, bytes: u64, latency: Duration) {
        let mut stats = self.lock();
        if let Outcome::Corrupt(corruption) = outcome {
            let place = Corruption::ALL.iter().position(|&each| each == corruption);
            stats.corrupt[place.unwrap_or(0)] += 1;
        }
        let operation = &mut stats.operations[kind as usize];
        let count = match outcome {
            Outcome::Done => {
                operation.bytes += bytes;
                &mut operation.done
            }
            Outcome::AlreadyPresent => &mut operation.already_present,
            Outcome::Missing => &mut operation.missing,
            Outcome::Corrupt(_) => &mut operation.corrupt,
            Outcome::Unavailable(_) => &mut operation.unavailable,
            Outcome::TimedOut => &mut operation.timed_out,
            Outcome::Refused(_) => &mut operation.refused,
        };
        *count += 1;
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        operation.latency_us_sum += us;
        if us > 0 {
            let place = (u64::BITS - us.leading_zeros()) as usize;
            operation.latency_counts[place.min(LATENCIES - 1)] += 1;
        }
    }

    /// A fault was met.
    pub(crate) fn met(&self, now: Instant, direction: Direction, fault: &Fault) {
        self.lock().last_fault[direction as usize] = Some(LastFault {
            kind: fault.kind,
            text: fault.text.clone(),
            at: now,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_no_less_than_the_time_and_less_than_twice_as_long() {
        let counters = Counters::default();
        let quantiles = || {
            let stats = counters.lock();
            let operation = stats.operation(OperationKind::Demand);
            (operation.latency_us(50), operation.latency_us(99))
        };
        assert_eq!(quantiles(), (None, None));
        let answered = |us| {
            let latency = Duration::from_micros(us);
            counters.answered(OperationKind::Demand, Outcome::Done, 0, latency);
        };
        // What was answered at once, from what is known, says nothing about the store.
        answered(0);
        assert_eq!(quantiles(), (None, None));
        for _ in 0..98 {
            answered(1000);
        }
        answered(5000);
        answered(1_000_000);
        assert_eq!(quantiles(), (Some(1024), Some(8192)));
        for _ in 0..1000 {
            answered(2_000_000_000_000);
        }
        assert_eq!(quantiles(), (None, None), "longer than can be told");
    }
}
