//! Who sweeps: one node at a time, chosen through the store.
//!
//! The lease is an object that is only ever replaced as long as nobody else did. Its holder renews it; whoever has seen it
//! unchanged for twice its duration, **by a clock of its own**, takes it over with the next token. No two clocks are compared,
//! so it does not matter what any of them shows. A holder that was slow finds its own replacement refused, and stops.
//!
//! A removal itself cannot be made to depend on the lease, by any store. So two sweepers may overlap for a moment, after a
//! holder slept through its lease: then blocks go that could have stayed. Nothing but misses comes of it.

use std::time::{Duration, Instant};

use crate::WriterId;
use crate::backend::{Backend, Fault, Replaced, Version};
use crate::format::{LEASE_NAME, Lease};

/// Most bytes of a lease that are read.
const LEASE_BYTES_MAX: u64 = 4096;

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
        // Something that is no lease is treated like one of a usual duration.
        let duration = lease.map_or(60_000, |lease| lease.duration_ms);
        let patience = Duration::from_millis(u64::from(duration)) * 2;
        now.saturating_duration_since(since) >= patience
    }
}

/// A lease that is held.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    lease: Lease,
    version: Version,
    /// When it is time to renew it.
    renew_at: Instant,
}

/// How trying to get the lease ended.
#[derive(Clone, Debug)]
pub(super) enum Taken {
    Held(Held),
    /// Somebody else has it.
    Other(WriterId),
}

impl Held {
    /// Whether it has to be renewed before more work is begun under it: long before others lose patience.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        now >= self.renew_at
    }

    /// Renews it; `None`: it is lost.
    pub(crate) async fn renew(self, backend: &dyn Backend, now: Instant) -> Result<Option<Self>, Fault> {
        replace(backend, now, self.lease, Some(self.version)).await
    }

    /// Gives it back, so that nobody has to wait for it.
    pub(crate) async fn give_back(self, backend: &dyn Backend) -> Result<(), Fault> {
        let lease = Lease {
            duration_ms: 0,
            ..self.lease
        };
        backend
            .replace_small(LEASE_NAME, lease.encode().into(), Some(self.version))
            .await
            .map(|_| ())
    }
}

/// Tries to get the lease.
pub(super) async fn take(
    backend: &dyn Backend,
    watch: &mut Watch,
    now: Instant,
    writer: WriterId,
    duration: Duration,
) -> Result<Taken, Fault> {
    let found = backend.get_small(LEASE_NAME, LEASE_BYTES_MAX).await?;
    let (expected, token, holder) = match found {
        None => (None, 1, None),
        Some(found) => {
            let lease = Lease::decode(&found.bytes);
            if !watch.may_take(now, &found.version, lease.as_ref()) {
                return Ok(Taken::Other(
                    lease.map_or(WriterId([0; 32]), |lease| lease.holder),
                ));
            }
            let token = lease.map_or(1, |lease| lease.token.saturating_add(1));
            (Some(found.version), token, lease.map(|lease| lease.holder))
        }
    };
    let lease = Lease {
        token,
        holder: writer,
        duration_ms: u32::try_from(duration.as_millis()).unwrap_or(u32::MAX),
    };
    match replace(backend, now, lease, expected).await? {
        Some(held) => {
            tracing::info!(token, previous = ?holder, "this node sweeps the remote store from now on");
            Ok(Taken::Held(held))
        }
        None => Ok(Taken::Other(WriterId([0; 32]))),
    }
}

async fn replace(
    backend: &dyn Backend,
    now: Instant,
    lease: Lease,
    expected: Option<Version>,
) -> Result<Option<Held>, Fault> {
    let replaced = backend
        .replace_small(LEASE_NAME, lease.encode().into(), expected)
        .await?;
    Ok(match replaced {
        Replaced::Lost => None,
        // From before the request: what others see begins later.
        Replaced::Done(version) => {
            let duration = Duration::from_millis(u64::from(lease.duration_ms));
            Some(Held {
                lease,
                version,
                renew_at: now + duration / 2,
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
        let held = try_take(&store, &mut Watch::default(), now, 1).await.unwrap();
        held.give_back(&store).await.unwrap();
        let taken = try_take(&store, &mut Watch::default(), now, 2).await.unwrap();
        assert_eq!(taken.lease.token, 2);
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
