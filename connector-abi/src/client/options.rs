//! What a session is opened with.

use std::path::PathBuf;
use std::time::Duration;

use connector_shm::{AttachRequest, RING_BYTES_MAX, RING_BYTES_MIN};
use kvstore_types::{AttentionKind, EngineGroupId, Field, GroupGeometry, NamespaceGeometry};

pub use connector_shm::Role;

use crate::ClientError;

/// What to do after the daemon was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Reattach {
    /// Nothing: the session stays lost.
    #[default]
    Never,
    /// A thread named `kvt-guardian` sleeps on the daemon's socket for as long as the session lives. When the daemon is
    /// gone it gives the region back and tries again, with back-off, also while nobody calls the session.
    Background,
}

/// Says who the client is and how it wants to be connected.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// The daemon's socket. `None`: `$KVTIER_SOCKET`, else where a daemon puts it by default.
    pub socket_path: Option<PathBuf>,
    /// The tenant. Empty: the one that the daemon's allow-list gives this user.
    pub tenant: String,
    /// A name for people: `vllm 0.32.0`.
    pub engine_name: String,
    /// What the session does in its engine.
    pub role: Role,
    /// Workers of the engine on this node.
    pub rank_count: u16,
    /// After a loss.
    pub reattach: Reattach,
    /// Drawn at random by the engine at its start; equal in all its sessions.
    pub engine_group: EngineGroupId,
    /// Descriptor fields of the engine, equal in all its sessions.
    pub fields: Vec<Field>,
    /// Descriptor fields of this worker alone.
    pub rank_fields: Vec<Field>,
    /// The KV cache groups as this session knows them.
    pub groups: Vec<GroupGeometry>,
    /// Capacity of the request ring; 0: by role.
    pub request_ring_bytes: u64,
    /// Capacity of the completion ring; 0: by role.
    pub completion_ring_bytes: u64,
    /// How long the handshake may take.
    pub deadline: Duration,
    /// Where routers find the engine, `address:port`. Empty: no router knows it.
    pub pod: String,
    /// The name that the engine serves its model under.
    pub model: String,
}

/// How long a handshake may take unless said otherwise.
const DEADLINE: Duration = Duration::from_secs(2);

impl SessionOptions {
    /// A session that reads counters and belongs to no engine.
    pub fn observer(name: &str) -> Self {
        Self {
            socket_path: None,
            tenant: String::new(),
            engine_name: name.to_owned(),
            role: Role::Observer,
            rank_count: 0,
            reattach: Reattach::Never,
            engine_group: EngineGroupId([0; 16]),
            fields: Vec::new(),
            rank_fields: Vec::new(),
            groups: Vec::new(),
            request_ring_bytes: 0,
            completion_ring_bytes: 0,
            deadline: DEADLINE,
            pod: String::new(),
            model: String::new(),
        }
    }

    /// A session of an engine; fields, groups and the rest are filled in by the caller.
    pub fn engine(name: &str, role: Role, rank_count: u16, engine_group: EngineGroupId) -> Self {
        Self {
            role,
            rank_count,
            engine_group,
            ..Self::observer(name)
        }
    }

    /// Where the daemon's socket is now.
    pub(super) fn path(&self) -> PathBuf {
        self.socket_path
            .clone()
            .unwrap_or_else(connector_shm::existing_socket_path)
    }

