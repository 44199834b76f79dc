//! A client attaches; the last rank of an engine completes its namespace.

use kvstore_types::{
    EngineGroupId, Field, GeometryError, GroupGeometry, NamespaceDescriptor, NamespaceGeometry, ProcessId,
    SessionId,
};

use crate::effect::{Effect, Effects, Note, Refusal};
use crate::engine::Engine;
use crate::event::{Role, SessionProfile};
use crate::group::{EngineGroup, render_geometry};
use crate::pool::Out;
use crate::session::Session;
use crate::space::{fields_bytes, namespace_bytes};

/// The field that makes the namespace of an engine that was reset unlike any other.
const RESET_TAG: &str = "reset.nonce";

/// Before the number of a rank, in the tags of its fields.
const RANK_PREFIX: &str = "rank.";

/// The field that says what the blocks look like.
const GEOMETRY_TAG: &str = "geometry";

/// What the reset's field takes in the encoding of a descriptor: two lengths, the tag and the nonce.
const RESET_FIELD_BYTES: usize = 8 + RESET_TAG.len() + 16;

impl Engine {
    pub(crate) fn on_session_opened(
        &mut self,
        id: SessionId,
        process: ProcessId,
        profile: SessionProfile,
        effects: &mut Effects,
    ) {
        if self.sessions.contains_key(&id) {
            // Ids are the daemon's and never reused; a second one is its mistake, and must not end the first.
            self.counters.events_unknown_session += 1;
            return;
        }
        // The answer stands first, before blocks that had to go for it.
        let answer = effects.list.len();
        match self.admit(id, process, profile, effects) {
            Ok(made) => {
                self.counters.sessions_admitted += 1;
                effects
                    .list
                    .insert(answer, Effect::SessionAdmitted { session: id });
                self.announce_attached(id, made, effects);
            }
            Err(refusal) => {
                self.counters.sessions_refused += 1;
                effects
                    .list
                    .insert(answer, Effect::SessionRefused { session: id, refusal });
            }
        }
    }

    fn admit(
        &mut self,
        id: SessionId,
        process: ProcessId,
        profile: SessionProfile,
        effects: &mut Effects,
    ) -> Result<Made, Refusal> {
        if self.is_draining {
            return Err(Refusal::Draining);
        }
        let zombies: usize = self.groups.values().map(|group| group.zombies.len()).sum();
        let max = self.config.sessions_max;
        if self.sessions.len() + zombies >= max {
            return Err(Refusal::SessionsExhausted { max });
        }
        let (role, group) = (profile.role, profile.engine_group);
        let (rank_fields, groups) = match role {
            Role::Observer => Default::default(),
            Role::Scheduler | Role::Worker(_) => (profile.rank_fields, profile.groups),
        };
        let session = Session {
            process,
            role,
            group,
            rank_fields,
            groups,
            lookups: std::collections::BTreeMap::new(),
            leases: std::collections::BTreeMap::new(),
            waits: std::collections::BTreeMap::new(),
            held: 0,
        };
        if role == Role::Observer {
            self.sessions.insert(id, session);
            return Ok(Made::Nothing);
        }
        check_common_tags(&profile.fields)?;
        let common = NamespaceDescriptor::new(profile.fields)?;
        NamespaceDescriptor::new(session.rank_fields.iter().cloned())?;
        self.check_role(&session, &common, profile.rank_count)?;
        check_group_count(&session)?;
        let is_first = self.groups.get(&group).is_none_or(|group| group.common.is_none());
        let common_bytes = if is_first {
            fields_bytes(common.fields())
        } else {
            0
        };
        self.make_room_for_names(session.fields_bytes() + common_bytes, effects)?;
        self.sessions.insert(id, session);
        self.join(id, group, role, common, profile.rank_count);
        self.compose_if_complete(group, role, effects).inspect_err(|_| {
            self.sessions.remove(&id);
            self.leave(id, group);
        })
    }

