//! The engine against random clients that crash, lie and stall, and a model that knows what must be true.
//!
//! One seed is one run: which clients there are, what each does at every step, what dies when, and how late the
//! daemon hears of it. Clients write into a pretended region what only they would write, so a load that is served
//! anything else is noticed, whoever mixed it up. In most runs there are NVMe devices that carry out orders late and in
//! any order, fail, lose and change what they hold, and outlive the daemon, which is killed and started again. In most there is a remote
//! tier, which others fill and sweep too. After every step the engine's answers are compared with the model
//! and its books are audited:
//!
//! | promise (design) | how it would be noticed |
//! |---|---|
//! | 1 wrong bytes never | each granted load holds what a client of the same identity wrote for that key |
//! | 2 visible only if all ranks sealed | look-ups equal the definition over what all ranks sealed; every publication is expected |
//! | 3 sealed bytes do not change, leases hold | bytes are compared at loads, at removals and now and then; leased blocks are never removed; no slot reference is granted twice |
//! | 5 everything comes back, not before the last access | a granted slot is nobody's to write or read; after everyone died nothing is left |
//! | 7 bounds | quotas and queues are audited; eviction ends |
//! | 4 memory belongs to the operation | no slot is handed out, removed or written while a device works on it; no segment is opened or deleted under an order |
//! | 6 what is acknowledged survives | each block announced on NVMe is on a device that would tell of it; told blocks are found; announcements replayed equal residency |
//! | announcements are the truth | replayed, they equal residency and descriptors of every block; so do a snapshot in slices and those since its beginning |
//! | 7 bounds of NVMe | look-ups that wait are answered once, by their deadline; bytes and rates stay below their limits |
//! | 8 capacity | slots lie inside the region, behind the header, and never overlap; extents are new and lie in an open segment; there are never too many files |
//! | what is kept stays | a copy that is kept is nobody's victim, and no more is kept than may be |
//! | 9 an idle daemon sleeps | when all is answered nothing is left to do, and no moment is waited for |
//!
//! A run that fails panics with the promise and the seed.
#![allow(clippy::panic, reason = "a broken promise stops the run")]

mod actions;
mod client;
mod copies;
mod device;
mod disk;
mod evictions;
mod keeps;
mod lies;
mod listener;
mod loads;
mod lookups;
mod model;
mod nvme;
mod orders;
mod random;
mod remote;
mod stores;
mod tally;
#[cfg(test)]
mod tests;
mod transfers;
mod waits;
mod world;

use world::World;

/// What to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Names the run.
    pub seed: u64,
    /// How many things happen.
    pub steps: u64,
    /// How the engine is broken, to show that the simulation notices.
    pub canary: Canary,
}

/// A way to break the engine on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canary {
    /// It is whole.
    None,
    /// It recycles the slots of a session that hung up without waiting for proof of death.
    RecycleOnHangUp,
    /// It recycles the slots of reads that are under way when a look-up's deadline comes.
    CancelReadsAtDeadline,
    /// It does not announce that a copy on NVMe is gone because it was bad.
    HideCorruption,
}

/// What happened in a run, so that a reader can tell that something did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Events the engine was given.
    pub events: u64,
    /// Blocks published.
    pub published: u64,
    /// Look-ups that hit.
    pub hits: u64,
    /// Blocks loaded and compared.
    pub blocks_compared: u64,
    /// Blocks evicted, for whatever reason.
    pub removed: u64,
    /// Holds taken back.
    pub holds_lost: u64,
    /// Reservations that found no space.
    pub no_space: u64,
    /// Clients cut off.
    pub cut_offs: u64,
    /// Slots and leased blocks that went through quarantine.
    pub quarantined: u64,
    /// Processes killed.
    pub kills: u64,
    /// Arenas that moved to another slot size.
    pub arenas_moved: u64,
    /// Times the daemon was killed and started again.
    pub restarts: u64,
    /// Look-ups that waited for NVMe.
    pub waits: u64,
    /// Those of them that hit.
    pub hits_after_waiting: u64,
    /// Those of them that were answered at their deadline.
    pub late: u64,
    /// Writes ordered.
    pub writes: u64,
    /// Blocks written.
    pub written: u64,
    /// Reads ordered.
    pub reads: u64,
    /// Blocks promoted.
    pub promoted: u64,
    /// Moves ordered.
    pub moves: u64,
    /// Blocks carried over.
    pub carried_over: u64,
    /// Blocks reclaimed.
    pub reclaimed: u64,
    /// Blocks verified and found good.
    pub scrubbed: u64,
    /// Blocks found damaged.
    pub corrupt: u64,
    /// Blocks told at a start.
    pub blocks_told: u64,
    /// Orders answered by devices.
    pub orders_answered: u64,
    /// Copies that left because somebody asked for it.
    pub requested: u64,
    /// Copies that were kept when somebody wished it.
    pub kept: u64,
    /// Devices lost.
    pub devices_lost: u64,
    /// Blocks that got a descriptor after they had been announced.
    pub described_late: u64,
    /// Snapshots taken whole, in slices.
    pub snapshots: u64,
    /// Orders answered by the remote tier.
    pub remote_answered: u64,
    /// Blocks stored there.
    pub remote_stored: u64,
    /// Blocks that questions found there.
    pub remote_found: u64,
    /// Blocks fetched from there.
    pub remote_fetched: u64,
    /// Blocks that were known to be there and were gone, or bad.
    pub remote_gone: u64,
    /// Blocks of hits that came from there.
    pub remote_hit_blocks: u64,
    /// Look-ups answered at their deadline, before the remote tier had said what is there.
    pub remote_late: u64,
    /// Blocks there that were forgotten.
    pub remote_forgotten: u64,
    /// Namespaces that devices were told to forget.
    pub namespaces_dropped: u64,
}

/// Runs a plan to its end, and then lets everyone die and checks that nothing is left.
///
/// # Panics
///
/// If the engine breaks a promise.
pub fn run(plan: Plan) -> Summary {
    let mut world = World::new(plan);
    for _ in 0..plan.steps {
        world.act();
    }
    world.quiesce();
    // What was acknowledged is there for the next daemon.
    world.restart();
    world.settle_devices();
    world.summary()
}
