//! One attempt to attach.

use std::time::Instant;

use connector_shm::{AttachError, AttachRequest, AttachStatus, Attachment};

use super::SessionOptions;
use crate::ClientError;

/// What every attempt of a session needs: its options, checked once.
#[derive(Debug)]
pub(super) struct Attacher {
    options: SessionOptions,
    request: AttachRequest,
}

impl Attacher {
    pub(super) fn new(options: SessionOptions) -> Result<Self, ClientError> {
        let request = options.request()?;
        Ok(Self { options, request })
    }

    pub(super) fn options(&self) -> &SessionOptions {
        &self.options
    }

    /// Connects and attaches, or says why not, within the options' deadline.
    pub(super) fn attach(&self) -> Result<Attachment, ClientError> {
        let path = self.options.path();
        let deadline = Instant::now() + self.options.deadline;
        Attachment::open(&path, &self.request, deadline).map_err(|error| match error {
            AttachError::Unavailable(source) => ClientError::Unavailable { path, source },
            AttachError::TimedOut => ClientError::Timeout("the handshake"),
            // What is closing down will be gone, or back, in a moment: the same to us as nobody being there, but for the words.
            AttachError::Closed => ClientError::Ending {
                path,
                text: error.to_string(),
            },
            AttachError::Refused {
                status: AttachStatus::Draining,
                text,
            } => ClientError::Ending { path, text },
            AttachError::Refused { text, .. } => ClientError::Refused(text),
            error @ AttachError::VersionMismatch { .. } => ClientError::VersionMismatch(error.to_string()),
            AttachError::Request(error) => ClientError::BadArgument(format!("fields and names: {error}")),
            AttachError::Io(source) => ClientError::Io {
                what: "talk to the daemon",
                source,
            },
            error => ClientError::PeerMisbehaved(error.to_string()),
        })
    }
}

/// Whether trying again later, with nothing changed on this side, may well succeed.
pub(super) fn is_passing(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::Unavailable { .. } | ClientError::Ending { .. } | ClientError::Timeout(_)
    )
}
