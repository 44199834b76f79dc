//! What a device counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kvstore_types::{Corruption, IoOutcome, ReadClass};

use crate::maintenance::MaintenanceStats;

/// What an operation does, and how urgent it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OperationKind {
    /// A read that a look-up waits for.
    Demand,
    /// A read that nobody waits for.
    Prefetch,
    /// A write.
    Write,
    /// A copy from one place of the device to another.
    Move,
    /// A read that is thrown away.
    Verify,
}

impl OperationKind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Demand,
        Self::Prefetch,
        Self::Write,
        Self::Move,
        Self::Verify,
    ];

    /// The name used in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Demand => "demand",
            Self::Prefetch => "prefetch",
            Self::Write => "write",
            Self::Move => "move",
            Self::Verify => "verify",
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

/// Upper bounds of the counts of latencies, in microseconds; what is longer is counted in one more.
pub const LATENCY_BOUNDS_US: [u64; 12] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000,
];

const LATENCIES: usize = LATENCY_BOUNDS_US.len() + 1;

/// Figures of one kind of operation, from the start of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperationStats {
    /// Operations that came out well.
    pub done: u64,
    /// Bytes of those, headers included.
    pub bytes: u64,
    /// Operations that found something else than the block.
    pub corrupt: u64,
    /// Operations there was no room for.
    pub no_space: u64,
    /// Operations that failed otherwise, or were not possible.
    pub failed: u64,
    /// Operations that wait for their turn now.
    pub waiting: u64,
    /// Operations at the device now.
    pub under_way: u64,
    /// Time from order to answer of all answered ones together, in microseconds.
    pub latency_us_sum: u64,
    /// Answered ones by that time: the first with at most [`LATENCY_BOUNDS_US`]`[0]`, and so on.
    pub latency_counts: [u64; LATENCIES],
}

/// Figures of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceStats {
    /// How reads and writes are given to the kernel: `io-uring` or `threads`.
    pub engine: &'static str,
    /// Why it is not io_uring, if that was not asked for.
    pub engine_reason: Option<String>,
    /// Whether the page cache is passed by.
    pub direct: bool,
    /// Why, or why not.
    pub direct_reason: String,
    /// Bytes of the memory that slots lie in.
    pub memory_bytes: u64,
    /// Bytes of it that are registered with io_uring.
    pub registered_bytes: u64,
    /// By [`OperationKind::ALL`].
    pub operations: [OperationStats; 5],
    /// What was found instead of a block, by [`Corruption::ALL`].
    pub corrupt: [u64; Corruption::ALL.len()],
    /// Transfers that moved fewer bytes than they were asked to and were continued.
    pub short_transfers: u64,
    /// What the other thread counts; `waiting` is how far the catalogue is behind.
    pub maintenance: MaintenanceStats,
}

impl DeviceStats {
    /// The figures of one kind.
    pub fn operation(&self, kind: OperationKind) -> &OperationStats {
        &self.operations[kind as usize]
    }
}

#[derive(Debug, Default)]
struct OperationCounters {
    done: AtomicU64,
    bytes: AtomicU64,
    corrupt: AtomicU64,
    no_space: AtomicU64,
    failed: AtomicU64,
    waiting: AtomicU64,
    under_way: AtomicU64,
    latency_us_sum: AtomicU64,
    latency_counts: [AtomicU64; LATENCIES],
}

/// Written by the I/O thread, read by anybody.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    operations: [OperationCounters; 5],
    corrupt: [AtomicU64; Corruption::ALL.len()],
    short_transfers: AtomicU64,
    registered_bytes: AtomicU64,
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Counters {
    /// An operation was answered.
    pub(crate) fn answered(&self, kind: OperationKind, outcome: IoOutcome, bytes: u64, latency: Duration) {
        let operation = &self.operations[kind as usize];
        match outcome {
            IoOutcome::Done => {
                add(&operation.done, 1);
                add(&operation.bytes, bytes);
            }
            IoOutcome::Corrupt(corruption) => {
                add(&operation.corrupt, 1);
                let place = Corruption::ALL.iter().position(|&each| each == corruption);
                add(&self.corrupt[place.unwrap_or(0)], 1);
            }
            IoOutcome::NoSpace => add(&operation.no_space, 1),
            IoOutcome::Failed => add(&operation.failed, 1),
        }
        let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        add(&operation.latency_us_sum, latency_us);
        let place = LATENCY_BOUNDS_US.partition_point(|&bound| bound < latency_us);
        add(&operation.latency_counts[place], 1);
    }

    /// How many operations of a kind wait and are at the device.
    pub(crate) fn depth(&self, kind: OperationKind, waiting: u64, under_way: u64) {
        let operation = &self.operations[kind as usize];
        operation.waiting.store(waiting, Ordering::Relaxed);
        operation.under_way.store(under_way, Ordering::Relaxed);
    }

    pub(crate) fn short_transfer(&self) {
        add(&self.short_transfers, 1);
    }

    pub(crate) fn registered(&self, bytes: u64) {
        self.registered_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn registered_bytes(&self) -> u64 {
        read(&self.registered_bytes)
    }

    pub(crate) fn short_transfers(&self) -> u64 {
        read(&self.short_transfers)
    }

    pub(crate) fn corrupt(&self) -> [u64; Corruption::ALL.len()] {
        self.corrupt.each_ref().map(read)
    }

    pub(crate) fn operations(&self) -> [OperationStats; 5] {
        self.operations.each_ref().map(|operation| OperationStats {
            done: read(&operation.done),
            bytes: read(&operation.bytes),
            corrupt: read(&operation.corrupt),
            no_space: read(&operation.no_space),
            failed: read(&operation.failed),
            waiting: read(&operation.waiting),
            under_way: read(&operation.under_way),
            latency_us_sum: read(&operation.latency_us_sum),
            latency_counts: operation.latency_counts.each_ref().map(read),
        })
    }
}
