//! Carries out what the engine asks for.

use connector_shm::{Completion, GrantReason, LookupOutcome, RankLayout};
use kvstore_engine::{Completion as Answer, Effect, Effects, Grant, LookupOutcome as Outcome, Note};
use kvstore_types::{GroupLayout, SessionId, SlotRef, Tag};
use tracing::{debug, info, warn};

use super::core::Sessions;
use super::session::{Fault, Session};
use crate::nvme::Devices;
use crate::remote::RemoteTier;

/// Memory that is used again for each answer.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    grants: Vec<SlotRef>,
    layouts: Vec<RankLayout>,
}

/// The tiers that orders go to.
#[derive(Debug)]
pub(super) struct Joined<'a> {
    pub(super) devices: &'a mut Devices,
    pub(super) remote: &'a mut RemoteTier,
}

/// Carries out all effects of one step. Sessions that cannot go on are put into `faults`.
pub(super) fn apply(
    tenant: &str,
    effects: &Effects,
    sessions: &mut Sessions,
    tiers: &mut Joined<'_>,
    scratch: &mut Scratch,
    faults: &mut Vec<(SessionId, Fault)>,
) {
    for effect in &effects.list {
        let (id, result) = match effect {
            Effect::Complete {
                session,
                tag,
                completion,
            } => {
                let result = sessions.get_mut(session).map_or(Ok(()), |session| {
                    answer(session, *tag, completion, effects, scratch)
                });
                (*session, result)
            }
            Effect::NamespaceReady {
                session,
                namespace,
                groups,
            } => {
                debug!(tenant, session = session.0, %namespace, "namespace ready");
                let result = sessions.get_mut(session).map_or(Ok(()), |session| {
                    scratch.layouts.clear();
                    scratch
                        .layouts
                        .extend(groups.iter().map(|group| rank_layout(group, session.rank)));
                    session.send(&Completion::NamespaceReady {
                        namespace: *namespace,
                        groups: &scratch.layouts,
                    })
                });
                (*session, result)
            }
            Effect::SessionAdmitted { session } => {
                let heard = sessions
                    .get_mut(session)
                    .is_none_or(|session| session.answer_handshake(Ok(())));
                let gone = Fault::Other("the client left during the handshake");
                (*session, if heard { Ok(()) } else { Err(gone) })
            }
            Effect::SessionRefused { session, refusal } => {
                if let Some(mut refused) = sessions.remove(session) {
                    refused.answer_handshake(Err(refusal.clone()));
                }
                continue;
            }
            Effect::CutOff { session, violation } => (*session, Err(Fault::Violation(*violation))),
            Effect::Note(note) => {
                tell(tenant, tiers.devices, note);
                continue;
            }
            // The announcer hears of blocks from the voice; whoever asked for blocks to leave looks for the answer.
            Effect::BlockStored { .. }
            | Effect::BlockDescribed { .. }
            | Effect::BlockRemoved { .. }
            | Effect::RangeEvicted(_)
            | Effect::Kept(_) => continue,
            Effect::Nvme { device, order } => {
                tiers.devices.order(*device, order);
                continue;
            }
            Effect::Remote(order) => {
                tiers.remote.order(order);
                continue;
            }
        };
        if let Err(fault) = result {
            faults.push((id, fault));
        }
    }
}

/// Passes on what has become of blocks.
pub(super) fn relay(
    sessions: &mut Sessions,
    id: SessionId,
    batch: &[u8],
    faults: &mut Vec<(SessionId, Fault)>,
) {
    let completion = Completion::Events { batch: Some(batch) };
    if let Some(Err(fault)) = sessions.get_mut(&id).map(|session| session.send(&completion)) {
        faults.push((id, fault));
    }
}

fn answer(
    session: &mut Session,
    tag: Tag,
    answer: &Answer,
    effects: &Effects,
    scratch: &mut Scratch,
) -> Result<(), Fault> {
    let completion = match answer {
        Answer::Lookup {
            hit_tokens,
            spans,
            outcome,
            ..
        } => {
            let spans = effects
                .spans
                .get(spans.start as usize..spans.end as usize)
                .unwrap_or_default();
            Completion::Lookup {
                tag,
                hit_tokens: *hit_tokens,
                outcome: wire_outcome(*outcome),
                spans,
            }
        }
        Answer::LookupPending { .. } if !session.hears_pending => return Ok(()),
        Answer::LookupPending { hit_tokens } => Completion::LookupPending {
            tag,
            hit_tokens: *hit_tokens,
        },
        Answer::Load { grants, lost } => {
            wire_grants(effects, grants, scratch);
            Completion::Load {
                lease: tag,
                lost: *lost,
                grants: &scratch.grants,
            }
        }
        Answer::Reserve { grants } => {
            wire_grants(effects, grants, scratch);
            Completion::Reserve {
                tag,
                grants: &scratch.grants,
            }
        }
        Answer::Seal {
            sealed,
            published,
            stale,
        } => Completion::Seal {
            tag,
            published: *published,
            sealed: *sealed,
            stale: *stale,
        },
        Answer::Abort { aborted, stale } => Completion::Abort {
            tag,
            aborted: *aborted,
            stale: *stale,
        },
        Answer::Reset { namespace } => Completion::Reset {
            tag,
            namespace: *namespace,
        },
    };
    session.send(&completion)
}

fn wire_outcome(outcome: Outcome) -> LookupOutcome {
    match outcome {
        Outcome::Complete => LookupOutcome::Complete,
        Outcome::NotReady => LookupOutcome::NotReady,
        Outcome::QuotaExceeded => LookupOutcome::QuotaExceeded,
    }
}

fn wire_grants(effects: &Effects, range: &std::ops::Range<u32>, scratch: &mut Scratch) {
    let grants = effects
        .grants
        .get(range.start as usize..range.end as usize)
        .unwrap_or_default();
    scratch.grants.clear();
    scratch.grants.extend(grants.iter().map(|grant| match grant {
        Grant::Slot(slot) => *slot,
        Grant::AlreadyPresent => GrantReason::AlreadyPresent.to_wire(),
        Grant::Filling => GrantReason::Filling.to_wire(),
        Grant::NoSpace => GrantReason::NoSpace.to_wire(),
        Grant::Draining => GrantReason::Draining.to_wire(),
        Grant::NotReady => GrantReason::NotReady.to_wire(),
        Grant::Lost => GrantReason::Lost.to_wire(),
    }));
}

fn rank_layout(group: &GroupLayout, rank: usize) -> RankLayout {
    RankLayout {
        slot_bytes: group.slot_bytes,
        rank_offset: group.rank_offsets.get(rank).copied().unwrap_or(0),
        rank_bytes: group.rank_bytes.get(rank).copied().unwrap_or(0),
    }
}

fn tell(tenant: &str, devices: &Devices, note: &Note) {
    match note {
        Note::HashSeedDiffers { existing, new } => warn!(
            tenant, %existing, %new,
            "two engines differ only in the seed of their block hashes and will share nothing; give them one seed \
             (for vLLM, set PYTHONHASHSEED)"
        ),
        Note::Quarantined { slots, session } => info!(
            tenant,
            slots,
            session = session.0,
            "slots are quarantined until every process of their engine is done"
        ),
        Note::QuarantineLifted { slots } => info!(tenant, slots, "slots came back from quarantine"),
        _ => devices.tell_note(tenant, note),
    }
}
