//! Threads for calls that may block for ever: a fixed number at most, started when they are needed.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::FaultKind;
use crate::backend::{Fault, Hold};

/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// The threads. Those that hang are left alone when the pool is dropped; they hold nothing but what is theirs.
pub(super) struct Pool {
    shared: Arc<Shared>,
    name: String,
    threads_max: usize,
    queue_max: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work_came: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    is_ending: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    pub(super) fn new(name: &str, threads_max: usize, queue_max: usize) -> Self {
        Self {
            shared: Arc::default(),
            name: name.to_owned(),
            threads_max,
            queue_max,
        }
    }

    /// Calls `job` on one of the threads. It may be called after nobody waits any more, unless it has not begun then.
    /// `hold` is dropped when it is done, or will never be.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        hold: Option<Hold>,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Fault> {
        let (answer, answered) = oneshot::channel();
        let is_bounded = hold.is_some();
        self.push(
            Box::new(move || {
                let _hold = hold;
                if !answer.is_closed() {
                    let _ = answer.send(job());
                }
            }),
            is_bounded,
        )?;
        answered
            .await
            .map_err(|_| Fault::new(FaultKind::Server, "a call panicked"))
    }

    /// Jobs with a hold are bounded by the budget already.
    fn push(&self, job: Job, is_bounded: bool) -> Result<(), Fault> {
        let mut state = self.shared.lock();
        if !is_bounded && state.jobs.len() >= self.queue_max {
            return Err(Fault::new(FaultKind::Stalled, "too many calls wait for a thread"));
        }
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() || state.threads >= self.threads_max {
            drop(state);
            self.shared.work_came.notify_one();
            return Ok(());
        }
        state.threads += 1;
        let name = format!("{}-{}", self.name, state.threads);
        drop(state);
        let shared = self.shared.clone();
        let started = thread::Builder::new().name(name).spawn(move || work(&shared));
        if let Err(error) = started {
            let mut state = self.shared.lock();
            state.threads -= 1;
            if state.threads == 0 {
                state.jobs.clear();
                return Err(Fault::new(
                    FaultKind::Server,
                    format!("start a thread: {}", error.kind()),
                ));
            }
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn threads(&self) -> usize {
        self.shared.lock().threads
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_ending = true;
        state.jobs.clear();
        drop(state);
        self.shared.work_came.notify_all();
    }
}

fn work(shared: &Shared) {
    let mut state = shared.lock();
    loop {
        if let Some(job) = state.jobs.pop_front() {
            drop(state);
            // A job that panics is answered as failed by its channel being dropped.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            state = shared.lock();
            continue;
        }
        if state.is_ending {
            break;
        }
        state.idle += 1;
        let (locked, waited) = shared
            .work_came
            .wait_timeout(state, IDLE)
            .unwrap_or_else(PoisonError::into_inner);
        state = locked;
        state.idle -= 1;
        if waited.timed_out() && state.jobs.is_empty() {
            break;
        }
    }
    state.threads -= 1;
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn calls_that_hang_hold_a_fixed_number_of_threads_and_their_holds() {
        let pool = Arc::new(Pool::new("test", 2, 3));
        let (release, hang) = mpsc::channel::<()>();
        let hang = Arc::new(Mutex::new(hang));
        let (begun, has_begun) = mpsc::channel();
        let hold: Hold = Arc::new(());
        let calls: Vec<_> = (0..6)
            .map(|_| {
                let (pool, hang, hold, begun) = (pool.clone(), hang.clone(), hold.clone(), begun.clone());
                tokio::spawn(async move {
                    let job = move || {
                        let _ = begun.send(());
                        let _ = hang.lock().unwrap().recv();
                    };
                    pool.run(Some(hold), job).await
                })
            })
            .collect();
        let mut count = 0;
        while count < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            count += has_begun.try_iter().count();
        }
        // Nobody waits for them any more.
        for call in calls {
            call.abort();
            assert!(call.await.unwrap_err().is_cancelled());
        }
        assert_eq!(pool.threads(), 2);
        assert_eq!(Arc::strong_count(&hold), 7);
        assert_eq!(pool.run(None, || ()).await.unwrap_err().kind, FaultKind::Stalled);
        drop(release);
        while Arc::strong_count(&hold) > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.run(None, || 7).await, Ok(7));
    }

    #[tokio::test]
    async fn a_call_that_panics_is_a_fault_and_its_thread_goes_on() {
        let pool = Pool::new("test", 1, 3);
        let fault: Result<(), Fault> = pool.run(None, || panic!("as the test asked for")).await;
        assert_eq!(fault.unwrap_err().kind, FaultKind::Server);
        assert_eq!(pool.run(None, || 7).await, Ok(7));
    }
}
