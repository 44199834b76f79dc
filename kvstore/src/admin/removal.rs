//! What is removed from the store of the remote tier because an administrator wants it.

use kvstore_remote::{Removal, Remover};
use kvstore_types::NamespaceId;
use tonic::Status;

use super::change::Leaving;
use super::{Shared, TenantDoor, names};
use crate::engine_thread::inquiry::Inquiry;

/// The way to a tenant's store.
pub(super) async fn remover(shared: &Shared, tenant: &TenantDoor) -> Result<Remover, Status> {
    let remover = shared.ask(tenant, Inquiry::Remover).await?;
    remover.ok_or_else(|| {
        Status::failed_precondition("tier: there is no remote tier here; remote.kind makes one")
    })
}

/// The same in the words of the remote room.
pub(super) fn of(leaving: &Leaving) -> Removal {
    match leaving {
        Leaving::All => Removal::All,
        Leaving::Namespace(namespace) => Removal::Namespace(*namespace),
        Leaving::Blocks(keys) => Removal::Blocks(keys.clone()),
        Leaving::Prefix(prefix) => Removal::Blocks(prefix.keys.clone()),
    }
}

/// The one namespace at the store whose name begins like this.
pub(super) async fn one_namespace(
    shared: &Shared,
    tenant: &TenantDoor,
    digits: &str,
) -> Result<NamespaceId, Status> {
    let remover = remover(shared, tenant).await?;
    let found = remover.namespaces().await.map_err(|text| failed(&text))?;
    let mut fitting = found
        .into_iter()
        .filter(|&namespace| names::begins(namespace, digits));
    match (fitting.next(), fitting.count()) {
        (Some(one), 0) => Ok(one),
        (None, _) => Err(Status::not_found(format!(
            "no namespace begins with {digits}, here or at the store"
        ))),
        (Some(_), more) => Err(Status::invalid_argument(format!(
            "namespace: {} begin with {digits}; want more digits",
            more + 1
        ))),
    }
}

/// The store failed. What was removed until then is gone.
pub(super) fn failed(text: &str) -> Status {
    Status::unavailable(format!(
        "the remote tier: {text}; what was removed until then is gone, and the rest is there"
    ))
}
