//! Identities: of sessions, processes, engine groups, ranks and daemon boots.

use std::fmt;

/// One attachment of one client to the daemon. Never reused within a boot of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// One operating-system process as the daemon knows it: named by the daemon when it first gets a handle that can
/// prove the process's death. Two sessions of one process carry the same id. Never reused within a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId(pub u64);

/// The sessions of one inference engine (its scheduler and its workers) present the same 16 bytes, drawn at random
/// by the engine at each start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EngineGroupId(pub [u8; 16]);

/// Index of a worker among the workers of its engine on this node: `0..rank_count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rank(pub u16);

/// A number chosen by the client that names one of its operations; unique among the operations, look-ups and leases
/// that are alive in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u64);

/// Sixteen random bytes drawn by the daemon at each start. Two values that differ mean: nothing that was learned
/// under the one holds under the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BootEpoch(pub [u8; 16]);

macro_rules! display_number {
    ($($name:ident $prefix:literal),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    )*};
}
display_number!(SessionId "s", ProcessId "p", Rank "rank ", Tag "#");

macro_rules! display_hex {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    )*};
}
display_hex!(EngineGroupId, BootEpoch);
