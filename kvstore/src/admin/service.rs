//! The methods of `kvtier.v1.Admin`, and the services beside it.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvstore_engine::{NamespaceUsage, Residency};
use kvstore_types::{BlockKey, NamespaceId};
use kvtier_proto::FILE_DESCRIPTOR_SET;
use kvtier_proto::v1;
use kvtier_proto::v1::admin_server::{Admin, AdminServer};
use kvtier_proto::v1::watch_server::WatchServer;
use tonic::service::InterceptorLayer;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Code, Request, Response, Status};
use tonic_health::ServingStatus;

use super::access::{Access, Caller};
use super::change::Leaving;
use super::pins::Target;
use super::watching::Watching;
use super::{Shared, TenantDoor, change, names, pins, removal, show, show_remote};
use crate::config::effective;
use crate::engine_thread::inquiry::{Inquiry, SessionView};
use crate::reload::is_live;

/// Calls under way on one connection.
const CALLS_PER_CONNECTION: u32 = 32;
/// Blocks that one call may ask for.
const BLOCKS_MAX: usize = 4096;

type Answer<T> = Result<Response<T>, Status>;

/// The servers of all services, behind the check of who calls.
pub(super) async fn router(
    shared: &Arc<Shared>,
) -> Result<
    Router<tower_layer::Stack<InterceptorLayer<Access>, tower_layer::Identity>>,
    Box<dyn std::error::Error>,
> {
    let (reporter, health) = tonic_health::server::health_reporter();
    // An empty name stands for the whole server.
    for name in ["", "kvtier.v1.Admin", "kvtier.v1.Watch"] {
        reporter.set_service_status(name, ServingStatus::Serving).await;
    }
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let access = Access::new(&shared.config.borrow().admin);
    let service = Service {
        shared: Arc::clone(shared),
    };
    let watching = Watching::new(shared);
    Ok(Server::builder()
        .max_concurrent_streams(CALLS_PER_CONNECTION)
        .layer(InterceptorLayer::new(access))
        .add_service(AdminServer::new(service))
        .add_service(WatchServer::new(watching))
        .add_service(health)
        .add_service(reflection))
}

/// `kvtier.v1.Admin`.
#[derive(Debug)]
struct Service {
    shared: Arc<Shared>,
}

impl Service {
    /// The namespaces of one tenant whose names begin like this.
    async fn namespaces(&self, tenant: &TenantDoor, digits: &str) -> Result<Vec<NamespaceUsage>, Status> {
        let (mut found, mut from) = (Vec::new(), Some(0));
        while let Some(first) = from {
            let question = |reply| Inquiry::Namespaces { from: first, reply };
            let page = self.shared.ask(tenant, question).await?;
            let entries = page.entries.into_iter();
            found.extend(entries.filter(|usage| names::begins(usage.namespace, digits)));
            from = page.next;
        }
        Ok(found)
    }

    /// The one namespace whose name begins like this.
    async fn one_namespace(&self, tenant: &TenantDoor, digits: &str) -> Result<NamespaceId, Status> {
        names::check_digits(digits)?;
        match self.namespaces(tenant, digits).await?.as_slice() {
            [one] => Ok(one.namespace),
            [] => Err(Status::not_found(format!("no namespace begins with {digits}"))),
            more => Err(Status::invalid_argument(format!(
                "namespace: {} begin with {digits}; want more digits",
                more.len()
            ))),
        }
    }

    /// What an eviction is about: exactly one of the ways to say it.
    async fn leaving(&self, tenant: &TenantDoor, request: &v1::EvictRequest) -> Result<Leaving, Status> {
        let ways = [
            !request.namespace.is_empty(),
            request.all,
            !request.blocks.is_empty(),
            request.prefix.is_some(),
        ];
        match ways.iter().filter(|way| **way).count() {
            1 => {}
            0 => {
                return Err(Status::invalid_argument(
                    "namespace: want one, or blocks, or a prefix, or all to be set",
                ));
            }
            _ => {
                return Err(Status::invalid_argument(
                    "namespace, blocks, prefix, all: want one of them, not several",
                ));
            }
        }
        check_count(request.blocks.len())?;
        if let Some(end) = &request.prefix {
            let prefix = pins::prefix(&self.shared, tenant, names::key(end)?).await?;
            return Ok(Leaving::Prefix(prefix));
        }
        if request.all {
            return Ok(Leaving::All);
        }
        if request.namespace.is_empty() {
            let keys = request.blocks.iter().map(names::key);
            return Ok(Leaving::Blocks(keys.collect::<Result<_, _>>()?));
        }
        let known = self.one_namespace(tenant, &request.namespace).await;
        let namespace = match known {
            // What other nodes have stored need not be known here.
            Err(status) if request.tier() == v1::Tier::Remote && status.code() == Code::NotFound => {
                removal::one_namespace(&self.shared, tenant, &request.namespace).await?
            }
            known => known?,
        };
        Ok(Leaving::Namespace(namespace))
    }