    fn check_role(
        &self,
        session: &Session,
        common: &NamespaceDescriptor,
        rank_count: u16,
    ) -> Result<(), Refusal> {
        let max = NamespaceGeometry::RANKS_MAX;
        if rank_count == 0 || usize::from(rank_count) > max {
            return Err(GeometryError::Count {
                what: "ranks",
                max,
                actual: usize::from(rank_count),
            }
            .into());
        }
        if let Role::Worker(rank) = session.role
            && rank.0 >= rank_count
        {
            return Err(Refusal::RankOutOfRange { rank, rank_count });
        }
        let Some(group) = self.groups.get(&session.group) else {
            return Ok(());
        };
        let Some(expected) = &group.common else {
            return Ok(());
        };
        if let Some(tag) = expected.difference(common) {
            return Err(Refusal::FieldDiffers { tag: tag.to_owned() });
        }
        if group.workers.len() != usize::from(rank_count) {
            let expected = u16::try_from(group.workers.len()).unwrap_or(u16::MAX);
            return Err(Refusal::RankCountDiffers {
                expected,
                actual: rank_count,
            });
        }
        match session.role {
            Role::Scheduler if group.scheduler.is_some() => Err(Refusal::RoleTaken("its scheduler".into())),
            Role::Worker(rank) if group.workers[usize::from(rank.0)].is_some() => {
                Err(Refusal::RoleTaken(format!("the worker of {rank}")))
            }
            Role::Scheduler | Role::Worker(_) | Role::Observer => Ok(()),
        }
    }

    fn join(
        &mut self,
        id: SessionId,
        group: EngineGroupId,
        role: Role,
        common: NamespaceDescriptor,
        ranks: u16,
    ) {
        let resets = &mut self.resets;
        let group = self.groups.entry(group).or_insert_with(|| EngineGroup {
            nonce: resets.pop(&group),
            ..EngineGroup::default()
        });
        if group.common.is_none() {
            group.common = Some(common);
            group.workers = vec![None; usize::from(ranks)];
        }
        match role {
            Role::Scheduler => group.scheduler = Some(id),
            Role::Worker(rank) => group.workers[usize::from(rank.0)] = Some(id),
            Role::Observer => {}
        }
    }

    /// Takes a session out of its group, and forgets what is left of the group if nothing waits for it.
    pub(crate) fn leave(&mut self, id: SessionId, group_id: EngineGroupId) {
        let Some(group) = self.groups.get_mut(&group_id) else {
            return;
        };
        if group.scheduler == Some(id) {
            group.scheduler = None;
        }
        group
            .workers
            .iter_mut()
            .filter(|worker| **worker == Some(id))
            .for_each(|worker| *worker = None);
        if group.members().next().is_none() {
            group.common = None;
            group.workers.clear();
        }
        self.drop_group_if_over(group_id);
    }

    /// Forgets a group without members and wards.
    pub(crate) fn drop_group_if_over(&mut self, id: EngineGroupId) {
        if !self.groups.get(&id).is_some_and(EngineGroup::is_over) {
            return;
        }
        let Some(group) = self.groups.remove(&id) else {
            return;
        };
        if let Some(nonce) = group.nonce {
            self.resets.put(id, nonce);
        }
        if let Some(namespace) = group.namespace {
            self.pool.detach(namespace);
        }
    }

    /// Gives a group whose ranks are all there its namespace.
    fn compose_if_complete(
        &mut self,
        id: EngineGroupId,
        joined: Role,
        effects: &mut Effects,
    ) -> Result<Made, Refusal> {
        let Some(group) = self.groups.get(&id) else {
            return Ok(Made::Nothing);
        };
        if !group.is_complete() {
            return Ok(Made::Nothing);
        }
        if let (Role::Scheduler, Some(namespace)) = (joined, group.namespace) {
            self.check_scheduler(group, &self.pool.spaces.get(namespace).geometry)?;
            return Ok(Made::Nothing);
        }
        self.compose(id, effects)
    }

