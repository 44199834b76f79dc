//! The HTTP client that OTLP is spoken with: it remembers why a request failed, which the exporter says of no failure of the network.

use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};

use crate::otlp::chain;

/// Why the last request failed, if it did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trouble(Arc<Mutex<Option<String>>>);

impl Trouble {
    /// What went wrong since this was asked last.
    pub(crate) fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, text: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }
}

/// A client that tells of its failures.
#[derive(Debug)]
pub(crate) struct Client {
    inner: reqwest::Client,
    trouble: Trouble,
}

impl Client {
    pub(crate) fn new(inner: reqwest::Client, trouble: Trouble) -> Self {
        Self { inner, trouble }
    }
}

#[tonic::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        self.inner.send_bytes(request).await.map_err(|error| {
            // The address is in the log already, and may hold what nobody should read twice.
            let error = match error.downcast::<reqwest::Error>() {
                Ok(error) => Box::new(error.without_url()),
                Err(other) => other,
            };
            self.trouble.set(chain(&*error));
            error
        })
    }
}
