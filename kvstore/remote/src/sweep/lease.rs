//! Who sweeps: one node at a time, chosen through the store.
//!
//! The lease is an object that is only ever replaced as long as nobody else did. Its holder renews it; whoever has seen it
//! unchanged for twice its duration, **by a clock of its own**, takes it over with the next token. No two clocks are compared,
//! so it does not matter what any of them shows. A holder that was slow finds its own replacement refused, and stops.
//!
//! A person who asks for a sweep does not watch for that long. How long the lease has stood still is asked of the store then,
//! by its own clock: when it was written, and what time it is there now.
//!
//! A file system that is full has no room for a lease either. It is written empty then, which takes no bytes: others see
//! something that is no lease and respect it for as long as such a thing is respected, and its holder renews it before.
//!
//! A removal itself cannot be made to depend on the lease, by any store. So two sweepers may overlap for a moment, after a
//! holder slept through its lease: then blocks go that could have stayed. Nothing but misses comes of it.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use crate::backend::{Backend, Fault, Replaced, Version, Versioned};
use crate::format::{LEASE_NAME, Lease};
use crate::{FaultKind, WriterId};

/// Most bytes of a lease that are read.
const LEASE_BYTES_MAX: u64 = 4096;

/// How long something under the lease's name that is no lease is respected.
const STRANGE_MS: u32 = 60_000;

/// How long a lease may stand still before it is taken over.
fn patience(lease: Option<&Lease>) -> Duration {
    let duration = lease.map_or(STRANGE_MS, |lease| lease.duration_ms);
    Duration::from_millis(u64::from(duration)) * 2
}

/// What a node has seen of the lease. Pure.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    seen: Option<(Version, Instant)>,
}

impl Watch {
    /// Whether the lease may be taken over, when this is what it is now.
    pub(super) fn may_take(&mut self, now: Instant, version: &Version, lease: Option<&Lease>) -> bool {
        let since = match &self.seen {
            Some((seen, since)) if seen == version => *since,
            _ => {
                self.seen = Some((version.clone(), now));
                now
            }
        };
        now.saturating_duration_since(since) >= patience(lease)
    }
}

/// A lease that is held.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    lease: Lease,
    version: Version,
    /// When it is time to renew it.
    renew_at: Instant,
    /// Whether there was no room to say whose it is.
    is_empty: bool,
}

/// How trying to get the lease ended.
#[derive(Clone, Debug)]
pub(super) enum Taken {
    Held(Held),
    /// Somebody else has it.
    Other(Other),
}

impl Held {
    /// Whether it has to be renewed before more work is begun under it: long before others lose patience.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        now >= self.renew_at
    }

    /// Whether it says nothing to others, as there was no room for it.
    pub(super) fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Renews it; `None`: it is lost.
    pub(crate) async fn renew(self, backend: &dyn Backend, now: Instant) -> Result<Option<Self>, Fault> {
        replace(backend, now, self.lease, Some(self.version)).await
    }
}

/// Who has the lease, as the store tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Other {
    /// `None`: what is under its name is no lease.
    pub(super) holder: Option<WriterId>,
    /// When it was written last, by the store's clock.
    pub(super) renewed: SystemTime,
    /// How long it may stand still before it is taken over.
    pub(super) patience: Duration,
    version: Version,
    token: u64,
}

/// Tries to get the lease. One of this very writer is taken over at once: it was lost to a fault.
pub(super) async fn take(
    backend: &dyn Backend,
    watch: &mut Watch,
    now: Instant,
    writer: WriterId,
    duration: Duration,
) -> Result<Taken, Fault> {
    let Some(found) = backend.get_small(LEASE_NAME, LEASE_BYTES_MAX).await? else {
        return replace_other(backend, now, writer, duration, None).await;
    };
    let lease = Lease::decode(&found.bytes);
    let is_ours = lease.is_some_and(|lease| lease.holder == writer);
    let may_take = watch.may_take(now, &found.version, lease.as_ref()) || is_ours;
    let other = other_of(found, lease);
    if may_take {
        take_over(backend, now, writer, duration, other).await
    } else {
        Ok(Taken::Other(other))
    }
}