    /// Composes the namespace of a complete group anew and attaches the group to it.
    pub(crate) fn compose(&mut self, id: EngineGroupId, effects: &mut Effects) -> Result<Made, Refusal> {
        let Some(group) = self.groups.get(&id) else {
            return Ok(Made::Nothing);
        };
        let ranks: Vec<&Session> = group
            .workers
            .iter()
            .flatten()
            .filter_map(|id| self.sessions.get(id))
            .collect();
        let geometries: Vec<&[GroupGeometry]> =
            ranks.iter().map(|session| session.groups.as_slice()).collect();
        let geometry = NamespaceGeometry::compose(&geometries)?;
        self.check_scheduler(group, &geometry)?;
        let (arena_bytes, header_bytes) = (self.config.arena_bytes, self.config.slot_header_bytes());
        let too_large = geometry
            .groups
            .iter()
            .position(|group| group.slot_bytes.saturating_add(header_bytes) > arena_bytes);
        if let Some(group) = too_large {
            let slot_bytes = geometry.groups[group].slot_bytes.saturating_add(header_bytes);
            return Err(Refusal::BlockTooLarge {
                group,
                slot_bytes,
                arena_bytes,
            });
        }
        let common = group
            .common
            .as_ref()
            .into_iter()
            .flat_map(NamespaceDescriptor::fields);
        let nonce = group.nonce.as_ref();
        let descriptor = NamespaceDescriptor::new(descriptor_fields(common, &ranks, &geometry, nonce))?;
        // Every engine may be reset one day, and then its nonce has to fit.
        descriptor.check_size(if nonce.is_none() { RESET_FIELD_BYTES } else { 0 })?;
        self.enter(id, descriptor, geometry, effects)
    }

    fn enter(
        &mut self,
        id: EngineGroupId,
        descriptor: NamespaceDescriptor,
        geometry: NamespaceGeometry,
        effects: &mut Effects,
    ) -> Result<Made, Refusal> {
        let namespace = descriptor.id();
        match self.pool.spaces.find(namespace) {
            Some(index) => {
                if let Some(tag) = self.pool.spaces.get(index).descriptor.difference(&descriptor) {
                    return Err(Refusal::NamespaceCollision {
                        namespace,
                        tag: tag.to_owned(),
                    });
                }
            }
            None => self.make_room_for_names(namespace_bytes(&descriptor, &geometry), effects)?,
        }
        let other_seed = self.pool.spaces.find_other_seed(&descriptor);
        let (index, is_new) = self.pool.attach(descriptor, geometry);
        let before = self
            .groups
            .get_mut(&id)
            .and_then(|group| group.namespace.replace(index));
        if let Some(before) = before {
            self.pool.detach(before);
            if before != index
                && let Some(scheduler) = self.groups.get(&id).and_then(|group| group.scheduler)
            {
                // What was found under the old name must not be loaded under the new one.
                self.release_lookups(scheduler);
                self.release_waits(scheduler, true, effects);
            }
        }
        let note = other_seed.filter(|_| is_new);
        Ok(Made::Namespace(note.map(|existing| Note::HashSeedDiffers {
            existing,
            new: namespace,
        })))
    }

    fn make_room_for_names(&mut self, bytes: usize, effects: &mut Effects) -> Result<(), Refusal> {
        let max = self.config.descriptor_bytes_max;
        let bytes = bytes.saturating_add(self.fields_bytes());
        let out = &mut Out {
            counters: &mut self.counters,
            effects,
        };
        if self.pool.make_room_for_names(bytes, &mut self.nvme, out) {
            Ok(())
        } else {
            Err(Refusal::DescriptorsExhausted { max })
        }
    }

    /// Memory that the fields of sessions and groups take, about.
    pub(crate) fn fields_bytes(&self) -> usize {
        let own = self.sessions.values().map(Session::fields_bytes);
        let common = self.groups.values().filter_map(|group| group.common.as_ref());
        own.chain(common.map(|common| fields_bytes(common.fields())))
            .sum()
    }

    /// A scheduler knows its groups but not their bytes; one that says nothing is believed.
    fn check_scheduler(&self, group: &EngineGroup, geometry: &NamespaceGeometry) -> Result<(), Refusal> {
        let scheduler = group.scheduler.and_then(|id| self.sessions.get(&id));
        let Some(said) = scheduler
            .map(|session| &session.groups)
            .filter(|groups| !groups.is_empty())
        else {
            return Ok(());
        };
        if said.len() != geometry.groups.len() {
            let (expected, actual) = (geometry.groups.len(), said.len());
            return Err(Refusal::SchedulerGroupCount { expected, actual });
        }
        for (index, (&actual, layout)) in said.iter().zip(&geometry.groups).enumerate() {
            let expected = GroupGeometry {
                kind: layout.kind,
                tokens_per_block: layout.tokens_per_block,
                rank_bytes: actual.rank_bytes,
            };
            if expected != actual {
                return Err(Refusal::SchedulerGroupDiffers {
                    group: index,
                    expected,
                    actual,
                });
            }
        }
        Ok(())
    }

