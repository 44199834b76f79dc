//! What an error of a store means.
//!
//! What a store writes into its errors may hold names of keys, tokens or parts of requests. So none of it goes on: the text
//! of a fault is made of the call, the status, and the first of the codes below that occurs in it.

use std::error::Error;
use std::future::Future;

use object_store::client::{HttpError, HttpErrorKind};

use super::http::{SEEN, Seen};
use crate::FaultKind;
use crate::backend::Fault;

/// Codes that stores give, most telling first, and what they mean.
const CODES: [(&str, FaultKind); 29] = [
    ("NoSuchBucket", FaultKind::NotThere),
    ("ContainerNotFound", FaultKind::NotThere),
    ("ContainerBeingDeleted", FaultKind::NotThere),
    ("ExpiredToken", FaultKind::Credentials),
    ("TokenRefreshRequired", FaultKind::Credentials),
    ("InvalidToken", FaultKind::Credentials),
    ("InvalidAccessKeyId", FaultKind::Credentials),
    ("NotSignedUp", FaultKind::Credentials),
    ("SignatureDoesNotMatch", FaultKind::Credentials),
    ("AuthenticationFailed", FaultKind::Credentials),
    ("AuthenticationRequired", FaultKind::Credentials),
    ("InvalidAuthenticationInfo", FaultKind::Credentials),
    ("NoAuthenticationInformation", FaultKind::Credentials),
    // The node's clock and the store's are too far apart.
    ("RequestTimeTooSkewed", FaultKind::Credentials),
    ("RequestExpired", FaultKind::Credentials),
    ("AccessDenied", FaultKind::Denied),
    ("AuthorizationPermissionMismatch", FaultKind::Denied),
    ("AuthorizationFailure", FaultKind::Denied),
    ("InsufficientAccountPermissions", FaultKind::Denied),
    ("KeyBasedAuthenticationNotPermitted", FaultKind::Denied),
    ("PublicAccessNotPermitted", FaultKind::Denied),
    ("AccountIsDisabled", FaultKind::Denied),
    ("AccountProblem", FaultKind::Denied),
    ("QuotaExceeded", FaultKind::NoSpace),
    ("XMinioStorageFull", FaultKind::NoSpace),
    ("SlowDown", FaultKind::Throttled),
    ("TooManyRequests", FaultKind::Throttled),
    ("ServerBusy", FaultKind::Throttled),
    ("InternalError", FaultKind::Server),
];

/// What `object_store` says of whoever gives tokens for the store.
const TOKEN_ERRORS: [&str; 3] = ["token request", "token response", "federated token file"];

/// A result with what was seen on the way to it.
pub(super) struct Answer<T> {
    pub(super) result: object_store::Result<T>,
    pub(super) seen: Seen,
}

impl<T> Answer<T> {
    pub(super) fn status(&self) -> Option<u16> {
        self.seen.status()
    }

    /// The result, an error as a fault.
    pub(super) fn or_fault(self, call: &str) -> Result<T, Fault> {
        self.result.map_err(|error| fault(call, &error, &self.seen))
    }
}

/// Awaits an answer of the store, noting what is seen.
pub(super) async fn asking<T>(future: impl Future<Output = object_store::Result<T>>) -> Answer<T> {
    let seen = Seen::default();
    let result = SEEN.scope(seen.clone(), future).await;
    Answer { result, seen }
}

/// What an error means.
pub(super) fn fault(call: &str, error: &object_store::Error, seen: &Seen) -> Fault {
    let text = chain_text(error);
    let is_token = TOKEN_ERRORS.iter().any(|told| text.contains(told));
    // Its codes are not a store's.
    let code = CODES.iter().find(|(code, _)| !is_token && text.contains(code));
    // A status that was good belongs to an answer whose body went wrong.
    let status = seen.status().filter(|status| *status >= 300);
    let (kind, what) = match (code, status) {
        (_, Some(400..=499)) if is_token => (FaultKind::Credentials, "no token is given".to_owned()),
        _ if is_token && text.contains(TOKEN_ERRORS[2]) => {
            (FaultKind::Credentials, "no usable credentials".to_owned())
        }
        (Some((code, kind)), _) => (*kind, (*code).to_owned()),
        (None, Some(status)) => (kind_of_status(status), what_of_status(status).to_owned()),
        (None, None) if seen.status().is_some() && is_broken_body(error) => {
            (FaultKind::Truncated, "the answer ended too early".to_owned())
        }
        (None, None) => kind_of_chain(error, &text),
    };
    let status = status.map(|status| format!("status {status}"));
    let asking = is_token.then(|| "asking for a token of the credentials".to_owned());
    let parts = [asking, status, Some(what).filter(|what| !what.is_empty())];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    Fault {
        kind,
        text: format!("{call}: {}", parts.join(", ")),
        retry_after: seen.retry_after(),
    }
}

/// Whether a good answer's body broke off, however.
fn is_broken_body(error: &object_store::Error) -> bool {
    http_kind(error).is_some_and(|kind| kind != HttpErrorKind::Timeout)
}

/// What kind of trouble the client had, if it was its trouble.
fn http_kind(error: &object_store::Error) -> Option<HttpErrorKind> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return Some(http.kind());
        }
        next = error.source();
    }
    None
}

fn kind_of_status(status: u16) -> FaultKind {
    match status {
        401 => FaultKind::Credentials,
        403 => FaultKind::Denied,
        404 => FaultKind::NotThere,
        408 | 429 | 503 => FaultKind::Throttled,
        409 | 500..=506 | 508..=599 => FaultKind::Server,
        507 => FaultKind::NoSpace,
        _ => FaultKind::Protocol,
    }
}

/// What a status says that its number does not.
fn what_of_status(status: u16) -> &'static str {
    match status {
        301 => "a redirect, which is not followed: the region or the endpoint is not the bucket's",
        300 | 302 | 303 | 307 | 308 => "a redirect, which is not followed",
        _ => "",
    }
}

/// What went wrong where there was no answer, or not all of one.
fn kind_of_chain(error: &object_store::Error, text: &str) -> (FaultKind, String) {
    let own = |kind, what: &str| (kind, what.to_owned());
    match error {
        object_store::Error::NotFound { .. } => return own(FaultKind::NotThere, "not found"),
        object_store::Error::Unauthenticated { .. } => {
            return own(FaultKind::Credentials, "not authenticated");
        }
        object_store::Error::PermissionDenied { .. } => return own(FaultKind::Denied, "denied"),
        object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => {
            return own(FaultKind::Protocol, "not supported");
        }
        _ => {}
    }
    if text.contains(super::credentials::CREDENTIALS_ERROR) {
        return own(FaultKind::Credentials, "no usable credentials");
    }
    match http_kind(error) {
        Some(HttpErrorKind::Connect) if text.contains("dns error") => {
            own(FaultKind::Resolve, "the host's name cannot be resolved")
        }
        Some(HttpErrorKind::Connect) if text.contains("certificate") => {
            own(FaultKind::Connection, "the certificate is not trusted")
        }
        Some(HttpErrorKind::Connect) => own(FaultKind::Connection, "no connection"),
        Some(HttpErrorKind::Timeout) => own(FaultKind::Stalled, "no answer in time"),
        Some(_) => own(FaultKind::Connection, "the connection broke"),
        None => own(FaultKind::Protocol, "an answer that is not understood"),
    }
}

/// All that an error and its sources say.
pub(super) fn chain_text(error: &object_store::Error) -> String {
    let mut text = String::new();
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        text.push_str(&error.to_string());
        text.push('\n');
        next = error.source();
    }
    text
}
