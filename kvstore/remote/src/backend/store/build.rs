//! A client for a store, made of what was ordered.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::client::{Certificate, ClientOptions, DnsResolver};
use object_store::{ObjectStore, RetryConfig};

use super::credentials::FileCredentials;
use super::http::Connector;
use crate::backend::Backend;
use crate::{Credentials, SpecError, StoreKind, StoreSpec};

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
    check(spec)?;
    // Whoever was first in this process has chosen; all choices can do what is needed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match spec.kind {
        StoreKind::S3 => s3(spec, surroundings),
        #[cfg(feature = "gcp")]
        StoreKind::Gcs => gcs(spec, surroundings),
        #[cfg(feature = "azure")]
        StoreKind::Azure => azure(spec, surroundings),
    }
}

/// All that is wrong with a spec, without building anything.
fn check(spec: &StoreSpec) -> Result<(), SpecError> {
    if spec.bucket.is_empty() {
        return Err(SpecError::Store("want the name of a bucket".to_owned()));
    }
    if let Some(endpoint) = &spec.endpoint {
        let rest = ["http://", "https://"]
            .iter()
            .find_map(|scheme| endpoint.strip_prefix(scheme));
        let is_plain = rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['@', '?', '#']));
        if !is_plain {
            // It is not shown: what is wrong with it may be that it holds a password.
            return Err(SpecError::Store(
                "endpoint: want http:// or https:// and a host, without user, password or query".to_owned(),
            ));
        }
    }
    Ok(())
}

/// Repeating is our own business, and so are deadlines; those here are for what we have stopped waiting for.
fn client(spec: &StoreSpec, surroundings: &Surroundings<'_>) -> Result<ClientOptions, SpecError> {
    let is_plain = spec
        .endpoint
        .as_ref()
        .is_some_and(|endpoint| endpoint.starts_with("http://"));
    let mut options = ClientOptions::new()
        .with_allow_http(is_plain)
        .with_connect_timeout(spec.connect_timeout)
        .with_timeout(spec.request_timeout)
        .with_http1_only();
    if let Some(path) = &spec.ca_file {
        for certificate in certificates(path).map_err(SpecError::Store)? {
            options = options.with_root_certificate(certificate);
        }
    }
    if let Some(resolver) = &surroundings.resolver {
        options = options.with_dns_resolver(resolver.clone());
    }
    Ok(options)
}

/// The certificates of a file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<Certificate>, String> {
    let bad = |what: String| format!("CA file {}: {what}", path.display());
    let pem = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|error| bad(error.to_string()))?;
    if found.is_empty() {
        return Err(bad("no certificate in it".to_owned()));
    }
    Ok(found)
}

fn no_retries() -> RetryConfig {
    RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    }
}

/// What instances, pods and web identities are told by their environment.
const IDENTITY_KEYS: [AmazonS3ConfigKey; 7] = [
    AmazonS3ConfigKey::WebIdentityTokenFile,
    AmazonS3ConfigKey::RoleArn,
    AmazonS3ConfigKey::RoleSessionName,
    AmazonS3ConfigKey::StsEndpoint,
    AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
    AmazonS3ConfigKey::ContainerCredentialsFullUri,
    AmazonS3ConfigKey::ContainerAuthorizationTokenFile,
];

const STATIC_KEYS: [AmazonS3ConfigKey; 3] = [
    AmazonS3ConfigKey::AccessKeyId,
    AmazonS3ConfigKey::SecretAccessKey,
    AmazonS3ConfigKey::Token,
];

