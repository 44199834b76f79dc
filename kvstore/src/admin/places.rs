//! So many connections at a time. Where a new one finds no place, the one that has moved nothing for longest and is not being
//! answered gives way to it: whoever opens connections and leaves them keeps nobody out.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Sleep;

/// Places for connections.
#[derive(Debug)]
pub(super) struct Places {
    max: usize,
    began: Instant,
    held: Mutex<Vec<Arc<Held>>>,
    /// One that had to be left alone may be made to give way now.
    changed: Notify,
}

#[derive(Debug)]
struct Held {
    /// When bytes went through last, in nanoseconds since the places began.
    moved_ns: AtomicU64,
    /// Requests that are being answered.
    answering: AtomicUsize,
    leave: Notify,
}

/// A connection's place, which is free again when this goes.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    held: Arc<Held>,
}

impl Places {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            began: Instant::now(),
            held: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// A place for one that has just come. Waits only while all others are being answered. For one caller at a time.
    pub(super) async fn take(self: &Arc<Self>) -> Place {
        loop {
            if let Some(place) = self.try_take() {
                return place;
            }
            self.changed.notified().await;
        }
    }

    fn try_take(self: &Arc<Self>) -> Option<Place> {
        let mut held = self.held();
        if held.len() >= self.max {
            let left_alone = |held: &Held| held.answering.load(Ordering::Acquire) == 0;
            let idle = held.iter().enumerate().filter(|(_, held)| left_alone(held));
            let (longest, _) = idle.min_by_key(|(_, held)| held.moved_ns.load(Ordering::Relaxed))?;
            held.swap_remove(longest).leave.notify_one();
        }
        let own = Arc::new(Held {
            moved_ns: AtomicU64::new(self.now_ns()),
            answering: AtomicUsize::new(0),
            leave: Notify::new(),
        });
        held.push(Arc::clone(&own));
        Some(Place {
            places: Arc::clone(self),
            held: own,
        })
    }

    fn held(&self) -> MutexGuard<'_, Vec<Arc<Held>>> {
        // No panic leaves it half-changed.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Place {
    /// Ends when the connection has to give way to another.
    pub(super) async fn left(&self) {
        self.held.leave.notified().await;
    }

    /// Says that a request of it is being answered, for as long as what is returned is kept.
    pub(super) fn answering(&self) -> Answering<'_> {
        self.held.answering.fetch_add(1, Ordering::AcqRel);
        Answering(self)
    }

    fn moved(&self) {
        self.held.moved_ns.store(self.places.now_ns(), Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.held().retain(|held| !Arc::ptr_eq(held, &self.held));
        self.places.changed.notify_one();
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Answering<'a>(&'a Place);

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        // Bytes that the answer has are on their way now.
        self.0.moved();
        self.0.held.answering.fetch_sub(1, Ordering::AcqRel);
        self.0.places.changed.notify_one();
    }
}

/// A stream that notes at its place when bytes go through, and fails when nothing that is written goes out for too long.
#[derive(Debug)]
pub(super) struct Watched<T> {
    stream: T,
    place: Arc<Place>,
    patience: Duration,
    /// Until when something has to go out; none while nothing waits to.
    stuck: Option<Pin<Box<Sleep>>>,
}

impl<T> Watched<T> {
    /// `patience`: how long a write may make no progress.
    pub(super) fn new(stream: T, place: Arc<Place>, patience: Duration) -> Self {
        Self {
            stream,
            place,
            patience,
            stuck: None,
        }
    }

    /// What a write comes to.
    fn written<R>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if let Poll::Ready(result) = written {
            self.stuck = None;
            self.place.moved();
            return Poll::Ready(result);
        }
        let patience = self.patience;
        let stuck = self
            .stuck
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(stuck.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.place.moved();
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test);
    }

    /// Which of them have been told to go.
    fn gone(places: &[Place]) -> Vec<bool> {
        let told = |place: &Place| {
            let mut left = Box::pin(place.left());
            let mut context = Context::from_waker(std::task::Waker::noop());
            left.as_mut().poll(&mut context).is_ready()
        };
        places.iter().map(told).collect()
    }

    #[test]
    fn the_one_that_has_moved_nothing_for_longest_gives_way() {
        run(async {
            let places = Places::new(3);
            let mut held = vec![places.take().await, places.take().await, places.take().await];
            assert_eq!(gone(&held), [false; 3]);
            // The first is the oldest, and not idle.
            held[0].moved();
            held.push(places.take().await);
            assert_eq!(gone(&held), [false, true, false, false]);
            // Who went without being told leaves a place.
            drop(held.remove(2));
            held.push(places.take().await);
            assert_eq!(gone(&held), [false; 4]);
            assert_eq!(places.held().len(), 3);
        });
    }

    #[test]
    fn those_that_are_being_answered_stay() {
        run(async {
            let places = Places::new(2);
            let (first, second) = (places.take().await, places.take().await);
            let answer = first.answering();
            let third = places.take().await;
            assert_eq!(gone(std::slice::from_ref(&second)), [true]);
            let other = third.answering();
            assert!(places.try_take().is_none());
            let next = tokio::join!(places.take(), async { drop(answer) }).0;
            drop((second, other));
            assert_eq!(gone(&[first, third, next]), [true, false, false]);
        });
    }

    #[test]
    fn a_write_that_nobody_takes_ends() {
        run(async {
            let places = Places::new(1);
            let (near, _far) = tokio::io::duplex(8);
            let place = Arc::new(places.take().await);
            let mut stream = Watched::new(near, place, Duration::from_millis(20));
            stream.write_all(b"some").await.unwrap();
            let error = stream.write_all(b"more than it takes").await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        });
    }
}
