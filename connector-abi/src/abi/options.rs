//! What a C program says when it opens a session, in our words.

use std::time::Duration;

use connector_shm::Role;
use kvstore_types::{AttentionKind, EngineGroupId, Field, GroupGeometry, Rank};

use super::types::{kvt_attention, kvt_field, kvt_group_spec, kvt_reattach, kvt_role, kvt_session_options};
use super::{slice, text};
use crate::ClientError;
use crate::client::{Reattach, SessionOptions};

/// # Safety
/// The pointers in `options` are valid for their counts.
pub(super) unsafe fn convert_options(options: &kvt_session_options) -> Result<SessionOptions, ClientError> {
    want_zero("reserved", options.reserved)?;
    // SAFETY: the caller's promise.
    let socket_path = unsafe { text(options.socket_path, "socket_path") }?;
    // SAFETY: as above.
    let tenant = unsafe { text(options.tenant, "tenant") }?;
    // SAFETY: as above.
    let engine_name = unsafe { text(options.engine_name, "engine_name") }?;
    // SAFETY: as above.
    let pod = unsafe { text(options.pod, "pod") }?;
    // SAFETY: as above.
    let model = unsafe { text(options.model, "model") }?;
    // SAFETY: as above.
    let fields = unsafe { convert_fields(options.fields, options.field_count, "fields") }?;
    // SAFETY: as above.
    let rank_fields =
        unsafe { convert_fields(options.rank_fields, options.rank_field_count, "rank_fields") }?;
    // SAFETY: as above.
    let groups = unsafe { slice(options.groups, options.group_count, "groups") }?;
    let groups = groups
        .iter()
        .enumerate()
        .map(|(index, group)| convert_group(index, group));
    let deadline_ms = if options.deadline_ms == 0 {
        2000
    } else {
        options.deadline_ms
    };
    let engine_group = EngineGroupId(options.engine_group);
    let role = convert_role(options)?;
    let rank_count = narrow("rank_count", options.rank_count)?;
    Ok(SessionOptions {
        socket_path: socket_path.map(Into::into),
        tenant: tenant.unwrap_or_default().to_owned(),
        reattach: match options.reattach {
            value if value == kvt_reattach::KVT_REATTACH_NEVER as u32 => Reattach::Never,
            value if value == kvt_reattach::KVT_REATTACH_BACKGROUND as u32 => Reattach::Background,
            value => return Err(ClientError::range("reattach", "a KVT_REATTACH_*", value)),
        },
        fields,
        rank_fields,
        groups: groups.collect::<Result<_, _>>()?,
        request_ring_bytes: options.request_ring_bytes,
        completion_ring_bytes: options.completion_ring_bytes,
        deadline: Duration::from_millis(deadline_ms.into()),
        pod: pod.unwrap_or_default().to_owned(),
        model: model.unwrap_or_default().to_owned(),
        ..SessionOptions::engine(engine_name.unwrap_or_default(), role, rank_count, engine_group)
    })
}

fn convert_role(options: &kvt_session_options) -> Result<Role, ClientError> {
    match options.role {
        role if role == kvt_role::KVT_ROLE_SCHEDULER as u32 => {
            want_zero("rank of a scheduler", options.rank)?;
            Ok(Role::Scheduler)
        }
        role if role == kvt_role::KVT_ROLE_WORKER as u32 => {
            Ok(Role::Worker(Rank(narrow("rank", options.rank)?)))
        }
        role if role == kvt_role::KVT_ROLE_OBSERVER as u32 => Ok(Role::Observer),
        role => Err(ClientError::range("role", "a KVT_ROLE_*", role)),
    }
}

/// What has no meaning yet is refused, so that it can be given one.
fn want_zero(what: &str, value: u32) -> Result<(), ClientError> {
    if value == 0 {
        Ok(())
    } else {
        Err(ClientError::range(what, "0", value))
    }
}

fn convert_group(index: usize, group: &kvt_group_spec) -> Result<GroupGeometry, ClientError> {
    want_zero(&format!("groups[{index}].reserved"), group.reserved)?;
    let kind = match group.kind {
        kind if kind == kvt_attention::KVT_ATTENTION_FULL as u32 => AttentionKind::Full,
        kind if kind == kvt_attention::KVT_ATTENTION_SLIDING_WINDOW as u32 => AttentionKind::SlidingWindow {
            window_tokens: group.window_tokens,
        },
        kind => {
            let what = format!("groups[{index}].kind");
            return Err(ClientError::range(&what, "a KVT_ATTENTION_*", kind));
        }
    };
    Ok(GroupGeometry {
        kind,
        tokens_per_block: group.tokens_per_block,
        rank_bytes: group.rank_bytes,
    })
}

/// # Safety
/// `fields` is valid for `count`, and so are the pointers in it.
unsafe fn convert_fields(
    fields: *const kvt_field,
    count: usize,
    what: &'static str,
) -> Result<Vec<Field>, ClientError> {
    // SAFETY: the caller's promise.
    let fields = unsafe { slice(fields, count, what) }?;
    let convert = |field: &kvt_field| {
        // SAFETY: the caller's promise about the pointers in the array.
        let tag = unsafe { text(field.tag, "a field's tag") }?;
        // SAFETY: as above.
        let value = unsafe { slice(field.value, field.value_bytes, "a field's value") }?;
        Ok(Field {
            tag: tag.ok_or(ClientError::NullArgument("a field's tag"))?.to_owned(),
            value: value.to_vec(),
        })
    };
    fields.iter().map(convert).collect()
}

fn narrow(what: &str, value: u32) -> Result<u16, ClientError> {
    u16::try_from(value).map_err(|_| ClientError::range(what, format_args!("at most {}", u16::MAX), value))
}
