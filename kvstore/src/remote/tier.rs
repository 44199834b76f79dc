//! A tenant's remote tier, from its opening to its end.

use std::sync::Arc;

use connector_shm::{Region, RegionError};
use kvstore_engine::RemoteOrder;
use kvstore_remote::{
    Direction, EventSink, Order, Remote, RemoteEvent as Heard, RemoteTuning, Remover, SpecError,
};
use kvstore_types::BootEpoch;
use tracing::info;

use super::{spec, words};
use crate::config::{Config, TenantConfig};
use crate::engine_thread::command::{Command, CommandSender};

/// The remote tier of one tenant, or none.
#[derive(Debug, Default)]
pub(crate) struct RemoteTier {
    /// None: there is no such tier, or it was closed.
    pub(super) remote: Option<Remote>,
    /// Why it is out of service, by direction; none: it is not.
    pub(super) reasons: [Option<String>; 2],
    /// What a slot begins with that is not its block's.
    header_bytes: u64,
    /// Orders of this round.
    orders: Vec<Order>,
}

/// Why the daemon cannot start with this remote tier.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteTierError {
    /// The region cannot be mapped a second time.
    #[error("could not map the region for the remote tier")]
    Memory(#[source] RegionError),
    /// It is not as the configuration says.
    #[error("the remote tier cannot be opened")]
    Open(#[source] SpecError),
}

impl RemoteTier {
    /// Opens the tier of a tenant, if there is one. Whether its store answers is told in the command queue.
    pub(crate) fn open(
        config: &Config,
        tenant: &TenantConfig,
        (region, header_bytes): (&Region, u64),
        boot_epoch: BootEpoch,
        commands: &CommandSender,
    ) -> Result<Self, RemoteTierError> {
        let Some(backend) = spec::backend(&config.remote, &tenant.name) else {
            return Ok(Self::default());
        };
        let bytes = region.map_bytes().map_err(RemoteTierError::Memory)?;
        let spec = spec::tier(&config.remote, &tenant.name, backend, bytes, boot_epoch);
        let sender = commands.clone();
        let sink: EventSink = Arc::new(move |events| sender.send(Command::Remote(events)));
        let remote = Remote::open(spec, sink).map_err(RemoteTierError::Open)?;
        let unasked = Some("it has not answered yet".to_owned());
        Ok(Self {
            remote: Some(remote),
            reasons: [unasked.clone(), unasked],
            header_bytes,
            orders: Vec::new(),
        })
    }

    /// Keeps an order for the next [`submit`](Self::submit).
    pub(crate) fn order(&mut self, order: &RemoteOrder) {
        self.orders
            .push(words::translate(order.clone(), self.header_bytes));
    }

    /// Hands over what was kept.
    pub(crate) fn submit(&mut self) {
        if self.orders.is_empty() {
            return;
        }
        let orders = std::mem::take(&mut self.orders);
        if let Some(remote) = &self.remote {
            remote.submit(orders);
        }
    }

    /// The way to its store for removals that a person asks for.
    pub(crate) fn remover(&self) -> Option<Remover> {
        self.remote.as_ref()?.remover()
    }

    /// Changes its bounds.
    pub(crate) fn tune(&self, tuning: RemoteTuning) {
        if let Some(remote) = &self.remote {
            remote.tune(tuning);
        }
    }

    /// Keeps what the tier says of itself. The log has heard of it already.
    pub(crate) fn note(&mut self, event: &Heard) {
        if let Heard::Service {
            direction,
            available,
            reason,
        } = event
        {
            self.reasons[*direction as usize] = (!available).then(|| reason.clone());
        }
    }

    /// Whether it takes stores; while it does not, waiting for them would be in vain.
    pub(crate) fn takes_writes(&self) -> bool {
        self.remote.is_some() && self.reasons[Direction::Write as usize].is_none()
    }

    /// Lets stores that are under way end, gives the lease of sweeping back, and ends the threads.
    pub(crate) fn shutdown(&mut self, tenant: &str) {
        if let Some(remote) = self.remote.take() {
            remote.shutdown();
            info!(tenant, "remote tier closed");
        }
    }
}
