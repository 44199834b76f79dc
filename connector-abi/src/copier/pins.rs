//! What devices hold on to memory with, kept with the memory.
//!
//! Pinned memory must be unpinned before it is unmapped, and who lets go of a region last is not known: a session, its
//! guardian or a copy. So what a device keeps for a piece of memory hangs on that memory, and is told to let go right before
//! it goes.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use super::SlotMemory;

/// Something that holds on to memory.
pub(super) trait Hold: Any + Send + Sync {
    /// The memory goes. Nobody uses it any more.
    fn let_go(&self);

    /// Drops a share of the memory where nobody waits for it: letting go takes its time.
    fn drop_elsewhere(&self, memory: Arc<dyn SlotMemory>);
}

/// The place where a device keeps its hold on a piece of memory.
#[derive(Default)]
pub struct Pins(Mutex<Option<Held>>);

struct Held {
    hold: Arc<dyn Any + Send + Sync>,
    let_go: Box<dyn Fn() + Send + Sync>,
    drop_elsewhere: Arc<dyn Fn(Arc<dyn SlotMemory>) + Send + Sync>,
}

impl Pins {
    /// The hold that is here, or the one that `make` makes; copiers share it. One of another type is let go.
    pub(super) fn get_or_attach<T: Hold>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Held { hold, let_go, .. }) = &*held {
            if let Ok(hold) = Arc::clone(hold).downcast::<T>() {
                return hold;
            }
            let_go();
        }
        let made = Arc::new(make());
        let (hold, own) = (Arc::clone(&made), Arc::clone(&made));
        *held = Some(Held {
            hold: Arc::clone(&made) as Arc<dyn Any + Send + Sync>,
            let_go: Box::new(move || hold.let_go()),
            drop_elsewhere: Arc::new(move |memory| own.drop_elsewhere(memory)),
        });
        made
    }
}

/// Drops a share of memory that may be the last: in a thread of the device that holds on to it, if one does.
pub(crate) fn drop_elsewhere(memory: Arc<dyn SlotMemory>) {
    let held = memory.pins().0.lock().unwrap_or_else(PoisonError::into_inner);
    let elsewhere = held.as_ref().map(|held| Arc::clone(&held.drop_elsewhere));
    drop(held);
    if let Some(elsewhere) = elsewhere {
        elsewhere(memory);
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Some(held) = self.0.get_mut().unwrap_or_else(PoisonError::into_inner) {
            (held.let_go)();
        }
    }
}

impl std::fmt::Debug for Pins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pins").finish_non_exhaustive()
    }
}
