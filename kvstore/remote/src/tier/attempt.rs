//! Attempts of one order: each has its time, failures are told and repeated.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use futures_util::FutureExt;
use tokio::time::{sleep, timeout_at};

use super::shared::{Message, Shared};
use crate::backend::Fault;
use crate::chance::draw;
use crate::state::Retry;
use crate::{Direction, FaultKind};

/// What a call comes to. One that panics has failed: somebody waits to hear of it.
pub(super) async fn caught<T>(what: &str, call: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    // Backends keep nothing half-changed for the next call: their locks are taken over when they are poisoned.
    let result = AssertUnwindSafe(call).catch_unwind().await;
    result.unwrap_or_else(|_| Err(Fault::new(FaultKind::Server, format!("{what} panicked"))))
}

impl Shared {
    /// Calls until it goes well, or repeating cannot help, or there is no time left.
    pub(super) async fn attempts<T, F>(
        &self,
        direction: Direction,
        deadline: Instant,
        mut call: impl FnMut() -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let mut retry = Retry::new(self.spec.retry, deadline);
        loop {
            let until = Instant::now() + self.spec.timing.attempt;
            let result = if until < deadline {
                let timed = timeout_at(until.into(), caught("an attempt", call())).await;
                timed.unwrap_or_else(|_| Err(Fault::new(FaultKind::Stalled, "no answer in time")))
            } else {
                // The dispatcher ends it at the deadline.
                caught("an attempt", call()).await
            };
            self.tell(Message::Attempt(
                direction,
                result.as_ref().map(|_| ()).map_err(Clone::clone),
            ));
            let fault = match result {
                Ok(done) => return Ok(done),
                Err(fault) => fault,
            };
            let chance = draw();
            let Some(wait) = retry.after(Instant::now(), fault.kind, fault.retry_after, chance) else {
                return Err(fault);
            };
            self.counters.lock().retries += 1;
            sleep(wait).await;
        }
    }
}
