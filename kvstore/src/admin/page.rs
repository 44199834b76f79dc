//! `/`, a page for people, and `/api/status`, which feeds it.
//!
//! The page is one document without anything from elsewhere. It shows what one answer says and what changed between
//! answers, so the daemon remembers nothing for it.

use std::collections::BTreeMap;

use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use kvstore_engine::{HISTOGRAM_BOUNDS_NS, Histogram};
use kvtier_proto::v1;
use serde::Serialize;

use super::scrape::{EngineScrape, NamespaceScrape, Scrape, TenantScrape};
use super::{Shared, show};
use crate::notices::Notice;

const PAGE: &str = concat!(
    include_str!("page/page.html"),
    "<script>\n",
    include_str!("page/page.js"),
    "</script>\n"
);

/// Nothing but what the page brings may run or be asked, and nobody may frame it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page.
pub(super) fn page() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(PAGE.as_bytes())));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// What feeds it, as JSON.
pub(super) fn status(shared: &Shared, scrape: &Scrape) -> Result<Response<Full<Bytes>>, serde_json::Error> {
    let waiting_for = shared.readiness.waiting_for();
    let bounds = HISTOGRAM_BOUNDS_NS.map(seconds);
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        boot_epoch: shared.boot_epoch.to_string(),
        uptime_seconds: scrape.uptime_seconds,
        ready: waiting_for.is_none(),
        waiting_for: waiting_for.unwrap_or_default(),
        bounds_seconds: HISTOGRAMS.iter().map(|name| (*name, bounds)).collect(),
        tenants: scrape.tenants.iter().map(Tenant::of).collect(),
        notices: shared.notices.all(),
    };
    let mut response = Response::new(Full::new(Bytes::from(serde_json::to_vec(&status)?)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The histograms of a tenant, by their fields.
const HISTOGRAMS: [&str; 4] = ["lookups", "lookup_waits", "loads", "stores"];

#[derive(Debug, Serialize)]
struct Status {
    version: &'static str,
    boot_epoch: String,
    uptime_seconds: f64,
    ready: bool,
    waiting_for: String,
    /// Of each histogram's buckets, but the last.
    bounds_seconds: BTreeMap<&'static str, [f64; HISTOGRAM_BOUNDS_NS.len()]>,
    tenants: Vec<Tenant>,
    /// The oldest first.
    notices: Vec<Notice>,
}

/// What the API says of a tenant, and what is shown beside it.
#[derive(Debug, Serialize)]
struct Tenant {
    #[serde(flatten)]
    status: v1::TenantStatus,
    tiers: Vec<v1::TierStatus>,
    lookups: Buckets,
    lookup_waits: Buckets,
    loads: Buckets,
    stores: Buckets,
    namespaces: Vec<Namespace>,
    engines: Vec<Attached>,
}

#[derive(Debug, Serialize)]
struct Buckets {
    counts: Vec<u64>,
    sum_seconds: f64,
}

#[derive(Debug, Serialize)]
struct Namespace {
    model: String,
    #[serde(flatten)]
    status: v1::NamespaceStatus,
}

#[derive(Debug, Serialize)]
struct Attached {
    engine_group: String,
    name: String,
    namespace: String,
    model: String,
    pod: String,
    sessions: u64,
    leases: u64,
    leased_blocks: u64,
    blocks_held: u64,
}

impl Tenant {
    fn of(tenant: &TenantScrape) -> Self {
        let summary = &tenant.summary;
        let namespaces = tenant.namespaces.iter();
        Self {
            status: show::tenant(&tenant.name, summary),
            tiers: show::tiers(&tenant.name, summary),
            lookups: buckets(&summary.lookups),
            lookup_waits: buckets(&summary.lookup_waits),
            loads: buckets(&summary.loads),
            stores: buckets(&summary.stores),
            namespaces: namespaces.map(|each| namespace(&tenant.name, each)).collect(),
            engines: tenant.engines.iter().map(engine).collect(),
        }
    }
}

fn namespace(tenant: &str, scrape: &NamespaceScrape) -> Namespace {
    Namespace {
        model: scrape.model.clone(),
        status: show::namespace(tenant, &scrape.usage, BTreeMap::new()),
    }
}

fn engine(scrape: &EngineScrape) -> Attached {
    Attached {
        engine_group: scrape.group.clone(),
        name: scrape.name.clone(),
        namespace: scrape.namespace.clone(),
        model: scrape.model.clone(),
        pod: scrape.pod.clone(),
        sessions: scrape.sessions,
        leases: scrape.leases,
        leased_blocks: scrape.leased_blocks,
        blocks_held: scrape.blocks_held,
    }
}

fn buckets(histogram: &Histogram) -> Buckets {
    Buckets {
        counts: histogram.counts.to_vec(),
        sum_seconds: seconds(histogram.sum_ns),
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds are shown, not counted with")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_brings_all_it_needs() {
        for foreign in ["src=", "@import", "url(", "//cdn", "<link rel=\"stylesheet"] {
            assert!(!PAGE.contains(foreign), "{foreign}");
        }
        // What clients say of themselves is text, whatever it looks like.
        for unsafe_way in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ] {
            assert!(!PAGE.contains(unsafe_way), "{unsafe_way}");
        }
    }
}
