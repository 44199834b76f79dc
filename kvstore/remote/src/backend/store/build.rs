//! A client for a store, made of what was ordered.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use object_store::client::{ClientOptions, DnsResolver};
use object_store::{ObjectStore, RetryConfig};
use reqwest::Certificate;

use super::endpoint::Endpoint;
use super::fault::chain_text;
use super::http::Connector;
use super::{azure, gcs, s3};
use crate::backend::Backend;
use crate::{Credentials, SpecError, StoreKind, StoreSpec, read_small_file};

/// Puts something in front of a store.
pub(crate) type Between<'e> = dyn Fn(Arc<dyn Backend>) -> Arc<dyn Backend> + Sync + 'e;

/// Where this process is: what can be different in a test.
pub(crate) struct Surroundings<'e> {
    /// The variables of its environment.
    pub(crate) variable: &'e (dyn Fn(&str) -> Option<String> + Sync),
    /// How names of hosts are resolved, if not by the system.
    pub(crate) resolver: Option<Arc<dyn DnsResolver>>,
    /// What is put between a tier and its store.
    pub(crate) between: Option<&'e Between<'e>>,
}

impl Surroundings<'_> {
    /// The real ones.
    pub(crate) fn real() -> Self {
        Self {
            variable: &|name| std::env::var(name).ok(),
            resolver: None,
            between: None,
        }
    }
}

impl fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").finish_non_exhaustive()
    }
}

pub(super) fn build(
    spec: &StoreSpec,
    surroundings: &Surroundings<'_>,
) -> Result<Arc<dyn ObjectStore>, SpecError> {
    let client = Client::new(spec, surroundings)?;
    match spec.kind {
        StoreKind::S3 => s3::build(spec, surroundings, client),
        StoreKind::Gcs => gcs::build(spec, surroundings, client),
        StoreKind::Azure => azure::build(spec, surroundings, client),
    }
}

/// What requests are sent with, and where to.
pub(super) struct Client {
    pub(super) options: ClientOptions,
    pub(super) connector: Connector,
    /// `None`: where the store's kind usually is.
    pub(super) endpoint: Option<String>,
}

impl Client {
    pub(super) fn new(spec: &StoreSpec, surroundings: &Surroundings<'_>) -> Result<Self, SpecError> {
        let endpoint = endpoint(spec)?;
        // Whoever was first in this process has chosen; all choices can do what is needed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self {
            options: options(spec, endpoint.as_deref(), surroundings),
            connector: connector(spec)?,
            endpoint,
        })
    }
}

/// What the addresses of requests begin with, if not with what is usual for the store's kind.
fn endpoint(spec: &StoreSpec) -> Result<Option<String>, SpecError> {
    if spec.bucket.is_empty() {
        return Err(SpecError::Store("want the name of a bucket".to_owned()));
    }
    let Some(text) = &spec.endpoint else {
        return Ok(None);
    };
    let bad = |what: String| SpecError::Store(format!("endpoint: {what}"));
    let endpoint = Endpoint::parse(text).map_err(bad)?;
    if spec.virtual_hosted {
        return endpoint.of_bucket(&spec.bucket).map(Some).map_err(bad);
    }
    Ok(Some(endpoint.url()))
}

fn options(spec: &StoreSpec, endpoint: Option<&str>, surroundings: &Surroundings<'_>) -> ClientOptions {
    let is_plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    let options = ClientOptions::new()
        .with_allow_http(is_plain)
        .with_connect_timeout(spec.connect_timeout)
        .with_timeout(spec.request_timeout);
    match &surroundings.resolver {
        Some(resolver) => options.with_dns_resolver(resolver.clone()),
        None => options,
    }
}

/// Repeating is our own business, and so are deadlines; those here are for what we have stopped waiting for.
fn connector(spec: &StoreSpec) -> Result<Connector, SpecError> {
    let found = spec.ca_file.as_deref().map(certificates).transpose();
    Ok(Connector {
        certificates: found.map_err(SpecError::Store)?.unwrap_or_default(),
        connect_timeout: spec.connect_timeout,
        request_timeout: spec.request_timeout,
        is_anonymous: spec.credentials == Credentials::Anonymous,
    })
}

/// Most bytes of a file of certificates: many times all that a system trusts.
const CA_BYTES_MAX: u64 = 16 << 20;

/// The certificates of a file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<Certificate>, String> {
    let bad = |what: String| format!("CA file {}: {what}", path.display());
    let pem = read_small_file(path, CA_BYTES_MAX).map_err(bad)?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|error| bad(error.to_string()))?;
    if found.is_empty() {
        return Err(bad("no certificate in it".to_owned()));
    }
    Ok(found)
}

pub(super) fn no_retries() -> RetryConfig {
    RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    }
}

/// What is said where the system trusts nobody.
pub(super) const NO_AUTHORITIES: &str = "No CA certificates were loaded";

/// A builder's errors name what is missing. They could quote a value too, so only what they are is told.
pub(super) fn not_built(error: &object_store::Error) -> SpecError {
    let text = chain_text(error);
    let known = [
        ("Missing bucket name", "Missing bucket name"),
        ("Missing region", "Missing region"),
        ("Configuration key", "Configuration key"),
        ("Unable to parse", "Unable to parse"),
        (
            NO_AUTHORITIES,
            "this machine has no certificates of authorities (Debian: ca-certificates); install them, or set remote.ca-file",
        ),
    ];
    let what = known.iter().find(|(known, _)| text.contains(known));
    SpecError::Store(format!(
        "a client cannot be made: {}",
        what.map_or("bad settings", |(_, what)| what)
    ))
}

/// What is said of variables that are no credentials.
pub(super) fn of_environment_error(texts: &[String]) -> SpecError {
    SpecError::Store(format!("credentials from the environment: {}", texts.join(", ")))
}