    async fn sessions(&self, tenant: &TenantDoor) -> Result<Vec<SessionView>, Status> {
        let (mut found, mut after) = (Vec::<SessionView>::new(), None);
        loop {
            let question = |reply| Inquiry::Sessions { after, reply };
            let page = self.shared.ask(tenant, question).await?;
            let Some(last) = page.last() else {
                return Ok(found);
            };
            after = Some(last.usage.session);
            found.extend(page);
        }
    }

    async fn descriptor(
        &self,
        tenant: &TenantDoor,
        namespace: NamespaceId,
    ) -> Result<BTreeMap<String, String>, Status> {
        let question = |reply| Inquiry::Descriptor { namespace, reply };
        Ok(self.shared.ask(tenant, question).await?.unwrap_or_default())
    }
}

#[tonic::async_trait]
impl Admin for Service {
    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Answer<v1::GetStatusResponse> {
        let shared = &self.shared;
        let summaries = shared.summaries("").await?;
        let tenants = summaries
            .iter()
            .map(|(tenant, summary)| show::tenant(&tenant.name, summary));
        let tenants = tenants.collect();
        let config = Arc::clone(&shared.config.borrow());
        let settings = effective(&config).into_iter().map(|(key, value)| v1::Setting {
            live: is_live(&key),
            key,
            value,
        });
        let waiting_for = shared.readiness.waiting_for();
        Ok(Response::new(v1::GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_epoch: shared.boot_epoch.to_string(),
            pid: std::process::id(),
            uptime_seconds: shared.since.elapsed().as_secs_f64(),
            settings: settings.collect(),
            tenants,
            ready: waiting_for.is_none(),
            waiting_for: waiting_for.unwrap_or_default(),
            events: shared.events.get().map(show::events).unwrap_or_default(),
        }))
    }

    async fn list_tiers(&self, request: Request<v1::ListTiersRequest>) -> Answer<v1::ListTiersResponse> {
        let summaries = self.shared.summaries(&request.get_ref().tenant).await?;
        let tiers = summaries
            .iter()
            .flat_map(|(tenant, summary)| show::tiers(&tenant.name, summary));
        Ok(Response::new(v1::ListTiersResponse {
            tiers: tiers.collect(),
        }))
    }

    async fn list_devices(
        &self,
        request: Request<v1::ListDevicesRequest>,
    ) -> Answer<v1::ListDevicesResponse> {
        let summaries = self.shared.summaries(&request.get_ref().tenant).await?;
        let devices = summaries.iter().flat_map(|(tenant, summary)| {
            let devices = summary.devices.iter();
            devices.map(|view| show::device(&tenant.name, view))
        });
        let remotes = summaries
            .iter()
            .filter_map(|(tenant, summary)| show_remote::remote(&tenant.name, summary));
        Ok(Response::new(v1::ListDevicesResponse {
            devices: devices.collect(),
            remotes: remotes.collect(),
        }))
    }

    async fn list_namespaces(
        &self,
        request: Request<v1::ListNamespacesRequest>,
    ) -> Answer<v1::ListNamespacesResponse> {
        let v1::ListNamespacesRequest {
            tenant,
            namespace: digits,
            with_descriptor,
        } = request.into_inner();
        if !digits.is_empty() {
            names::check_digits(&digits)?;
        } else if with_descriptor {
            return Err(Status::invalid_argument(
                "with_descriptor: want a namespace beside it, because descriptors may be large",
            ));
        }
        let mut namespaces = Vec::new();
        for tenant in self.shared.named(&tenant)? {
            for usage in self.namespaces(tenant, &digits).await? {
                let descriptor = if with_descriptor {
                    self.descriptor(tenant, usage.namespace).await?
                } else {
                    BTreeMap::new()
                };
                namespaces.push(show::namespace(&tenant.name, &usage, descriptor));
            }
        }
        if namespaces.is_empty() && !digits.is_empty() {
            return Err(Status::not_found(format!("no namespace begins with {digits}")));
        }
        Ok(Response::new(v1::ListNamespacesResponse { namespaces }))
    }

    async fn list_sessions(
        &self,
        request: Request<v1::ListSessionsRequest>,
    ) -> Answer<v1::ListSessionsResponse> {
        let mut sessions = Vec::new();
        for tenant in self.shared.named(&request.get_ref().tenant)? {
            let views = self.sessions(tenant).await?;
            sessions.extend(views.iter().map(|view| show::session(&tenant.name, view)));
        }
        Ok(Response::new(v1::ListSessionsResponse { sessions }))
    }

    async fn lookup_blocks(
        &self,
        request: Request<v1::LookupBlocksRequest>,
    ) -> Answer<v1::LookupBlocksResponse> {
        let v1::LookupBlocksRequest { tenant, blocks } = request.into_inner();
        let tenant = self.shared.one(&tenant)?;
        check_count(blocks.len())?;
        let keys: Vec<BlockKey> = blocks.iter().map(names::key).collect::<Result<_, _>>()?;
        let question = |reply| Inquiry::Residency { keys, reply };
        let found = self.shared.ask(tenant, question).await?;
        let blocks = blocks.into_iter().zip(found);
        Ok(Response::new(v1::LookupBlocksResponse {
            blocks: blocks
                .map(|(block, residency)| resident(block, residency))
                .collect(),
        }))
    }

    async fn evict(&self, request: Request<v1::EvictRequest>) -> Answer<v1::EvictResponse> {
        let caller = Caller::admin(&request, "evict blocks")?;
        let request = request.into_inner();
        let tenant = self.shared.one(&request.tenant)?;
        let leaving = self.leaving(tenant, &request).await?;
        let response = change::evict(&self.shared, tenant, caller, &leaving, &request).await?;
        Ok(Response::new(response))
    }

    async fn pin(&self, request: Request<v1::PinRequest>) -> Answer<v1::PinResponse> {
        let caller = Caller::admin(&request, "pin blocks")?;
        let request = request.into_inner();
        let tenant = self.shared.one(&request.tenant)?;
        let target = match (request.namespace.as_str(), &request.prefix) {
            ("", Some(end)) => Target::Prefix(names::key(end)?),
            ("", None) => return Err(Status::invalid_argument("namespace: want one, or a prefix")),
            (_, Some(_)) => return Err(Status::invalid_argument("prefix: want no namespace beside it")),
            (digits, None) => Target::Namespace(self.one_namespace(tenant, digits).await?),
        };
        let response = pins::pin(&self.shared, tenant, caller, target).await?;
        Ok(Response::new(response))
    }

    async fn list_pins(&self, request: Request<v1::ListPinsRequest>) -> Answer<v1::ListPinsResponse> {
        let response = pins::list(&self.shared, &request.get_ref().tenant).await?;
        Ok(Response::new(response))
    }

    async fn unpin(&self, request: Request<v1::UnpinRequest>) -> Answer<v1::UnpinResponse> {
        let caller = Caller::admin(&request, "end pins")?;
        let request = request.into_inner();
        let tenant = self.shared.one(&request.tenant)?;
        if request.all == (request.pin != 0) {
            return Err(Status::invalid_argument("pin: want one, or all to be set"));
        }
        let pin = (!request.all).then_some(request.pin);
        let response = pins::unpin(&self.shared, tenant, caller, pin).await?;
        Ok(Response::new(response))
    }

    async fn set(&self, request: Request<v1::SetRequest>) -> Answer<v1::SetResponse> {
        let caller = Caller::admin(&request, "change settings")?;
        let response = change::set(&self.shared, caller, request.into_inner()).await?;
        Ok(Response::new(response))
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Answer<v1::DrainResponse> {
        let caller = Caller::admin(&request, "drain the daemon")?;
        let response = change::drain(&self.shared, caller, request.get_ref().no_wait).await?;
        Ok(Response::new(response))
    }
}

fn check_count(blocks: usize) -> Result<(), Status> {
    if blocks <= BLOCKS_MAX {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "blocks: want at most {BLOCKS_MAX}, got {blocks}"
    )))
}

fn resident(block: v1::BlockName, residency: Residency) -> v1::BlockResidency {
    let tiers = [
        (residency.host, v1::Tier::Host),
        (residency.nvme, v1::Tier::Nvme),
        (residency.remote, v1::Tier::Remote),
    ];
    let there = tiers.into_iter().filter(|(is_there, _)| *is_there);
    v1::BlockResidency {
        block: Some(block),
        tiers: there.map(|(_, tier)| tier.into()).collect(),
    }
}
