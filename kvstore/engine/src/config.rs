//! What an engine is made with.

use std::time::Duration;

use kvstore_types::PAGE_BYTES;

pub use remote::{RemoteAdmission, RemoteConfig};

mod remote;

/// Sizes, limits and the policy of one tenant's engine.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineConfig {
    /// Size of the host region, header included.
    pub region_bytes: u64,
    /// Where the first arena begins; a multiple of a page and at least one page.
    pub header_bytes: u64,
    /// Size of an arena; a multiple of a page. A block may not be larger than this.
    pub arena_bytes: u64,
    /// Who leaves when the tier is full.
    pub policy: PolicyKind,
    /// Eviction that `watermark_high` started ends when no more than this fraction of the region is used.
    pub watermark_low: f64,
    /// Eviction starts when more than this fraction of the region is used; 1 means only when a slot is wanted.
    pub watermark_high: f64,
    /// Spreads blocks over the tables. Nothing depends on its value, but clients should not know it.
    pub seed: u64,
    /// Most sessions at a time. A session that hung up counts until its process is proven dead.
    pub sessions_max: usize,
    /// Most blocks one session may hold and lease at a time.
    pub holds_per_session_max: usize,
    /// Most look-ups and leases one session may have alive at a time.
    pub operations_per_session_max: usize,
    /// Most memory for the descriptors of namespaces and of attached sessions. Namespaces that no engine is attached
    /// to are dropped for it, then attachments are refused.
    pub descriptor_bytes_max: usize,
    /// Part of each tier that may be kept for an administrator's wishes: 0 to 0.5, so that something always can leave.
    pub keep_share: f64,
    /// The NVMe tier; none: there is none, and slots have no header page.
    pub nvme: Option<NvmeConfig>,
    /// The remote tier; none: there is none.
    pub remote: Option<RemoteConfig>,
}

/// The NVMe tier of one tenant.
#[derive(Clone, Debug, PartialEq)]
pub struct NvmeConfig {
    /// Number of devices (directories), at least 1.
    pub device_count: u8,
    /// Size of every segment, its header page included; a multiple of a page. A block that does not fit into one with
    /// its header is not written.
    pub segment_bytes: u64,
    /// What can change while it runs.
    pub tuning: NvmeTuning,
    /// How long a look-up waits for blocks on their way into host memory. Zero: it does not, and NVMe serves prefetches
    /// only.
    pub promotion_deadline: Duration,
    /// Most bytes on their way into host memory at a time; what a look-up would promote beyond it is a miss.
    pub promotion_bytes_max: u64,
    /// Most bytes of writes under way at one device. One block is always allowed.
    pub write_bytes_max: u64,
    /// Most blocks that wait to be written. What is sealed beyond it is not written, and counted.
    pub write_queue_max: usize,
}

/// What can change of the NVMe tier while it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct NvmeTuning {
    /// Most segments at each device, at least 2. Fewer than there are: surplus ones are reclaimed and deleted.
    pub segments_max: u32,
    /// Reclaiming that `watermark_high` started ends when no more than this fraction of the segments is in use.
    pub watermark_low: f64,
    /// Reclaiming starts when more than this fraction of a device's segments is in use, and in any case with the last
    /// free one.
    pub watermark_high: f64,
    /// Which blocks are worth writing.
    pub admission: Admission,
    /// Most bytes written per second and device, carried-over blocks included; none: no limit. Writes wait for it, up to
    /// `write_queue_max`.
    pub write_rate: Option<u64>,
    /// Bytes read per second and device to verify what is stored; none: no scrubbing.
    pub scrub_rate: Option<u64>,
}

/// Which sealed blocks are written to NVMe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Admission {
    /// Every one, when it is sealed.
    #[default]
    All,
    /// Those that a look-up has hit in host memory, at the first hit.
    SecondTouch,
}

impl Admission {
    /// The name used in logs, metrics and the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::SecondTouch => "second-touch",
        }
    }
}

/// The eviction policies there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum PolicyKind {
    /// The block that was not looked up for the longest time leaves.
    Lru,
    /// Blocks that were not looked up soon after they came leave first, so a scan cannot flush the cache.
    #[default]
    S3Fifo,
}

