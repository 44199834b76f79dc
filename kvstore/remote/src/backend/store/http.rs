//! What a store answered beside what `object_store` tells of it: the status, and how long it asks to be left alone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

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

/// Makes clients that note answers.
#[derive(Debug)]
pub(super) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Noting(client)))
    }
}

#[derive(Debug)]
struct Noting(HttpClient);

#[async_trait]
impl HttpService for Noting {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let result = self.0.execute(request).await;
        let _ = SEEN.try_with(|seen| seen.note(result.as_ref().ok()));
        result
    }
}
