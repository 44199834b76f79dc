//! One NVMe device, as the engine sees it.
//!
//! ```text
//!   Loading ── all is told ──▶ Serving ◀──▶ (writes suspended)
//!      │                          │ 16 failed reads in a row
//!      └────── it says so ────────┴──────────────────────────▶ Lost
//! ```

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kvstore_types::OperationId;

use super::bucket::Bucket;
use super::extents::END;
use super::segments::{SegmentState, Segments};
use crate::config::NvmeTuning;

/// Where a device is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceState {
    /// It is telling what is there. What it has told can be read.
    Loading,
    /// It is read and written.
    Serving,
    /// Nothing more is ordered.
    Lost,
}

impl DeviceState {
    /// The name used in logs and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Serving => "serving",
            Self::Lost => "lost",
        }
    }
}

/// Failed reads in a row after which a device is out of service.
pub(crate) const FAILURES_MAX: u32 = 16;

const SUSPENDED_FIRST: Duration = Duration::from_secs(5);
const SUSPENDED_MAX: Duration = Duration::from_mins(1);
const CREATION_PAUSE: Duration = Duration::from_mins(1);

/// Writing has failed; after a while one write shows whether it works again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suspension {
    pub(crate) until: Instant,
    pause: Duration,
    /// The order that shows it.
    pub(crate) probe: Option<OperationId>,
}

/// The segment that is being reclaimed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reclaim {
    pub(crate) victim: u32,
    /// The next copy to be looked at.
    pub(crate) cursor: u32,
    /// Bytes carried over.
    pub(crate) carried_bytes: u64,
    /// Whether what is to be kept is.
    pub(crate) spares_kept: bool,
}

/// One device.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) state: DeviceState,
    pub(crate) segments: Segments,
    pub(crate) suspension: Option<Suspension>,
    /// No file is made before this moment, because the last one could not be.
    pub(crate) creation_paused_until: Option<Instant>,
    /// Bytes of writes under way.
    pub(crate) writing_bytes: u64,
    pub(crate) writes: u32,
    pub(crate) reads: u32,
    pub(crate) moves: u32,
    /// Copies on it.
    pub(crate) blocks: u64,
    /// Pages they take.
    pub(crate) pages: u64,
    pub(crate) write_tokens: Bucket,
    pub(crate) scrub_tokens: Bucket,
    /// Whether reclaiming goes on until the low watermark.
    pub(crate) is_reclaiming: bool,
    pub(crate) reclaim: Option<Reclaim>,
    /// Segments reclaimed since the start.
    pub(crate) reclaimed: u64,
    /// Those since the last copy that left: what follows each other without one only moves copies about.
    pub(crate) reclaimed_in_vain: u32,
    /// The next copy to be verified.
    pub(crate) scrub_cursor: u32,
    /// The segment after which the scrubber looks for its next one.
    pub(crate) scrub_segment: u32,
    pub(crate) is_verifying: bool,
    /// Reads that failed since the last one that did not.
    pub(crate) failures: u32,
    /// Namespaces told by it while it loads.
    pub(crate) told: BTreeSet<u32>,
}

impl Device {
    /// A device that has told nothing yet.
    pub(crate) fn new(segment_pages: u32, tuning: &NvmeTuning) -> Self {
        Self {
            state: DeviceState::Loading,
            segments: Segments::new(segment_pages),
            suspension: None,
            creation_paused_until: None,
            writing_bytes: 0,
            writes: 0,
            reads: 0,
            moves: 0,
            blocks: 0,
            pages: 0,
            write_tokens: Bucket::new(tuning.write_rate),
            scrub_tokens: Bucket::new(tuning.scrub_rate),
            is_reclaiming: false,
            reclaim: None,
            reclaimed: 0,
            reclaimed_in_vain: 0,
            scrub_cursor: END,
            scrub_segment: 0,
            is_verifying: false,
            failures: 0,
            told: BTreeSet::new(),
        }
    }

