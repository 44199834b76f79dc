//! The HTTP client, and what a store answered beside what `object_store` tells of it: the status, and how long it asks to be
//! left alone.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use object_store::client::{
    ClientConfigKey, DnsError, DnsFuture, DnsResolver, HttpClient, HttpConnector, HttpError, HttpRequest,
    HttpResponse, HttpService,
};
use object_store::{ClientOptions, Error};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, redirect};
use tokio::task::JoinSet;

tokio::task_local! {
    /// Where the answers to the requests of this task are noted.
    pub(super) static SEEN: Seen;
}

/// The last answer to a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen(Arc<Mutex<Noted>>);

#[derive(Clone, Copy, Debug, Default)]
struct Noted {
    status: Option<u16>,
    retry_after: Option<Duration>,
}

impl Seen {
    /// Its status.
    pub(super) fn status(&self) -> Option<u16> {
        self.noted().status
    }

    /// How long the store asked to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.noted().retry_after
    }

    fn noted(&self) -> Noted {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, response: Option<&HttpResponse>) {
        let noted = response.map_or_else(Noted::default, |response| Noted {
            status: Some(response.status().as_u16()),
            // Only the number of seconds is understood: a date would need a clock that agrees with the store's.
            retry_after: response
                .headers()
                .get("retry-after")
                .and_then(|value| value.to_str().ok()?.trim().parse().ok())
                .map(Duration::from_secs),
        });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = noted;
    }
}

/// Makes clients that note answers. They are made here and not by `object_store`, whose clients follow redirects.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    /// Certificates to trust beside the system's.
    pub(super) certificates: Vec<Certificate>,
    /// How long making a connection may take.
    pub(super) connect_timeout: Duration,
    /// How long one request may take.
    pub(super) request_timeout: Duration,
    /// Whether requests say nothing of who makes them.
    pub(super) is_anonymous: bool,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        // The services that give a machine its credentials are asked over plain HTTP.
        let may_be_plain = options.get_config_value(&ClientConfigKey::AllowHttp);
        let names: Arc<dyn DnsResolver> = options
            .dns_resolver()
            .map_or_else(|| Arc::new(SystemNames) as Arc<dyn DnsResolver>, Arc::clone);
        let client = reqwest::Client::builder()
            .user_agent(concat!("kvtier/", env!("CARGO_PKG_VERSION")))
            .tls_certs_merge(self.certificates.iter().cloned())
            .connect_timeout(self.connect_timeout)
            .timeout(self.request_timeout)
            .http1_only()
            // Its answer would go without looking to whatever host it names, and a session token with it.
            .redirect(redirect::Policy::none())
            // What is stored is counted in bytes as they are sent.
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .dns_resolver(Resolver(names))
            .https_only(may_be_plain.as_deref() != Some("true"))
            .build()
            .map_err(|error| Error::Generic {
                store: "HTTP client",
                source: Box::new(error),
            })?;
        Ok(HttpClient::new(Noting {
            client: HttpClient::new(client),
            is_anonymous: self.is_anonymous,
        }))
    }
}

/// Finds hosts for `reqwest`.
struct Resolver(Arc<dyn DnsResolver>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let found = self.0.resolve(name.as_str());
        Box::pin(async move {
            // The port is put in later.
            let addresses = found
                .await?
                .into_iter()
                .map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}

/// The system's resolver, its answers in any order: a store has many hosts, and nodes are to use all of them.
#[derive(Debug)]
struct SystemNames;

impl DnsResolver for SystemNames {
    fn resolve(&self, host: &str) -> DnsFuture {
        let host = host.to_owned();
        Box::pin(async move {
            // A set ends with this future: what waits for a thread is not looked up for nobody.
            let mut tasks = JoinSet::new();
            tasks.spawn_blocking(move || {
                let found = (host.as_str(), 0).to_socket_addrs()?;
                let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
                let chance = RandomState::new();
                addresses.sort_by_cached_key(|address| chance.hash_one(address));
                Ok(addresses)
            });
            let found = tasks.join_next().await;
            found.unwrap_or_else(|| Ok(Err(DnsError::from("no answer"))))?
        })
    }
}

#[derive(Debug)]
struct Noting {
    client: HttpClient,
    is_anonymous: bool,
}

#[async_trait]
impl HttpService for Noting {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if self.is_anonymous {
            // The client for GCS sends an empty token then, which a server need not take for none.
            request.headers_mut().remove("authorization");
        }
        let result = self.client.execute(request).await;
        let _ = SEEN.try_with(|seen| seen.note(result.as_ref().ok()));
        result
    }
}