impl PolicyKind {
    /// The name used in logs, metrics and the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lru => "lru",
            Self::S3Fifo => "s3-fifo",
        }
    }

    /// Whether the policy reorders on a hit, beyond the heat every block keeps of itself.
    pub(crate) const fn hears_of_hits(self) -> bool {
        matches!(self, Self::Lru)
    }
}

/// Why an engine cannot be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A size is zero or no multiple of a page.
    #[error("want {what} to be a positive multiple of {PAGE_BYTES} bytes, got {actual}")]
    Unaligned {
        /// Which size.
        what: &'static str,
        /// Its value.
        actual: u64,
    },
    /// Behind the header there is no room for one arena.
    #[error("want a region of at least {expected} bytes (header and one arena), got {actual}")]
    RegionTooSmall {
        /// Bytes needed.
        expected: u64,
        /// Bytes given.
        actual: u64,
    },
    /// Pages could not be numbered.
    #[error("want a region of at most {max} bytes, got {actual}")]
    RegionTooLarge {
        /// Largest region.
        max: u64,
        /// Bytes given.
        actual: u64,
    },
    /// The watermarks are out of order.
    #[error("want 0 < low < high <= 1 for the watermarks, got low {low} high {high}")]
    Watermarks {
        /// The low one.
        low: f64,
        /// The high one.
        high: f64,
    },
    /// The share to be kept is out of range.
    #[error("want 0 to 0.5 for the share to be kept, got {share}")]
    KeepShare {
        /// What was given.
        share: f64,
    },
    /// A limit that must be at least 1 is 0.
    #[error("want {what} to be at least 1, got 0")]
    Zero {
        /// Which limit.
        what: &'static str,
    },
    /// A number of the NVMe or the remote tier is out of range.
    #[error("want {what} to be {min} to {max}, got {actual}")]
    Range {
        /// Which number.
        what: &'static str,
        /// The least it may be.
        min: u64,
        /// The most it may be.
        max: u64,
        /// Its value.
        actual: u64,
    },
}

impl NvmeConfig {
    /// Most devices of one tenant.
    pub const DEVICES_MAX: u8 = 64;
    /// Largest segment.
    pub const SEGMENT_BYTES_MAX: u64 = 1 << 40;

    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), ConfigError> {
        in_range(
            "nvme device count",
            u64::from(self.device_count),
            1,
            u64::from(Self::DEVICES_MAX),
        )?;
        let actual = self.segment_bytes;
        if !actual.is_multiple_of(PAGE_BYTES) {
            let what = "nvme segment bytes";
            return Err(ConfigError::Unaligned { what, actual });
        }
        // Its own header, and a block of one page with its header.
        in_range(
            "nvme segment bytes",
            actual,
            3 * PAGE_BYTES,
            Self::SEGMENT_BYTES_MAX,
        )?;
        let limits = [
            ("nvme promotion bytes max", self.promotion_bytes_max),
            ("nvme write bytes max", self.write_bytes_max),
            ("nvme write queue max", self.write_queue_max as u64),
        ];
        for (what, actual) in limits {
            in_range(what, actual, 1, u64::MAX)?;
        }
        self.tuning.check()
    }
}

impl NvmeTuning {
    /// Most segments at one device.
    pub const SEGMENTS_MAX: u32 = 1 << 20;

    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), ConfigError> {
        let segments = u64::from(self.segments_max);
        in_range("nvme segments max", segments, 2, u64::from(Self::SEGMENTS_MAX))?;
        let (low, high) = (self.watermark_low, self.watermark_high);
        if !(0.0 < low && low < high && high <= 1.0) {
            return Err(ConfigError::Watermarks { low, high });
        }
        for (what, rate) in [
            ("nvme write rate", self.write_rate),
            ("nvme scrub rate", self.scrub_rate),
        ] {
            in_range(what, rate.unwrap_or(1), 1, u64::MAX)?;
        }
        Ok(())
    }
}

fn in_range(what: &'static str, actual: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if (min..=max).contains(&actual) {
        return Ok(());
    }
    Err(ConfigError::Range {
        what,
        min,
        max,
        actual,
    })
}

