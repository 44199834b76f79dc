//! A session's hold on the mapped region.
//!
//! Copies hold the region themselves until they are done, so giving this hold back never pulls memory away from one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use connector_shm::ClientRegion;

use crate::copier::{Pins, SlotMemory, drop_elsewhere};

/// A mapped region that copies can share.
#[derive(Debug)]
pub(super) struct MappedRegion {
    /// Dropped before the region, because fields are dropped in this order.
    pins: Pins,
    region: ClientRegion,
}

// SAFETY: a `ClientRegion` is mapped readable and writable, and sealed against shrinking, until it is dropped; the pins are
// dropped before.
unsafe impl SlotMemory for MappedRegion {
    fn base(&self) -> *mut u8 {
        self.region.base()
    }

    fn bytes(&self) -> u64 {
        self.region.bytes()
    }

    fn pins(&self) -> &Pins {
        &self.pins
    }
}

/// The region of one attachment, until somebody lets go of it.
#[derive(Debug)]
pub(super) struct RegionCell {
    region: Mutex<Option<Arc<MappedRegion>>>,
    bytes: u64,
    /// The caller was told an address: only a call of its own may make it void.
    addressed: AtomicBool,
}

impl RegionCell {
    pub(super) fn new(region: ClientRegion) -> Self {
        let bytes = region.bytes();
        Self {
            region: Mutex::new(Some(Arc::new(MappedRegion {
                pins: Pins::default(),
                region,
            }))),
            bytes,
            addressed: AtomicBool::new(false),
        }
    }

    /// Bytes of the region, also after it was given back.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The region, for a copy.
    pub(super) fn get(&self) -> Option<Arc<MappedRegion>> {
        self.lock().clone()
    }

    /// The region, for somebody who will know an address in it.
    pub(super) fn get_addressed(&self) -> Option<Arc<MappedRegion>> {
        let region = self.lock();
        self.addressed.store(true, Ordering::Relaxed);
        region.clone()
    }

    /// Lets go, unless somebody knows an address. For the guardian, who does not know what the caller is doing.
    pub(super) fn release_unless_addressed(&self) {
        let mut region = self.lock();
        let gone = if self.addressed.load(Ordering::Relaxed) {
            None
        } else {
            region.take()
        };
        drop(region);
        // Unmapping takes its time with small pages; nobody has to wait for it.
        drop(gone);
    }

    /// Lets go. The caller is the engine: a device that holds on to the region gives it up in a thread of its own.
    pub(super) fn release(&self) {
        let gone = self.lock().take();
        if let Some(region) = gone {
            drop_elsewhere(region as Arc<dyn SlotMemory>);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<MappedRegion>>> {
        self.region.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
