//! A tenant's devices, from their opening to their end.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kvstore_engine::{Note, NvmeOrder};
use kvstore_nvme::{
    Device, DeviceEvent, DeviceSpec, EventSink, LoadReport, Memory, OpenError, Order, await_free,
};
use kvstore_types::DeviceIndex;
use tracing::{error, info, warn};

use super::order::translate;
use super::plan::NvmePlan;
use super::space;
use crate::config::{Config, TenantConfig};
use crate::engine_thread::command::{Command, CommandSender};
use crate::tenant::{TenantError, error_chain};

/// How long the catalogue collects changes.
const CATALOGUE_DELAY: Duration = Duration::from_millis(50);

/// The devices of one tenant, in the order of the configuration.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    pub(super) list: Vec<Place>,
}

/// One of the configured directories.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) directory: PathBuf,
    /// None: it could not be opened.
    pub(super) device: Option<Device>,
    /// Why it is out of service, if it is.
    pub(super) lost: Option<String>,
    /// How its start went, once it is over.
    pub(super) loaded: Option<LoadReport>,
    /// Orders of this round.
    orders: Vec<Order>,
}

/// Why the daemon cannot start with this directory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenFailure {
    /// It cannot be made or is no directory.
    #[error(
        "nvme.directories: {} cannot be used; is the device mounted, and may this user write there?",
        directory.display()
    )]
    Directory {
        /// Which.
        directory: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The region cannot be mapped a second time.
    #[error("could not map the region for the NVMe tier")]
    Memory(#[source] io::Error),
    /// It is not as the configuration says.
    #[error("nvme.directories: {}", directory.display())]
    Device {
        /// Which.
        directory: PathBuf,
        /// Why not.
        source: OpenError,
    },
}

/// Waits until nobody else has one of the directories, as those do for a moment who were killed. An error: somebody goes on having it.
pub(crate) fn await_locks(config: &Config) -> Result<(), TenantError> {
    for tenant in &config.tenants {
        for directory in &config.nvme.directories {
            await_free(&directory.join(&tenant.name)).or_else(|source| match source {
                OpenError::InUse { .. } => Err(TenantError::InUse {
                    tenant: tenant.name.clone(),
                    source,
                }),
                // Told when it is opened.
                _ => Ok(()),
            })?;
        }
    }
    Ok(())
}

impl Devices {
    /// Opens all directories of a tenant. Loading goes on in the background, and everything that is found is told in
    /// the command queue.
    pub(crate) fn open(
        config: &Config,
        tenant: &TenantConfig,
        plan: &NvmePlan,
        region: (BorrowedFd<'_>, u64),
        commands: &CommandSender,
    ) -> Result<Self, OpenFailure> {
        let memory = Memory::map(region.0, region.1).map_err(OpenFailure::Memory)?;
        let mut devices = Self::default();
        for (number, directory) in plan.directories.iter().enumerate() {
            let spec = DeviceSpec {
                name: format!("{}/{number}", tenant.name),
                tenant: tenant.name.clone(),
                directory: directory.clone(),
                segment_bytes: plan.layout.segment_bytes,
                segments_max: plan.layout.segments_max,
                catalogue_bytes_max: plan.layout.catalogue_bytes_max,
                io: config.nvme.io,
                direct: config.nvme.direct,
                depth: config.nvme.depth,
                catalogue_delay: CATALOGUE_DELAY,
                memory: Arc::clone(&memory),
            };
            let index = DeviceIndex(u8::try_from(number).unwrap_or(u8::MAX));
            let place = Place::open(&spec, index, commands)?;
            devices.list.push(place);
        }
        Ok(devices)
    }

    /// Keeps an order for the next [`submit`](Self::submit).
    pub(crate) fn order(&mut self, device: DeviceIndex, order: &NvmeOrder) {
        if let Some(place) = self.list.get_mut(usize::from(device.0)) {
            place.orders.push(translate(order));
        }
    }

    /// Hands over what was kept, one batch for each device.
    pub(crate) fn submit(&mut self) {
        for place in &mut self.list {
            if place.orders.is_empty() {
                continue;
            }
            let orders = std::mem::take(&mut place.orders);
            if let Some(device) = &place.device {
                device.submit(orders);
            }
        }
    }

    /// Writes into the log what people should know, and keeps it for those who ask later.
    pub(crate) fn tell(&mut self, tenant: &str, device: DeviceIndex, event: &DeviceEvent) {
        let Some(place) = self.list.get_mut(usize::from(device.0)) else {
            return;
        };
        match event {
            DeviceEvent::Loaded(report) => {
                tell_loaded(tenant, &place.directory, report);
                place.loaded = Some(report.clone());
            }
            DeviceEvent::Lost { reason } => {
                error!(
                    tenant, directory = %place.directory.display(), reason,
                    "NVMe device out of service until the next start: mend it and restart the daemon to have it back"
                );
                place.lost = Some(reason.clone());
            }
            _ => {}
        }
    }

    /// Writes a remark of the engine into the log, with the device's name for people.
    pub(crate) fn tell_note(&self, tenant: &str, note: &Note) {
        let place = |device: &DeviceIndex| self.list.get(usize::from(device.0));
        let directory = |device| {
            place(device)
                .map_or(Path::new("?"), |place| &place.directory)
                .display()
        };
        match note {
            Note::NvmeWritesSuspended { device, outcome } => warn!(
                tenant, directory = %directory(device), ?outcome,
                "writing to an NVMe device failed: it is read on, and writing is tried again later"
            ),
            Note::NvmeWritesResumed { device } => {
                info!(tenant, directory = %directory(device), "writing to an NVMe device works again");
            }
            Note::NvmeSegmentNotCreated {
                device,
                segments,
                outcome,
            } => warn!(
                tenant, directory = %directory(device), segments, ?outcome,
                "no room for another segment: the NVMe device goes on with those it has"
            ),
            // A device that says so itself has been told of.
            Note::NvmeDeviceLost { device } if place(device).is_none_or(|place| place.lost.is_none()) => {
                error!(
                    tenant, directory = %directory(device),
                    "NVMe device out of service until the next start, because too many reads in a row failed: mend it and \
                     restart the daemon to have it back"
                );
            }
            Note::NvmeNamespaceDropped {
                device,
                namespace,
                fault,
            } => warn!(
                tenant, directory = %directory(device), %namespace, %fault,
                "blocks found on an NVMe device cannot be used"
            ),
            Note::NvmeDeviceLost { .. }
            | Note::HashSeedDiffers { .. }
            | Note::Quarantined { .. }
            | Note::QuarantineLifted { .. } => {}
        }
    }

    /// Ends what is under way, writes what the catalogues still have to write, and ends the threads.
    pub(crate) fn shutdown(&mut self) {
        for place in &mut self.list {
            if let Some(device) = place.device.take() {
                device.shutdown();
                info!(directory = %place.directory.display(), "NVMe device closed");
            }
        }
    }
}

impl Place {
    fn open(spec: &DeviceSpec, index: DeviceIndex, commands: &CommandSender) -> Result<Self, OpenFailure> {
        let directory = spec.directory.clone();
        if let Some(parent) = directory.parent() {
            let failure = |source| OpenFailure::Directory {
                directory: parent.to_owned(),
                source,
            };
            space::make(parent).map_err(failure)?;
        }
        let share_bytes = u64::from(spec.segments_max) * spec.segment_bytes + spec.catalogue_bytes_max;
        let sender = commands.clone();
        let sink: EventSink = Arc::new(move |events| {
            sender.send(Command::Nvme {
                device: index,
                events,
            });
        });
        let device = match Device::open(spec, sink) {
            Ok(device) => Some(device),
            Err(source) if is_about_configuration(&source) => {
                return Err(OpenFailure::Device { directory, source });
            }
            Err(source) => {
                let reason = error_chain(&source);
                commands.send(Command::Nvme {
                    device: index,
                    events: vec![DeviceEvent::Lost { reason }],
                });
                None
            }
        };
        if device.is_some() {
            space::compare(&directory, share_bytes);
            space::tell_if_memory(&directory);
        }
        Ok(Self {
            directory,
            device,
            lost: None,
            loaded: None,
            orders: Vec::new(),
        })
    }
}

/// Whether a person has to change the configuration or the machine. What is wrong in the directory itself takes the
/// device out of service, and the daemon serves without it.
fn is_about_configuration(error: &OpenError) -> bool {
    // A file system that has become read-only is what ext4 makes of a failing device: the others go on.
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    match error {
        OpenError::Spec { .. } | OpenError::InUse { .. } | OpenError::Direct { .. } => true,
        OpenError::Io { source, .. } => {
            matches!(source.kind(), NotADirectory | NotFound | PermissionDenied)
        }
        _ => false,
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        // The daemon ended before it served, or its thread has panicked.
        self.shutdown();
    }
}

fn tell_loaded(tenant: &str, directory: &Path, report: &LoadReport) {
    info!(
        tenant,
        directory = %directory.display(),
        blocks = report.blocks,
        segments = report.segments,
        segments_scanned = report.segments_scanned,
        catalogue_rebuilt = report.catalogue_rebuilt.as_deref(),
        blocks_dropped = report.blocks_dropped,
        blocks_unfinished = report.blocks_unfinished,
        duration_ms = u64::try_from(report.duration.as_millis()).unwrap_or(u64::MAX),
        "NVMe device loaded"
    );
    if report.blocks_dropped > 0 {
        warn!(
            tenant,
            directory = %directory.display(),
            blocks_dropped = report.blocks_dropped,
            "blocks on an NVMe device are not valid and are misses from now on: their bytes are damaged or were never \
             finished, or their namespace's file is; `kvtier fsck` of the stopped tier tells more"
        );
    }
}