fn s3(spec: &StoreSpec, surroundings: &Surroundings<'_>) -> Result<Arc<dyn ObjectStore>, SpecError> {
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&spec.bucket)
        .with_region(spec.region.as_deref().unwrap_or("us-east-1"))
        .with_virtual_hosted_style_request(spec.virtual_hosted)
        // The bytes have a checksum of ours, and the connection one of TLS's: signing each payload costs more than all else.
        .with_unsigned_payload(!spec.sign_payload)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(no_retries())
        .with_client_options(client(spec, surroundings)?)
        .with_http_connector(Connector);
    if let Some(endpoint) = &spec.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    let from_environment = |mut builder: AmazonS3Builder, keys: &[AmazonS3ConfigKey]| {
        for key in keys {
            if let Some(value) = (surroundings.variable)(&key.as_ref().to_uppercase()) {
                builder = builder.with_config(*key, value);
            }
        }
        builder
    };
    builder = match &spec.credentials {
        Credentials::Anonymous => builder.with_skip_signature(true),
        Credentials::Environment => {
            for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
                if (surroundings.variable)(name).is_none_or(|value| value.is_empty()) {
                    return Err(SpecError::Store(format!(
                        "credentials from the environment: {name} is not set"
                    )));
                }
            }
            from_environment(builder, &STATIC_KEYS)
        }
        Credentials::File { path, profile } => {
            let provider = FileCredentials::new(path, profile.as_deref());
            builder.with_credentials(Arc::new(provider))
        }
        Credentials::Identity => from_environment(builder, &IDENTITY_KEYS),
    };
    let store = builder.build().map_err(|error| not_built(&error))?;
    Ok(Arc::new(store))
}

/// A builder's errors name what is missing. They could quote a value too, so only what they are is told.
fn not_built(error: &object_store::Error) -> SpecError {
    let text = error.to_string();
    let known = [
        "Missing bucket name",
        "Missing region",
        "Configuration key",
        "Unable to parse",
    ];
    let what = known.iter().find(|known| text.contains(**known));
    SpecError::Store(format!(
        "a client cannot be made: {}",
        what.unwrap_or(&"bad settings")
    ))
}

#[cfg(feature = "gcp")]
fn gcs(spec: &StoreSpec, surroundings: &Surroundings<'_>) -> Result<Arc<dyn ObjectStore>, SpecError> {
    use object_store::gcp::GoogleCloudStorageBuilder;
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(&spec.bucket)
        .with_retry(no_retries())
        .with_client_options(client(spec, surroundings)?)
        .with_http_connector(Connector);
    if let Some(endpoint) = &spec.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    builder = match &spec.credentials {
        Credentials::Anonymous => builder.with_skip_signature(true),
        Credentials::File { path, .. } => builder.with_service_account_path(path.display().to_string()),
        Credentials::Environment => {
            let name = "GOOGLE_APPLICATION_CREDENTIALS";
            let path = (surroundings.variable)(name).ok_or_else(|| {
                SpecError::Store(format!("credentials from the environment: {name} is not set"))
            })?;
            builder.with_application_credentials(path)
        }
        Credentials::Identity => builder,
    };
    let store = builder.build().map_err(|error| not_built(&error))?;
    Ok(Arc::new(store))
}

#[cfg(feature = "azure")]
fn azure(spec: &StoreSpec, surroundings: &Surroundings<'_>) -> Result<Arc<dyn ObjectStore>, SpecError> {
    use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
    let mut builder = MicrosoftAzureBuilder::new()
        .with_container_name(&spec.bucket)
        .with_retry(no_retries())
        .with_client_options(client(spec, surroundings)?)
        .with_http_connector(Connector);
    if let Some(endpoint) = &spec.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    for key in [
        AzureConfigKey::AccountName,
        AzureConfigKey::AccessKey,
        AzureConfigKey::ClientId,
        AzureConfigKey::ClientSecret,
        AzureConfigKey::AuthorityId,
        AzureConfigKey::FederatedTokenFile,
    ] {
        if let Some(value) = (surroundings.variable)(&key.as_ref().to_uppercase()) {
            builder = builder.with_config(key, value);
        }
    }
    if spec.credentials == Credentials::Anonymous {
        builder = builder.with_skip_signature(true);
    }
    let store = builder.build().map_err(|error| not_built(&error))?;
    Ok(Arc::new(store))
}
