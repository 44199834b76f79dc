//! What a person would want to know.

use kvstore_types::{DeviceIndex, IoOutcome, NamespaceId, SessionId};

/// A fact worth a line in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Two engines would share a namespace if their block hashes began alike: they will never hit each other's
    /// blocks until they are given the same hash seed.
    HashSeedDiffers {
        /// The namespace that was there.
        existing: NamespaceId,
        /// The namespace that was made now.
        new: NamespaceId,
    },
    /// Slots wait for proof that their engine's processes are dead.
    Quarantined {
        /// How many.
        slots: u32,
        /// Whose session ended.
        session: SessionId,
    },
    /// Slots came back from quarantine.
    QuarantineLifted {
        /// How many.
        slots: u32,
    },
    /// Writing to a device has failed. It is read on, and a write now and then shows whether it works again.
    NvmeWritesSuspended {
        /// Which.
        device: DeviceIndex,
        /// How it failed.
        outcome: IoOutcome,
    },
    /// Writing to a device works again.
    NvmeWritesResumed {
        /// Which.
        device: DeviceIndex,
    },
    /// A segment's file could not be made; the device goes on with those it has, and it is tried again later.
    NvmeSegmentNotCreated {
        /// Which.
        device: DeviceIndex,
        /// Files it has.
        segments: u32,
        /// How it failed.
        outcome: IoOutcome,
    },
    /// A device is out of service: it said so, or too many reads in a row failed. Its copies are lost.
    NvmeDeviceLost {
        /// Which.
        device: DeviceIndex,
    },
    /// The blocks that a device has of a namespace cannot be used and are dropped.
    NvmeNamespaceDropped {
        /// Which.
        device: DeviceIndex,
        /// The namespace.
        namespace: NamespaceId,
        /// Why.
        fault: NamespaceFault,
    },
}

/// Why a namespace found on NVMe cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NamespaceFault {
    /// It is known with another descriptor or another geometry.
    #[error("it is known with another descriptor or geometry")]
    Differs,
    /// Its blocks do not fit into an arena, or it is no geometry at all.
    #[error("its blocks do not fit into an arena")]
    Geometry,
    /// The descriptors of this tenant take as much memory as they may.
    #[error("the descriptors of this tenant take all of the memory they may")]
    NoMemory,
}
