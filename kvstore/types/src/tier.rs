//! The tiers a copy of a block can be in.

/// A tier below the engine's own memory, fastest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// The shared host region.
    Host,
    /// Segments on local NVMe.
    Nvme,
    /// A shared filesystem or an object store.
    Remote,
}

impl Tier {
    /// The name used in logs, metrics and the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Nvme => "nvme",
            Self::Remote => "remote",
        }
    }
}
