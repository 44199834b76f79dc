//! What one look at the metrics shows, gathered from the engine threads.
//!
//! Series stay few: of each tenant only so many namespaces and engines have series of their own. A namespace keeps its own
//! for as long as the daemon knows it, so that a counter never jumps to another namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvstore_engine::{NamespaceUsage, Role};
use kvstore_events::{EventCounters, WatchSource};
use kvstore_trace::{Recorder, TraceCounters};
use kvstore_types::{EngineGroupId, NamespaceId};
use tonic::Status;

use super::certificates::CertificatesView;
use super::{Shared, TenantDoor};
use crate::engine_thread::inquiry::{Inquiry, SessionView, Summary};

/// Namespaces of one tenant with series of their own.
pub(super) const NAMESPACES_MAX: usize = 64;
/// Engines of one tenant with series of their own.
pub(super) const ENGINES_MAX: usize = 128;
/// Letters of a name that a client gave.
const LETTERS_MAX: usize = 128;
/// The descriptor field with the name of the model.
const MODEL_FIELD: &str = "model.id";

/// The namespaces of each tenant that have series of their own, with the names of their models.
#[derive(Debug, Default)]
pub(super) struct Known {
    models: BTreeMap<(String, NamespaceId), String>,
}

/// Everything.
#[derive(Debug)]
pub(super) struct Scrape {
    pub(super) uptime_seconds: f64,
    pub(super) is_ready: bool,
    pub(super) tenants: Vec<TenantScrape>,
    /// What the announcer counts; none: nobody keeps events.
    pub(super) events: Option<EventCounters>,
    /// Of the admin API's port; none: it has none.
    pub(super) certificates: Option<CertificatesView>,
    /// What has become of spans; none: none are recorded.
    pub(super) traces: Option<TraceCounters>,
}

/// One tenant.
#[derive(Debug)]
pub(super) struct TenantScrape {
    pub(super) name: String,
    pub(super) summary: Box<Summary>,
    pub(super) namespaces: Vec<NamespaceScrape>,
    pub(super) engines: Vec<EngineScrape>,
}

/// One namespace.
#[derive(Debug)]
pub(super) struct NamespaceScrape {
    pub(super) id: String,
    pub(super) model: String,
    pub(super) usage: NamespaceUsage,
}

/// One attached engine.
#[derive(Debug)]
pub(super) struct EngineScrape {
    pub(super) group: String,
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) model: String,
    pub(super) sessions: u64,
    pub(super) leases: u64,
    pub(super) leased_blocks: u64,
    pub(super) blocks_held: u64,
}

/// Asks everybody.
pub(super) async fn gather(shared: &Shared, known: &Mutex<Known>) -> Result<Scrape, Status> {
    let mut tenants = Vec::new();
    for tenant in shared.tenants() {
        tenants.push(TenantScrape {
            name: tenant.name.clone(),
            summary: shared.ask(tenant, Inquiry::Summary).await?,
            namespaces: namespaces(shared, tenant, known).await?,
            engines: engines(shared, tenant).await?,
        });
    }
    Ok(Scrape {
        uptime_seconds: shared.since.elapsed().as_secs_f64(),
        is_ready: shared.readiness.waiting_for().is_none(),
        tenants,
        events: shared.events.get().map(WatchSource::count),
        certificates: shared.certificates.as_ref().map(|files| files.view()),
        traces: shared.traces.as_ref().map(Recorder::counters),
    })
}

