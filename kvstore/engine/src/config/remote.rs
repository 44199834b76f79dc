//! What an engine knows of its remote tier before it begins.

use std::time::Duration;

use super::{ConfigError, in_range};

/// The remote tier of one tenant.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteConfig {
    /// Which blocks are written.
    pub admission: RemoteAdmission,
    /// How long a look-up waits for the remote tier, from the question to the last block. Zero: it does not, and the tier
    /// is written and never read.
    pub promotion_deadline: Duration,
    /// Most bytes on their way into host memory, from whatever tier, beyond which nothing more is fetched.
    pub promotion_bytes_max: u64,
    /// Most bytes of stores without an answer. One block is always allowed.
    pub write_bytes_max: u64,
    /// Most blocks that wait to be stored. What comes beyond it is not stored, and counted.
    pub write_queue_max: usize,
    /// Most blocks that are remembered though they are in the remote tier only. They are found without asking.
    pub known_max: usize,
}

/// Which blocks are written to the remote tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum RemoteAdmission {
    /// Every one, when it is sealed.
    #[default]
    Everything,
    /// Those that a look-up has hit in host memory, at the first hit.
    SecondTouch,
    /// Those that leave host memory because it fills up. What has to leave at once is not written, and counted.
    OnEviction,
}

impl RemoteAdmission {
    /// The name used in logs, metrics and the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Everything => "everything",
            Self::SecondTouch => "second-touch",
            Self::OnEviction => "on-eviction",
        }
    }
}

impl RemoteConfig {
    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), ConfigError> {
        let limits = [
            ("remote promotion bytes max", self.promotion_bytes_max),
            ("remote write bytes max", self.write_bytes_max),
            ("remote write queue max", self.write_queue_max as u64),
            ("remote known max", self.known_max as u64),
        ];
        limits
            .into_iter()
            .try_for_each(|(what, actual)| in_range(what, actual, 1, u64::MAX))
    }
}
