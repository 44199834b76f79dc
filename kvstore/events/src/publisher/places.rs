//! Places of a bound socket.
//!
//! Whoever connects gets one. When all are taken, the connection that has made nothing of its place for the longest (a router
//! that has subscribed to nothing, one that asks for no replay) gives it up to the next one, after a grace in which an honest peer would have. So
//! connections that do nothing keep nobody out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tracing::warn;

use super::Address;

/// Connections that one bound socket serves at a time.
pub(super) const PLACES: usize = 64;
/// How long a connection keeps its place without making anything of it.
const GRACE: Duration = Duration::from_secs(2);
/// Those that have something to lose may lose it meanwhile: it is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// One connection's place.
#[derive(Debug)]
pub(super) struct Seat {
    /// Since when it has been idle; none while something is made of it.
    idle: Mutex<Option<Instant>>,
    leave: Notify,
}

impl Seat {
    /// Of a connection that has just come.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            idle: Mutex::new(Some(Instant::now())),
            leave: Notify::new(),
        })
    }

    /// Of a connection that we made: nobody else wants it.
    pub(super) fn ours() -> Self {
        Self {
            idle: Mutex::new(None),
            leave: Notify::new(),
        }
    }

    /// Whether something is made of it from now on. Returns whether nothing was before.
    pub(super) fn set_used(&self, is_used: bool) -> bool {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let was_idle = idle.is_some();
        *idle = (!is_used).then(|| idle.unwrap_or_else(Instant::now));
        was_idle
    }

    /// Resolves when the place is needed for another.
    pub(super) async fn needed(&self) {
        self.leave.notified().await;
    }

    fn idle_since(&self) -> Option<Instant> {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All places of one socket.
#[derive(Debug)]
pub(super) struct Places {
    address: Address,
    tasks: JoinSet<()>,
    seats: HashMap<Id, Arc<Seat>>,
    grace: Duration,
    notes: Notes,
}

impl Places {
    pub(super) fn new(address: Address) -> Self {
        Self {
            address,
            tasks: JoinSet::new(),
            seats: HashMap::new(),
            grace: GRACE,
            notes: Notes::default(),
        }
    }

    /// Serves one more.
    pub(super) fn give<F>(&mut self, serve: impl FnOnce(Arc<Seat>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let seat = Seat::new();
        let task = self.tasks.spawn(serve(Arc::clone(&seat)));
        self.seats.insert(task.id(), seat);
    }

    /// Waits until a connection has ended; for ever if there is none.
    pub(super) async fn ended(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(ended) => self.free(ended),
            None => std::future::pending().await,
        }
    }

    /// Waits until there is a place for one more.
    pub(super) async fn room(&mut self) {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.free(ended);
        }
        while self.tasks.len() >= PLACES {
            let again = self.displace();
            tokio::select! {
                Some(ended) = self.tasks.join_next_with_id() => self.free(ended),
                () = tokio::time::sleep_until(again) => {}
            }
        }
    }

    /// Waits until all connections have ended.
    pub(super) async fn all_ended(&mut self) {
        while let Some(ended) = self.tasks.join_next_with_id().await {
            self.free(ended);
        }
    }

    /// Asks the one that has been idle for the longest to leave. When to look again.
    fn displace(&mut self) -> Instant {
        let now = Instant::now();
        let idle = self
            .seats
            .values()
            .filter_map(|seat| Some((seat.idle_since()?, seat)));
        let Some((since, seat)) = idle.min_by_key(|(since, _)| *since) else {
            return now + LOOK_AGAIN;
        };
        if now < since + self.grace {
            return (since + self.grace).min(now + LOOK_AGAIN);
        }
        seat.leave.notify_one();
        if let Some(others) = self.notes.note(now) {
            warn!(
                address = %self.address,
                others,
                "all {PLACES} places were taken: a connection that had asked for nothing has lost its place (said once a minute; others: \
                 so many refused or ended since it was said last)"
            );
        }
        now + LOOK_AGAIN
    }

    fn free(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
        self.seats.remove(&id);
    }
}

/// Says the same once in a while, however often it happens.
#[derive(Debug, Default)]
pub(super) struct Notes {
    said: Option<Instant>,
    unsaid: u64,
}

impl Notes {
    const EVERY: Duration = Duration::from_mins(1);

    /// It has happened: how often it did unsaid before, if it is to be said now.
    pub(super) fn note(&mut self, now: Instant) -> Option<u64> {
        if self.said.is_some_and(|said| now < said + Self::EVERY) {
            self.unsaid += 1;
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(grace: Duration) -> Places {
        Places {
            grace,
            ..Places::new("tcp://127.0.0.1:1".parse().unwrap())
        }
    }

    /// Waits for its end, and makes something of its place or not.
    async fn guest(seat: Arc<Seat>, is_used: bool, left: Arc<Mutex<Vec<usize>>>, number: usize) {
        seat.set_used(is_used);
        seat.needed().await;
        left.lock().unwrap().push(number);
    }

    #[tokio::test]
    async fn the_longest_idle_gives_its_place_up_and_who_uses_it_never_does() {
        let left = Arc::new(Mutex::new(Vec::new()));
        let grace = Duration::from_millis(200);
        let mut places = places(grace);
        let mut came = Vec::new();
        for number in 0..PLACES {
            places.room().await;
            came.push(Instant::now());
            places.give(|seat| guest(seat, number % 2 == 0, Arc::clone(&left), number));
            tokio::task::yield_now().await;
        }
        for number in 0..3 {
            places.room().await;
            places.give(|seat| guest(seat, true, Arc::clone(&left), 100 + number));
        }
        assert_eq!(*left.lock().unwrap(), [1, 3, 5]);
        assert!(
            came[5].elapsed() >= grace,
            "not before it had the time to ask for something"
        );
        assert_eq!(places.notes.unsaid, 2, "said once");
    }

    #[tokio::test]
    async fn a_place_that_comes_free_is_given_away() {
        let left = Arc::new(Mutex::new(Vec::new()));
        let mut places = places(Duration::ZERO);
        let end = Arc::new(Notify::new());
        for _ in 0..PLACES {
            let end = Arc::clone(&end);
            places.give(|seat| async move {
                seat.set_used(true);
                end.notified().await;
            });
        }
        tokio::task::yield_now().await;
        let full = tokio::time::timeout(Duration::from_millis(50), places.room()).await;
        assert!(full.is_err(), "everybody uses its place");
        end.notify_one();
        places.room().await;
        places.give(|seat| guest(seat, true, Arc::clone(&left), 0));
        assert_eq!(places.seats.len(), PLACES);
    }
}
