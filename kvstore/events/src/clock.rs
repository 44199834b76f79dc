//! What time means here: the stamp on a batch, and the pace of announcements.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Seconds since 1970.
pub(crate) fn seconds() -> f64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// How fast one listener is told everything from the start.
#[derive(Debug)]
pub(crate) struct Pace {
    each: Duration,
    walks_at: Instant,
}

impl Pace {
    /// So many blocks a second.
    pub(crate) fn new(rate: u32) -> Self {
        Self {
            each: Duration::from_secs(1) / rate.max(1),
            walks_at: Instant::now(),
        }
    }

    /// Whether it is time to go on.
    pub(crate) fn allows(&self) -> bool {
        Instant::now() >= self.walks_at
    }

    /// So many blocks have been told.
    pub(crate) fn walked(&mut self, blocks: usize) {
        if blocks > 0 {
            let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
            self.walks_at = self.walks_at.max(Instant::now()) + self.each * blocks;
        }
    }

    /// Sleeps until it is time to go on.
    pub(crate) async fn wait(&self) {
        tokio::time::sleep_until(self.walks_at).await;
    }
}