/// Takes over a lease that has stood still for long enough, if nobody else has replaced it since.
pub(super) async fn take_over(
    backend: &dyn Backend,
    now: Instant,
    writer: WriterId,
    duration: Duration,
    other: Other,
) -> Result<Taken, Fault> {
    replace_other(backend, now, writer, duration, Some(other)).await
}

fn other_of(found: Versioned, lease: Option<Lease>) -> Other {
    Other {
        holder: lease.map(|lease| lease.holder),
        renewed: found.modified,
        patience: patience(lease.as_ref()),
        version: found.version,
        token: lease.map_or(0, |lease| lease.token),
    }
}

async fn replace_other(
    backend: &dyn Backend,
    now: Instant,
    writer: WriterId,
    duration: Duration,
    other: Option<Other>,
) -> Result<Taken, Fault> {
    let token = other.as_ref().map_or(1, |other| other.token.saturating_add(1));
    let previous = other.as_ref().and_then(|other| other.holder);
    let lease = Lease {
        token,
        holder: writer,
        duration_ms: u32::try_from(duration.as_millis()).unwrap_or(u32::MAX),
    };
    if let Some(held) = replace(backend, now, lease, other.map(|other| other.version)).await? {
        let previous = previous.filter(|previous| *previous != writer);
        let previous = previous.map(|previous| previous.to_string());
        tracing::info!(token, previous, "this node sweeps the remote store from now on");
        return Ok(Taken::Held(held));
    }
    // Somebody else was faster.
    let found = backend.get_small(LEASE_NAME, LEASE_BYTES_MAX).await?;
    let gone = || Fault::new(FaultKind::Server, "the lease is there and is not");
    let found = found.ok_or_else(gone)?;
    let lease = Lease::decode(&found.bytes);
    Ok(Taken::Other(other_of(found, lease)))
}

/// Gives the lease back if this writer has it, so that nobody has to wait for it: whatever became of the work under it.
/// Whether it had it.
pub(super) async fn give_back(backend: &dyn Backend, writer: WriterId) -> Result<bool, Fault> {
    let Some(found) = backend.get_small(LEASE_NAME, LEASE_BYTES_MAX).await? else {
        return Ok(false);
    };
    let ours = Lease::decode(&found.bytes).filter(|lease| lease.holder == writer && lease.duration_ms > 0);
    let Some(lease) = ours else {
        return Ok(false);
    };
    let lease = Lease {
        duration_ms: 0,
        ..lease
    };
    let replacing = backend.replace_small(LEASE_NAME, lease.encode().into(), Some(found.version));
    Ok(matches!(replacing.await?, Replaced::Done(_)))
}