impl EngineConfig {
    /// Largest region whose slots can be named: page numbers have 32 bits and the last ones are kept free.
    pub const REGION_BYTES_MAX: u64 = (1 << 30) * PAGE_BYTES;

    /// Largest part of each tier that may be kept.
    pub const KEEP_SHARE_MAX: f64 = 0.5;

    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (what, actual) in [
            ("header bytes", self.header_bytes),
            ("arena bytes", self.arena_bytes),
        ] {
            if actual == 0 || !actual.is_multiple_of(PAGE_BYTES) {
                return Err(ConfigError::Unaligned { what, actual });
            }
        }
        let (actual, max) = (self.region_bytes, Self::REGION_BYTES_MAX);
        if actual > max {
            return Err(ConfigError::RegionTooLarge { max, actual });
        }
        let expected = self.header_bytes.saturating_add(self.arena_bytes);
        if actual < expected {
            return Err(ConfigError::RegionTooSmall { expected, actual });
        }
        let (low, high) = (self.watermark_low, self.watermark_high);
        if !(0.0 < low && low < high && high <= 1.0) {
            return Err(ConfigError::Watermarks { low, high });
        }
        let share = self.keep_share;
        if !(0.0..=Self::KEEP_SHARE_MAX).contains(&share) {
            return Err(ConfigError::KeepShare { share });
        }
        let limits = [
            ("sessions max", self.sessions_max),
            ("holds per session max", self.holds_per_session_max),
            ("operations per session max", self.operations_per_session_max),
            ("descriptor bytes max", self.descriptor_bytes_max),
        ];
        if let Some((what, _)) = limits.into_iter().find(|&(_, limit)| limit == 0) {
            return Err(ConfigError::Zero { what });
        }
        self.nvme.as_ref().map_or(Ok(()), NvmeConfig::check)?;
        self.remote.as_ref().map_or(Ok(()), RemoteConfig::check)
    }

    /// Bytes at the start of each slot that only the daemon uses: with the NVMe tier on, one page for the header that a
    /// block has there.
    pub const fn slot_header_bytes(&self) -> u64 {
        if self.nvme.is_some() { PAGE_BYTES } else { 0 }
    }

    /// Arenas that fit behind the header. Zero only for a configuration that [`check`](Self::check) refuses.
    pub fn arena_count(&self) -> u32 {
        let bytes = self.region_bytes.saturating_sub(self.header_bytes);
        u32::try_from(bytes.checked_div(self.arena_bytes).unwrap_or(0)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> EngineConfig {
        EngineConfig {
            region_bytes: 1 << 20,
            header_bytes: 4096,
            arena_bytes: 65536,
            policy: PolicyKind::S3Fifo,
            watermark_low: 0.8,
            watermark_high: 0.9,
            seed: 7,
            sessions_max: 4,
            holds_per_session_max: 100,
            operations_per_session_max: 10,
            descriptor_bytes_max: 1 << 20,
            keep_share: 0.5,
            nvme: None,
            remote: None,
        }
    }

    #[test]
    fn what_cannot_work_is_refused_and_named() {
        type Change = fn(&mut EngineConfig);
        let cases: [(Change, &str); 9] = [
            (|c| c.header_bytes = 0, "header bytes"),
            (|c| c.arena_bytes = 5000, "arena bytes"),
            (|c| c.region_bytes = 65536, "at least 69632 bytes"),
            (|c| c.region_bytes = u64::MAX, "at most"),
            (|c| c.watermark_low = 0.95, "got low 0.95 high 0.9"),
            (|c| c.watermark_high = f64::NAN, "watermarks"),
            (
                |c| c.keep_share = 0.6,
                "want 0 to 0.5 for the share to be kept, got 0.6",
            ),
            (|c| c.keep_share = f64::NAN, "share"),
            (|c| c.sessions_max = 0, "sessions max"),
        ];
        for (change, expected) in cases {
            let mut config = config();
            change(&mut config);
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(expected), "{error:?} should contain {expected:?}");
        }
    }

    #[test]
    fn arenas_fill_what_the_header_leaves() {
        assert_eq!(config().check(), Ok(()));
        assert_eq!(config().arena_count(), 15);
    }
}