async fn namespaces(
    shared: &Shared,
    tenant: &TenantDoor,
    known: &Mutex<Known>,
) -> Result<Vec<NamespaceScrape>, Status> {
    let mut all = BTreeMap::new();
    let mut from = Some(0);
    while let Some(first) = from {
        let question = |reply| Inquiry::Namespaces { from: first, reply };
        let page = shared.ask(tenant, question).await?;
        all.extend(page.entries.into_iter().map(|usage| (usage.namespace, usage)));
        from = page.next;
    }
    // No lock is held while an engine thread is asked.
    let newcomers = lock(known).newcomers(&tenant.name, &all);
    for namespace in newcomers {
        let question = |reply| Inquiry::Descriptor { namespace, reply };
        let fields = shared.ask(tenant, question).await?.unwrap_or_default();
        let model = shortened(fields.get(MODEL_FIELD).map_or("", String::as_str));
        let name = (tenant.name.clone(), namespace);
        lock(known).models.insert(name, model);
    }
    let known = lock(known);
    let shown = all.into_values().filter_map(|usage| {
        let model = known.models.get(&(tenant.name.clone(), usage.namespace))?;
        Some(NamespaceScrape {
            id: usage.namespace.to_string(),
            model: model.clone(),
            usage,
        })
    });
    Ok(shown.collect())
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    // No panic leaves it half-written.
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Known {
    /// Forgets namespaces that are gone, and says which get the places there are: those with the most blocks.
    fn newcomers(&mut self, tenant: &str, all: &BTreeMap<NamespaceId, NamespaceUsage>) -> Vec<NamespaceId> {
        self.models
            .retain(|(of, namespace), _| of != tenant || all.contains_key(namespace));
        let taken: BTreeSet<NamespaceId> = self
            .models
            .keys()
            .filter(|(of, _)| of == tenant)
            .map(|(_, namespace)| *namespace)
            .collect();
        let mut new: Vec<&NamespaceUsage> = all
            .values()
            .filter(|usage| !taken.contains(&usage.namespace))
            .collect();
        new.sort_unstable_by_key(|usage| std::cmp::Reverse(usage.blocks));
        let places = NAMESPACES_MAX.saturating_sub(taken.len());
        new.iter().take(places).map(|usage| usage.namespace).collect()
    }
}

async fn engines(shared: &Shared, tenant: &TenantDoor) -> Result<Vec<EngineScrape>, Status> {
    let mut engines = BTreeMap::<EngineGroupId, EngineScrape>::new();
    let mut after = None;
    loop {
        let question = |reply| Inquiry::Sessions { after, reply };
        let page = shared.ask(tenant, question).await?;
        let Some(last) = page.last() else {
            return Ok(engines.into_values().collect());
        };
        after = Some(last.usage.session);
        for view in page.iter().filter(|view| view.usage.role != Role::Observer) {
            let is_known = engines.contains_key(&view.usage.engine_group);
            if is_known || engines.len() < ENGINES_MAX {
                add_session(&mut engines, view);
            }
        }
    }
}

fn add_session(engines: &mut BTreeMap<EngineGroupId, EngineScrape>, view: &SessionView) {
    let usage = &view.usage;
    let engine = engines.entry(usage.engine_group).or_insert_with(|| EngineScrape {
        group: usage.engine_group.to_string(),
        name: shortened(&view.engine_name),
        namespace: usage.namespace.map(|id| id.to_string()).unwrap_or_default(),
        pod: String::new(),
        model: String::new(),
        sessions: 0,
        leases: 0,
        leased_blocks: 0,
        blocks_held: 0,
    });
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    engine.sessions += 1;
    // Any of its sessions may have said it.
    if engine.pod.is_empty() {
        engine.pod = shortened(&view.pod);
    }
    if engine.model.is_empty() {
        engine.model = shortened(&view.model);
    }
    engine.leases += number(usage.leases);
    engine.leased_blocks += number(usage.leased_blocks);
    engine.blocks_held += number(usage.blocks_held);
}

fn shortened(name: &str) -> String {
    name.chars().take(LETTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use kvstore_engine::Traffic;

    use super::*;

    fn usage(number: u8, blocks: u64) -> (NamespaceId, NamespaceUsage) {
        let namespace = NamespaceId([number; 16]);
        let usage = NamespaceUsage {
            namespace,
            blocks,
            host_blocks: 0,
            nvme_blocks: 0,
            remote_blocks: 0,
            remote_bytes: 0,
            engine_groups: 0,
            traffic: Traffic::default(),
        };
        (namespace, usage)
    }

    #[test]
    fn a_namespace_keeps_its_series_and_places_go_to_the_largest() {
        let mut known = Known::default();
        let mut all: BTreeMap<_, _> = (0..100).map(|number| usage(number, u64::from(number))).collect();
        let first = known.newcomers("t", &all);
        assert_eq!(first.len(), NAMESPACES_MAX);
        assert!(first.contains(&NamespaceId([99; 16])) && !first.contains(&NamespaceId([0; 16])));
        for namespace in first {
            known.models.insert(("t".to_owned(), namespace), String::new());
        }
        // One that grew does not push out another; one that is gone makes room.
        let (grown, usage) = usage(0, 1000);
        all.insert(grown, usage);
        assert_eq!(known.newcomers("t", &all), []);
        all.remove(&NamespaceId([99; 16]));
        assert_eq!(known.newcomers("t", &all), [grown]);
        assert_eq!(known.newcomers("other", &all).len(), NAMESPACES_MAX);
    }
}