    fn announce_attached(&mut self, id: SessionId, made: Made, effects: &mut Effects) {
        let Some(session) = self
            .sessions
            .get(&id)
            .filter(|session| session.role != Role::Observer)
        else {
            return;
        };
        let group = session.group;
        match made {
            Made::Namespace(note) => {
                effects.list.extend(note.map(Effect::Note));
                self.announce_namespace(group, effects);
            }
            Made::Nothing => {
                let ready = self.ready_namespace(group);
                effects
                    .list
                    .extend(ready.map(|namespace| self.namespace_ready(id, namespace)));
            }
        }
    }

    /// Tells all sessions of a group their namespace.
    pub(crate) fn announce_namespace(&self, id: EngineGroupId, effects: &mut Effects) {
        let Some(group) = self.groups.get(&id) else { return };
        if let Some(namespace) = group.ready_namespace() {
            effects.list.extend(
                group
                    .members()
                    .map(|member| self.namespace_ready(member, namespace)),
            );
        }
    }

    fn namespace_ready(&self, session: SessionId, namespace: u32) -> Effect {
        let namespace = self.pool.spaces.get(namespace);
        let mut groups = namespace.geometry.groups.clone();
        // The header page is the daemon's own: neither the namespace's name nor any other node knows of it.
        let header_bytes = self.config.slot_header_bytes();
        for group in &mut groups {
            group.slot_bytes += header_bytes;
            group
                .rank_offsets
                .iter_mut()
                .for_each(|offset| *offset += header_bytes);
        }
        Effect::NamespaceReady {
            session,
            namespace: namespace.id,
            groups,
        }
    }
}

/// Composed fields are told from common ones by their tags.
fn check_common_tags(fields: &[Field]) -> Result<(), Refusal> {
    let is_composed = |tag: &str| tag.starts_with(RANK_PREFIX) || tag == GEOMETRY_TAG || tag == RESET_TAG;
    match fields.iter().find(|field| is_composed(&field.tag)) {
        Some(field) => Err(Refusal::ReservedTag {
            tag: field.tag.clone(),
        }),
        None => Ok(()),
    }
}

/// Sessions are kept whole before their groups are composed, so the number is bounded by itself.
fn check_group_count(session: &Session) -> Result<(), Refusal> {
    let (max, actual) = (NamespaceGeometry::GROUPS_MAX, session.groups.len());
    if actual > max {
        let what = "groups";
        return Err(GeometryError::Count { what, max, actual }.into());
    }
    Ok(())
}

/// What an attachment brought about.
pub(crate) enum Made {
    /// The group composed its namespace (perhaps the one it had), and this is worth saying about it.
    Namespace(Option<Note>),
    /// Nothing.
    Nothing,
}

fn descriptor_fields<'a>(
    common: impl Iterator<Item = (&'a str, &'a [u8])>,
    ranks: &[&Session],
    geometry: &NamespaceGeometry,
    nonce: Option<&[u8; 16]>,
) -> Vec<Field> {
    let mut fields: Vec<Field> = common
        .map(|(tag, value)| Field {
            tag: tag.to_owned(),
            value: value.to_vec(),
        })
        .collect();
    for (rank, session) in ranks.iter().enumerate() {
        let own = session.rank_fields.iter();
        fields.extend(own.map(|field| Field {
            tag: format!("{RANK_PREFIX}{rank}.{}", field.tag),
            value: field.value.clone(),
        }));
    }
    fields.push(Field {
        tag: GEOMETRY_TAG.into(),
        value: render_geometry(geometry).into_bytes(),
    });
    fields.extend(nonce.map(|nonce| Field {
        tag: RESET_TAG.into(),
        value: nonce.to_vec(),
    }));
    fields
}