    /// Checks what the daemon would refuse, so that the caller hears which argument it was.
    pub(super) fn request(&self) -> Result<AttachRequest, ClientError> {
        let ranks_max = NamespaceGeometry::RANKS_MAX;
        if self.role != Role::Observer && !(1..=ranks_max).contains(&usize::from(self.rank_count)) {
            return Err(ClientError::range(
                "rank_count",
                format_args!("1 to {ranks_max}"),
                self.rank_count,
            ));
        }
        if let Role::Worker(rank) = self.role
            && rank.0 >= self.rank_count
        {
            return Err(ClientError::range(
                "rank",
                format_args!("below {}", self.rank_count),
                rank.0,
            ));
        }
        if self.role == Role::Scheduler && !self.rank_fields.is_empty() {
            return Err(ClientError::BadArgument(
                "rank_fields: a scheduler has no rank, want none".to_owned(),
            ));
        }
        self.check_groups()?;
        let (request, completion) = match self.role {
            Role::Scheduler => (8 << 20, 4 << 20),
            Role::Worker(_) | Role::Observer => (256 << 10, 256 << 10),
        };
        Ok(AttachRequest {
            abi_minor: connector_shm::ABI_MINOR,
            tenant: self.tenant.clone(),
            engine_name: self.engine_name.clone(),
            role: self.role,
            rank_count: self.rank_count,
            engine_group: self.engine_group,
            fields: self.fields.clone(),
            rank_fields: self.rank_fields.clone(),
            groups: self.groups.clone(),
            request_ring_bytes: ring_bytes("request_ring_bytes", self.request_ring_bytes, request)?,
            completion_ring_bytes: ring_bytes(
                "completion_ring_bytes",
                self.completion_ring_bytes,
                completion,
            )?,
            client_version: format!("libkvtier {}", env!("CARGO_PKG_VERSION")),
            pid: std::process::id(),
            pod: self.pod.clone(),
            model: self.model.clone(),
        })
    }
}

impl SessionOptions {
    /// Whether each group has a shape at all; the daemon checks that the ranks' shapes fit together.
    fn check_groups(&self) -> Result<(), ClientError> {
        for (index, group) in self.groups.iter().enumerate() {
            if group.tokens_per_block == 0 {
                return Err(ClientError::range(
                    &format!("groups[{index}].tokens_per_block"),
                    "at least 1",
                    0,
                ));
            }
            if group.kind == (AttentionKind::SlidingWindow { window_tokens: 0 }) {
                return Err(ClientError::range(
                    &format!("groups[{index}].window_tokens"),
                    "at least 1",
                    0,
                ));
            }
        }
        Ok(())
    }
}

fn ring_bytes(what: &str, wanted: u64, default: u64) -> Result<u64, ClientError> {
    if wanted == 0 {
        return Ok(default);
    }
    if !wanted.is_power_of_two() || !(RING_BYTES_MIN..=RING_BYTES_MAX).contains(&wanted) {
        let expected = format_args!("0 or a power of two from {RING_BYTES_MIN} to {RING_BYTES_MAX}");
        return Err(ClientError::range(what, expected, wanted));
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use kvstore_types::Rank;

    use super::*;

    #[test]
    fn bad_options_are_refused_and_named_before_anyone_connects() {
        let engine = |role, ranks| SessionOptions::engine("test", role, ranks, EngineGroupId([1; 16]));
        let odd_ring = SessionOptions {
            request_ring_bytes: 100_000,
            ..engine(Role::Scheduler, 1)
        };
        let group = |kind, tokens_per_block| SessionOptions {
            groups: vec![GroupGeometry {
                kind,
                tokens_per_block,
                rank_bytes: 0,
            }],
            ..engine(Role::Scheduler, 1)
        };
        let ranked = SessionOptions {
            rank_fields: vec![Field {
                tag: "layout".into(),
                value: Vec::new(),
            }],
            ..engine(Role::Scheduler, 1)
        };
        let cases = [
            (
                group(AttentionKind::Full, 0),
                "groups[0].tokens_per_block: want at least 1, got 0",
            ),
            (
                group(AttentionKind::SlidingWindow { window_tokens: 0 }, 16),
                "groups[0].window_tokens: want at least 1, got 0",
            ),
            (ranked, "rank_fields: a scheduler has no rank"),
            (engine(Role::Scheduler, 0), "rank_count: want 1 to 64, got 0"),
            (engine(Role::Scheduler, 65), "rank_count: want 1 to 64, got 65"),
            (engine(Role::Worker(Rank(2)), 2), "rank: want below 2, got 2"),
            (odd_ring, "request_ring_bytes: want 0 or a power of two"),
        ];
        for (options, expected) in cases {
            let error = options.request().unwrap_err().to_string();
            assert!(error.contains(expected), "{error:?} should contain {expected:?}");
        }
    }

    #[test]
    fn rings_are_large_where_prefixes_are_sent() {
        let options = SessionOptions::engine("test", Role::Scheduler, 1, EngineGroupId([1; 16]));
        assert_eq!(options.request().unwrap().request_ring_bytes, 8 << 20);
        assert_eq!(
            SessionOptions::observer("test")
                .request()
                .unwrap()
                .request_ring_bytes,
            256 << 10
        );
    }
}
