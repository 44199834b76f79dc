//! What a session tells of the requests behind its messages, to a daemon that records traces.

use std::time::{SystemTime, UNIX_EPOCH};

use connector_shm::{
    Request, Role, TRACE_CONTEXTS_MAX, TRACE_MINOR, TRACE_NAME_BYTES_MAX, TraceContext, TracedRequest,
};
use kvstore_types::Tag;

use super::Session;
use crate::ClientError;

impl Session {
    /// Whether the daemon records traces: see [`AttachReply::traces_below`](connector_shm::AttachReply::traces_below). Belongs
    /// to the attachment as it is now; none while there is none.
    pub fn traces_below(&self) -> Option<u64> {
        let link = self.link_now()?;
        link.traces_below.filter(|_| link.daemon_minor >= TRACE_MINOR)
    }

    /// Says whose the keys of the next message are, which has this tag. To be followed by a look-up or a reservation.
    pub fn trace_next(&mut self, tag: u64, contexts: &[TraceContext]) -> Result<(), ClientError> {
        self.want_traces()?;
        if contexts.is_empty() || contexts.len() > TRACE_CONTEXTS_MAX {
            let expected = format_args!("1 to {TRACE_CONTEXTS_MAX}");
            return Err(ClientError::range("context_count", expected, contexts.len()));
        }
        if let Some(index) = contexts.iter().position(|context| context.zero != 0) {
            return Err(ClientError::range(
                &format!("contexts[{index}].reserved"),
                0,
                contexts[index].zero,
            ));
        }
        self.send_quietly(&Request::Trace {
            tag: Tag(tag),
            sent_ns: unix_ns(),
            contexts,
        })
    }

    /// Says that a request that was followed is over.
    pub fn trace_request(&mut self, request: &TracedRequest<'_>) -> Result<(), ClientError> {
        self.want_traces()?;
        if request.name.len() > TRACE_NAME_BYTES_MAX {
            let expected = format_args!("at most {TRACE_NAME_BYTES_MAX} bytes");
            return Err(ClientError::range("name", expected, request.name.len()));
        }
        self.send(&Request::TracedRequest(*request))
    }

    fn want_traces(&mut self) -> Result<(), ClientError> {
        if self.role() != Role::Scheduler {
            return Err(ClientError::Unsupported("traces, except by a scheduler,"));
        }
        self.link()?;
        match self.traces_below() {
            Some(_) => Ok(()),
            None => Err(ClientError::Unsupported("traces, by this daemon,")),
        }
    }
}

fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