    /// Whether an order to write may be given, as far as failures go.
    pub(crate) fn is_writable(&self, now: Instant) -> bool {
        let is_due = |suspension: Suspension| suspension.probe.is_none() && now >= suspension.until;
        self.state == DeviceState::Serving && self.suspension.is_none_or(is_due)
    }

    /// The order that has just been given shows whether writing works again, if that is in question.
    pub(crate) fn note_probe(&mut self, operation: OperationId) {
        if let Some(suspension) = &mut self.suspension {
            suspension.probe = Some(operation);
        }
    }

    /// A write (or the opening of a segment) has failed. True if that suspends writing.
    pub(crate) fn write_failed(&mut self, now: Instant, operation: OperationId) -> bool {
        match &mut self.suspension {
            None => {
                self.suspension = Some(Suspension {
                    until: now + SUSPENDED_FIRST,
                    pause: SUSPENDED_FIRST,
                    probe: None,
                });
                true
            }
            Some(suspension) => {
                if suspension.probe == Some(operation) {
                    suspension.pause = (suspension.pause * 2).min(SUSPENDED_MAX);
                    suspension.until = now + suspension.pause;
                    suspension.probe = None;
                }
                false
            }
        }
    }

    /// A write has ended well. True if that resumes writing.
    pub(crate) fn write_succeeded(&mut self, operation: OperationId) -> bool {
        let is_probe = self
            .suspension
            .is_some_and(|suspension| suspension.probe == Some(operation));
        if is_probe {
            self.suspension = None;
        }
        is_probe
    }

    /// No file is made for a while.
    pub(crate) fn pause_creation(&mut self, now: Instant) {
        self.creation_paused_until = Some(now + CREATION_PAUSE);
    }

    /// Whether files may be made.
    pub(crate) fn may_create(&self, now: Instant) -> bool {
        self.creation_paused_until.is_none_or(|until| now >= until)
    }

    /// Files beyond what may be, but for those that are being deleted or cannot be.
    pub(crate) fn surplus(&self, tuning: &NvmeTuning) -> u32 {
        let leaving = self.segments.count(SegmentState::Deleting) + self.segments.count(SegmentState::Broken);
        let staying = self.segments.existing() - leaving;
        staying.saturating_sub(tuning.segments_max)
    }

    /// Whether a segment has to be reclaimed.
    pub(crate) fn wants_reclaim(&self, now: Instant, tuning: &NvmeTuning) -> bool {
        let (free, creating) = (
            self.segments.count(SegmentState::Free),
            self.segments.count(SegmentState::Creating),
        );
        let existing = self.segments.existing();
        let missing = if self.may_create(now) {
            tuning.segments_max.saturating_sub(existing)
        } else {
            0
        };
        let used = existing - free - creating - self.segments.count(SegmentState::Deleting);
        let free_soon = free + creating + missing;
        let above = |watermark: f64| f64::from(used) > watermark * f64::from(tuning.segments_max);
        // Free ones go first when the capacity shrinks.
        if self.surplus(tuning) > free + creating {
            return true;
        }
        if self.is_reclaiming {
            above(tuning.watermark_low) || free_soon < 2
        } else {
            above(tuning.watermark_high) || free_soon < 2
        }
    }

    /// A segment that holds nothing and that nobody reads or writes is free. True if it has become so.
    pub(crate) fn settle(&mut self, index: u32) -> bool {
        let segment = self.segments.get(index);
        let is_over = matches!(segment.state, SegmentState::Full | SegmentState::Reclaiming);
        let is_empty = segment.chain.len == 0 && segment.readers == 0 && segment.writers == 0;
        if !is_over || !is_empty {
            return false;
        }
        self.segments.set_state(index, SegmentState::Free);
        if self.reclaim.is_some_and(|reclaim| reclaim.victim == index) {
            self.reclaim = None;
            self.reclaimed_in_vain += 1;
            self.reclaimed += 1;
        }
        true
    }
}
