//! The protobuf messages of the handshake. Field numbers are frozen.

use kvstore_types::{AttentionKind, Field, GroupGeometry};

use super::Role;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AttachRequest {
    #[prost(string, tag = "1")]
    pub(super) tenant: String,
    #[prost(string, tag = "2")]
    pub(super) engine_name: String,
    #[prost(uint32, tag = "3")]
    pub(super) role: u32,
    #[prost(uint32, tag = "4")]
    pub(super) rank: u32,
    #[prost(uint32, tag = "5")]
    pub(super) rank_count: u32,
    #[prost(bytes = "vec", tag = "6")]
    pub(super) engine_group: Vec<u8>,
    #[prost(message, repeated, tag = "7")]
    pub(super) fields: Vec<DescriptorField>,
    #[prost(message, repeated, tag = "8")]
    pub(super) rank_fields: Vec<DescriptorField>,
    #[prost(message, repeated, tag = "9")]
    pub(super) groups: Vec<Group>,
    #[prost(uint64, tag = "10")]
    pub(super) request_ring_bytes: u64,
    #[prost(uint64, tag = "11")]
    pub(super) completion_ring_bytes: u64,
    #[prost(string, tag = "12")]
    pub(super) client_version: String,
    #[prost(uint32, tag = "13")]
    pub(super) pid: u32,
    #[prost(string, tag = "14")]
    pub(super) pod: String,
    #[prost(string, tag = "15")]
    pub(super) model: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DescriptorField {
    #[prost(string, tag = "1")]
    pub(super) tag: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Group {
    #[prost(uint32, tag = "1")]
    pub(super) kind: u32,
    #[prost(uint32, tag = "2")]
    pub(super) tokens_per_block: u32,
    #[prost(uint32, tag = "3")]
    pub(super) window_tokens: u32,
    #[prost(uint64, tag = "4")]
    pub(super) rank_bytes: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AttachReply {
    #[prost(int32, tag = "1")]
    pub(super) status: i32,
    #[prost(string, tag = "2")]
    pub(super) text: String,
    #[prost(uint64, tag = "3")]
    pub(super) session_id: u64,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) boot_epoch: Vec<u8>,
    #[prost(uint64, tag = "5")]
    pub(super) region_bytes: u64,
    #[prost(string, tag = "6")]
    pub(super) daemon_version: String,
    #[prost(uint64, optional, tag = "7")]
    pub(super) traces_below: Option<u64>,
}

impl From<DescriptorField> for Field {
    fn from(field: DescriptorField) -> Self {
        Self {
            tag: field.tag,
            value: field.value,
        }
    }
}

impl From<&Field> for DescriptorField {
    fn from(field: &Field) -> Self {
        Self {
            tag: field.tag.clone(),
            value: field.value.clone(),
        }
    }
}

impl From<&GroupGeometry> for Group {
    fn from(group: &GroupGeometry) -> Self {
        let (kind, window_tokens) = match group.kind {
            AttentionKind::Full => (0, 0),
            AttentionKind::SlidingWindow { window_tokens } => (1, window_tokens),
        };
        Self {
            kind,
            tokens_per_block: group.tokens_per_block,
            window_tokens,
            rank_bytes: group.rank_bytes,
        }
    }
}

impl From<&super::AttachRequest> for AttachRequest {
    fn from(request: &super::AttachRequest) -> Self {
        let (role, rank) = match request.role {
            Role::Scheduler => (0, 0),
            Role::Worker(rank) => (1, u32::from(rank.0)),
            Role::Observer => (2, 0),
        };
        Self {
            tenant: request.tenant.clone(),
            engine_name: request.engine_name.clone(),
            role,
            rank,
            rank_count: request.rank_count.into(),
            engine_group: request.engine_group.0.to_vec(),
            fields: request.fields.iter().map(DescriptorField::from).collect(),
            rank_fields: request.rank_fields.iter().map(DescriptorField::from).collect(),
            groups: request.groups.iter().map(Group::from).collect(),
            request_ring_bytes: request.request_ring_bytes,
            completion_ring_bytes: request.completion_ring_bytes,
            client_version: request.client_version.clone(),
            pid: request.pid,
            pod: request.pod.clone(),
            model: request.model.clone(),
        }
    }
}

impl From<&super::AttachReply> for AttachReply {
    fn from(reply: &super::AttachReply) -> Self {
        Self {
            status: reply.status.code(),
            text: reply.text.clone(),
            session_id: reply.session.0,
            boot_epoch: reply.boot_epoch.0.to_vec(),
            region_bytes: reply.region_bytes,
            daemon_version: reply.daemon_version.clone(),
            traces_below: reply.traces_below,
        }
    }
}
