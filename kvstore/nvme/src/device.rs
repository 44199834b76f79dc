//! One directory of one tenant, open: its two threads, and the way to them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tracing::{info, warn};

use crate::directory::{DirectMode, Directory, Inventory};
use crate::gate::{Gate, GatedFiles};
use crate::io::{CarrierSpec, EngineFound, IoHandle, IoThread, StartError};
use crate::maintenance::{Maintenance, MaintenanceHandle, MaintenanceSpec};
use crate::stats::{Counters, DeviceStats};
use crate::{DeviceEvent, DeviceSpec, EventSink, Memory, OpenError, Order, names_bytes_of};

/// An open device. Dropping it is [`shutdown`](Self::shutdown).
#[derive(Debug)]
pub struct Device {
    gate: Arc<Gate>,
    /// Ended before the maintenance thread, which it tells what it has written. Dropping either waits for its end.
    io: IoThread,
    _maintenance: Maintenance,
    to_io: IoHandle,
    to_maintenance: MaintenanceHandle,
    counters: Arc<Counters>,
    mode: DirectMode,
    memory: Arc<Memory>,
}

impl Device {
    /// Opens a directory, makes it if there is none, and starts to tell `sink` what is in it. Loading goes on when this
    /// returns.
    pub fn open(spec: &DeviceSpec, sink: EventSink) -> Result<Self, OpenError> {
        let (directory, inventory) = Directory::open(spec)?;
        tell_inventory(spec, &inventory);
        let sink = until_lost(sink);
        let counters = Arc::new(Counters::default());
        let mode = directory.mode().clone();
        // Filled in below, before anything can be ordered.
        let link = Arc::new(OnceLock::<MaintenanceHandle>::new());
        let told = link.clone();
        let carrier = CarrierSpec {
            name: spec.name.clone(),
            memory: spec.memory.clone(),
            tier: directory.key().clone(),
            segment_pages: directory.segment_pages(),
            depth: spec.depth.clamp(1, 1024) as usize,
            counters: counters.clone(),
            sink: sink.clone(),
            written: Box::new(move |block| {
                if let Some(maintenance) = told.get() {
                    maintenance.written(block);
                }
            }),
        };
        let number = spec.name.rsplit('/').next().unwrap_or_default();
        let lock = directory
            .lock()
            .map_err(|error| start_error(spec, error.into()))?;
        let thread = format!("kvt-nvme-{number}");
        let io = IoThread::spawn(&thread, spec.io, spec.segments_max, lock, carrier)
            .map_err(|error| start_error(spec, error))?;
        let to_io = io.handle();
        log_open(spec, &mode, &io.engine);
        let names_bytes_max = names_bytes_of(spec.catalogue_bytes_max);
        let maintenance_spec = MaintenanceSpec {
            thread: format!("kvt-maint-{number}"),
            name: spec.name.clone(),
            catalogue_bytes_max: spec.catalogue_bytes_max - names_bytes_max,
            names_bytes_max,
            catalogue_delay: spec.catalogue_delay,
        };
        let gate = Arc::new(Gate::new(sink.clone()));
        let maintenance = Maintenance::spawn(
            directory,
            inventory,
            maintenance_spec,
            Box::new(GatedFiles {
                gate: gate.clone(),
                io: io.handle(),
            }),
            sink,
        )
        .map_err(|error| start_error(spec, error.into()))?;
        let to_maintenance = maintenance.handle();
        let _ = link.set(to_maintenance.clone());
        let memory = spec.memory.clone();
        Ok(Self {
            gate,
            io,
            _maintenance: maintenance,
            to_io,
            to_maintenance,
            counters,
            mode,
            memory,
        })
    }

    /// Gives orders to the device. Never waits. What is ordered in one call goes to the threads together; orders to
    /// different segments overtake one another.
    pub fn submit(&self, orders: Vec<Order>) {
        let passed = self.gate.pass(orders);
        for order in passed.maintenance {
            self.to_maintenance.submit(order);
        }
        self.to_io.submit(passed.transfers);
    }

    /// Figures, from the start of the device.
    pub fn stats(&self) -> DeviceStats {
        DeviceStats {
            engine: self.io.engine.name,
            engine_reason: self.io.engine.reason.clone(),
            direct: self.mode.direct,
            direct_reason: self.mode.reason.clone(),
            memory_bytes: self.memory.bytes() as u64,
            registered_bytes: self.counters.registered_bytes(),
            operations: self.counters.operations(),
            corrupt: self.counters.corrupt(),
            short_transfers: self.counters.short_transfers(),
            maintenance: self.to_maintenance.stats(),
        }
    }

    /// Closes it: what is at the device is finished and answered, what has not begun is answered as failed, the catalogue
    /// is brought up to date. The memory is not used any more when this returns.
    pub fn shutdown(self) {}
}

impl Drop for Device {
    fn drop(&mut self) {
        // The threads end as the fields are dropped, in order.
        self.gate.close();
    }
}

/// A sink that hears nothing more once the device was lost, whichever thread tells it.
fn until_lost(sink: EventSink) -> EventSink {
    let lost = AtomicBool::new(false);
    Arc::new(move |events: Vec<DeviceEvent>| {
        if lost.load(Ordering::SeqCst) {
            return;
        }
        if events
            .iter()
            .any(|event| matches!(event, DeviceEvent::Lost { .. }))
        {
            lost.store(true, Ordering::SeqCst);
        }
        sink(events);
    })
}

fn start_error(spec: &DeviceSpec, error: StartError) -> OpenError {
    let directory = spec.directory.clone();
    match error {
        StartError::Uring(problem) => OpenError::Spec { directory, problem },
        StartError::Io(source) => OpenError::Io {
            what: "start the threads of",
            path: directory,
            source,
        },
    }
}

fn tell_inventory(spec: &DeviceSpec, inventory: &Inventory) {
    let (device, directory) = (&spec.name, spec.directory.display());
    if inventory.created {
        info!(device, %directory, "made a new NVMe directory");
    }
    if !inventory.surplus.is_empty() {
        let (count, segments_max) = (inventory.surplus.len(), spec.segments_max);
        info!(device, %directory, count, segments_max, "deleted segments beyond the capacity");
    }
    for (segment, reason) in &inventory.unusable {
        warn!(device, %directory, segment, reason, "a segment cannot be used and is left alone");
    }
    if !inventory.unknown.is_empty() {
        warn!(device, %directory, files = ?inventory.unknown, "files that are not ours are left alone");
    }
}

fn log_open(spec: &DeviceSpec, mode: &DirectMode, engine: &EngineFound) {
    let (device, directory) = (&spec.name, spec.directory.display());
    let (io, direct, direct_reason) = (engine.name, mode.direct, &mode.reason);
    match &engine.reason {
        None => info!(device, %directory, io, direct, direct_reason, "NVMe device opened"),
        Some(io_reason) => {
            info!(device, %directory, io, io_reason, direct, direct_reason, "NVMe device opened");
        }
    }
}