async fn replace(
    backend: &dyn Backend,
    now: Instant,
    lease: Lease,
    expected: Option<Version>,
) -> Result<Option<Held>, Fault> {
    let whole = backend.replace_small(LEASE_NAME, lease.encode().into(), expected.clone());
    let (replaced, good_for_ms, is_empty) = match whole.await {
        // Whoever makes room must not need any.
        Err(fault) if fault.kind == FaultKind::NoSpace => {
            let empty = backend.replace_small(LEASE_NAME, Bytes::new(), expected);
            (empty.await?, lease.duration_ms.min(STRANGE_MS), true)
        }
        replaced => (replaced?, lease.duration_ms, false),
    };
    Ok(match replaced {
        Replaced::Lost => None,
        // From before the request: what others see begins later.
        Replaced::Done(version) => {
            let duration = Duration::from_millis(u64::from(good_for_ms));
            Some(Held {
                lease,
                version,
                renew_at: now + duration / 2,
                is_empty,
            })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStore;

    const DURATION: Duration = Duration::from_mins(1);

    fn writer(number: u8) -> WriterId {
        WriterId([number; 32])
    }

    async fn try_take(store: &MemoryStore, watch: &mut Watch, now: Instant, number: u8) -> Option<Held> {
        match take(store, watch, now, writer(number), DURATION).await.unwrap() {
            Taken::Held(held) => Some(held),
            Taken::Other(_) => None,
        }
    }

    #[tokio::test]
    async fn one_holds_it_and_another_takes_it_over_only_when_it_stands_still() {
        let (store, start) = (MemoryStore::default(), Instant::now());
        let (mut one, mut two) = (Watch::default(), Watch::default());
        let mut held = try_take(&store, &mut one, start, 1).await.unwrap();
        let mut now = start;
        for _ in 0..5 {
            assert!(try_take(&store, &mut two, now, 2).await.is_none());
            now += DURATION;
            held = held.renew(&store, now).await.unwrap().unwrap();
        }
        // It is not renewed any more.
        assert!(try_take(&store, &mut two, now, 2).await.is_none());
        assert!(!held.is_due(now) && held.is_due(now + DURATION / 2));
        assert!(try_take(&store, &mut two, now + DURATION, 2).await.is_none());
        let taken = try_take(&store, &mut two, now + 2 * DURATION, 2).await.unwrap();
        assert_eq!((taken.lease.token, held.lease.token), (2, 1));
        assert!(held.renew(&store, now + 2 * DURATION).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn one_that_is_given_back_is_free_at_once() {
        let (store, now) = (MemoryStore::default(), Instant::now());
        assert_eq!(give_back(&store, writer(1)).await, Ok(false), "there is none");
        try_take(&store, &mut Watch::default(), now, 1).await.unwrap();
        assert_eq!(give_back(&store, writer(2)).await, Ok(false), "it is another's");
        assert!(try_take(&store, &mut Watch::default(), now, 2).await.is_none());
        assert_eq!(give_back(&store, writer(1)).await, Ok(true));
        assert_eq!(give_back(&store, writer(1)).await, Ok(false), "it was given back");
        let taken = try_take(&store, &mut Watch::default(), now, 2).await.unwrap();
        assert_eq!(taken.lease.token, 2);
    }

    #[tokio::test]
    async fn who_lost_sight_of_its_own_lease_has_it_again_at_once() {
        let (store, now) = (MemoryStore::default(), Instant::now());
        let lost = try_take(&store, &mut Watch::default(), now, 1).await.unwrap();
        let again = try_take(&store, &mut Watch::default(), now, 1).await.unwrap();
        assert_eq!((lost.lease.token, again.lease.token), (1, 2));
        assert!(lost.renew(&store, now).await.unwrap().is_none());
        // The same node, started again: nobody knows whether the one before it is dead.
        let next_boot = WriterId::new([1; 16], [9; 16]);
        let tried = take(&store, &mut Watch::default(), now, next_boot, DURATION).await;
        let Taken::Other(other) = tried.unwrap() else {
            panic!("it is another's")
        };
        assert_eq!((other.holder, other.patience), (Some(writer(1)), 2 * DURATION));
    }

    #[tokio::test]
    async fn taking_over_fails_if_the_holder_was_alive_after_all() {
        let (store, now) = (MemoryStore::default(), Instant::now());
        let held = try_take(&store, &mut Watch::default(), now, 1).await.unwrap();
        let tried = take(&store, &mut Watch::default(), now, writer(2), DURATION).await;
        let Taken::Other(other) = tried.unwrap() else {
            panic!("it is another's")
        };
        held.renew(&store, now).await.unwrap().unwrap();
        let late = take_over(&store, now, writer(2), DURATION, other).await.unwrap();
        assert!(matches!(late, Taken::Other(other) if other.holder == Some(writer(1))));
    }

    #[tokio::test]
    async fn of_many_that_want_it_one_gets_it() {
        let (store, now) = (MemoryStore::default(), Instant::now());
        let mut watches: Vec<Watch> = (0..10).map(|_| Watch::default()).collect();
        let tries = watches
            .iter_mut()
            .zip(0..)
            .map(|(watch, number)| try_take(&store, watch, now, number));
        let held = futures_util::future::join_all(tries).await;
        assert_eq!(held.iter().flatten().count(), 1);
    }

    #[tokio::test]
    async fn something_else_under_its_name_is_replaced_after_a_while() {
        let (store, now) = (MemoryStore::default(), Instant::now());
        store.put_small(LEASE_NAME, b"garbage"[..].into()).await.unwrap();
        let mut watch = Watch::default();
        assert!(try_take(&store, &mut watch, now, 1).await.is_none());
        let later = now + Duration::from_mins(2);
        assert!(try_take(&store, &mut watch, later, 1).await.is_some());
    }
}
