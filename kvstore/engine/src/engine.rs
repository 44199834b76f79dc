//! The engine: its state, and the way from an event to the step that handles it.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Bound;
use std::time::{Duration, Instant};

use kvstore_types::{BlockKey, EngineGroupId, NamespaceDescriptor, NamespaceId, PAGE_BYTES, SessionId, Tag};
use lru::LruCache;

use crate::block::{Block, BlockIndex, Space};
use crate::config::{ConfigError, EngineConfig};
use crate::counters::{Counters, NamespaceUsage, NvmeUsage, Occupancy, Residency, SessionUsage};
use crate::effect::{Completion, Effect, Effects, Violation};
use crate::event::{Event, Role, SessionEnd};
use crate::filling::Fillings;
use crate::group::EngineGroup;
use crate::hash::FixedState;
use crate::histogram::Histogram;
use crate::nvme::{Device, Nvme, SegmentState, device_index};
use crate::pool::{Effort, Hold, Out, Pool};
use crate::remote::Remote;
use crate::session::Session;
use crate::space::Namespace;

/// Decides for one tenant: who is attached, what is cached where, who may read and write which slot.
#[derive(Debug)]
pub struct Engine {
    pub(crate) config: EngineConfig,
    pub(crate) pool: Pool,
    pub(crate) nvme: Nvme,
    pub(crate) remote: Remote,
    pub(crate) fillings: Fillings,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    pub(crate) groups: BTreeMap<EngineGroupId, EngineGroup>,
    /// The nonces of engines that were reset and whose group is gone, for a while: an engine that lost its sessions
    /// must not come back to the namespace it left. A group that is known keeps its own.
    pub(crate) resets: LruCache<EngineGroupId, [u8; 16], FixedState>,
    pub(crate) counters: Counters,
    pub(crate) lookup_waits: Histogram,
    /// From a load's commitment to its release.
    pub(crate) load_times: Histogram,
    /// From a block's reservation to its last seal.
    pub(crate) store_times: Histogram,
    /// When the step under way happens.
    pub(crate) now: Option<Instant>,
    pub(crate) is_draining: bool,
    /// Eviction down to the low watermark is under way.
    pub(crate) is_evicting: bool,
    pub(crate) scratch: Scratch,
    /// Breaks a promise on purpose, so that the simulation can show that it would notice.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) canary: crate::sim::Canary,
}

/// Memory that steps reuse.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// What a look-up found, for each group.
    pub(crate) found: Vec<Vec<BlockIndex>>,
    /// Whether any of it is not resident.
    pub(crate) is_cold: bool,
    /// Whom the end of a promotion concerns.
    pub(crate) waiters: Vec<u64>,
    /// Lists of holds of look-ups that are over.
    pub(crate) holds: Vec<Vec<Hold>>,
}

/// Engines whose reset is remembered when their group is gone.
const RESETS_MAX: usize = 4096;

/// Blocks evicted in one step while the watermark is passed.
const WATERMARK_BATCH: u32 = 64;

/// A step's end: either the answer, or what the client did wrong.
pub(crate) type Outcome = Result<(), Violation>;

impl Engine {
    /// An engine over an empty region.
    pub fn new(config: EngineConfig) -> Result<Self, ConfigError> {
        config.check()?;
        let resets_max = NonZeroUsize::new(RESETS_MAX).unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            pool: Pool::new(&config),
            nvme: Nvme::new(config.nvme.as_ref()),
            remote: Remote::new(config.remote.as_ref()),
            config,
            fillings: Fillings::default(),
            sessions: BTreeMap::new(),
            groups: BTreeMap::new(),
            resets: LruCache::with_hasher(resets_max, FixedState::default()),
            counters: Counters::default(),
            lookup_waits: Histogram::default(),
            load_times: Histogram::default(),
            store_times: Histogram::default(),
            now: None,
            is_draining: false,
            is_evicting: false,
            scratch: Scratch::default(),
            #[cfg(any(test, feature = "sim"))]
            canary: crate::sim::Canary::None,
        })
    }

    /// Advances the engine by one event. No clock, no I/O, no locks. Effects are appended, in order.
    pub fn step(&mut self, now: Instant, event: Event<'_>, effects: &mut Effects) {
        let is_tick = matches!(event, Event::Tick);
        self.now = Some(now);
        let has_tiers = !self.nvme.devices.is_empty() || self.remote.config.is_some();
        if has_tiers {
            self.nvme.now = Some(now);
        }
        self.dispatch(now, event, effects);
        if is_tick {
            self.evict_batch(effects);
        } else if !self.is_evicting {
            // A tick that found nothing to evict ends the eviction; only something new may start it again, so that
            // an idle daemon sleeps.
            self.is_evicting = self.pool.is_above(self.config.watermark_high);
        }
        if has_tiers {
            self.expire_waits(now, effects);
            self.tend_nvme(now, effects);
            self.tend_remote(effects);
        }
    }

    /// Whether a `Tick` would do something.
    pub fn has_work(&self) -> bool {
        self.is_evicting || self.nvme.has_work || self.remote.has_work
    }

    /// All that was counted since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What is where now. Walks sessions and leases, not blocks.
    pub fn occupancy(&self) -> Occupancy {
        let doomed = self.fillings.doomed() as u64;
        let leases = self.sessions.values().flat_map(|session| session.leases.values());
        let wards = self.groups.values().flat_map(|group| &group.wards);
        let sum = |count: fn(&Device) -> u32| -> u64 {
            self.nvme
                .devices
                .iter()
                .map(|device| u64::from(count(device)))
                .sum()
        };
        Occupancy {
            slots_free: self.pool.slots_assigned() - self.pool.slots_used(),
            slots_filling: self.fillings.len() as u64 - doomed,
            slots_resident: self.pool.slots_resident,
            slots_leased: self.pool.slots_leased,
            slots_quarantined: doomed,
            bytes_used: self.pool.bytes_used,
            arenas_total: self.pool.arenas().count(),
            arenas_assigned: self.pool.arenas_assigned(),
            sessions: self.sessions.len(),
            engine_groups: self.groups.len(),
            namespaces: self.pool.spaces.len(),
            holds: self.pool.holds,
            blocks: self.pool.blocks.len() as u64,
            blocks_described: self.pool.blocks.descriptors().len() as u64,
            descriptor_bytes: self.pool.blocks.descriptors().bytes() as u64,
            lookups_pending: self.nvme.waits.len(),
            remote_blocks: self
                .pool
                .spaces
                .iter()
                .map(|(_, namespace)| namespace.remote)
                .sum(),
            remote_bytes: self
                .pool
                .spaces
                .iter()
                .map(|(_, namespace)| namespace.remote_bytes)
                .sum(),
            remote_only_blocks: self.pool.blocks.remote_only() as u64,
            remote_queue: self.remote.queue.len() as u64,
            remote_stores_in_flight: u64::from(self.remote.stores),
            remote_fetches_in_flight: u64::from(self.remote.fetches),
            remote_questions_in_flight: u64::from(self.remote.questions),
            nvme_blocks: self.nvme.extents.len() as u64,
            nvme_bytes_used: PAGE_BYTES * self.nvme.devices.iter().map(|device| device.pages).sum::<u64>(),
            nvme_segments_total: sum(|device| device.segments.existing()),
            nvme_segments_free: sum(|device| device.segments.count(SegmentState::Free)),
            nvme_segments_full: sum(|device| device.segments.count(SegmentState::Full)),
            nvme_queue: self.nvme.queue.len() as u64,
            nvme_writes_in_flight: sum(|device| device.writes + device.moves),
            nvme_reads_in_flight: sum(|device| device.reads),
            kept_host_blocks: self.pool.keeps.host_blocks,
            kept_host_bytes: self.pool.keeps.host_bytes,
            kept_host_bytes_max: self.pool.kept_host_bytes_max(),
            kept_nvme_blocks: self.pool.keeps.nvme_blocks,
            kept_nvme_bytes: self.pool.keeps.nvme_bytes,
            kept_nvme_bytes_max: self.kept_nvme_bytes_max(),
            leases: leases.clone().count(),
            leases_quarantined: wards.clone().map(|ward| ward.blocks.len()).sum(),
            lease_oldest_since: leases
                .map(|lease| lease.since)
                .chain(wards.map(|ward| ward.since))
                .min(),
        }
    }

    /// What each NVMe device has, in the order of the configuration.
    pub fn nvme_devices(&self) -> impl Iterator<Item = NvmeUsage> {
        self.nvme
            .devices
            .iter()
            .enumerate()
            .map(|(index, device)| NvmeUsage {
                device: device_index(index),
                state: device.state.name(),
                segment_bytes: self.nvme.config.as_ref().map_or(0, |config| config.segment_bytes),
                segments_max: self
                    .nvme
                    .config
                    .as_ref()
                    .map_or(0, |config| config.tuning.segments_max),
                segments: device.segments.existing(),
                segments_free: device.segments.count(SegmentState::Free),
                segments_full: device.segments.count(SegmentState::Full),
                blocks: device.blocks,
                bytes_used: device.pages * PAGE_BYTES,
                writes_suspended: device.suspension.is_some(),
                reads_in_flight: device.reads,
                writes_in_flight: device.writes + device.moves,
            })
    }

    /// Each known namespace's share of the host tier.
    pub fn namespaces(&self) -> impl Iterator<Item = NamespaceUsage> {
        self.namespaces_from(0).map(|(_, usage)| usage)
    }

    /// Each session behind this one, in order, with what it has. Walks its leases.
    pub fn sessions_after(&self, after: Option<SessionId>) -> impl Iterator<Item = SessionUsage> {
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let sessions = self.sessions.range((first, Bound::Unbounded));
        sessions.map(|(&id, session)| SessionUsage {
            session: id,
            process: session.process,
            engine_group: session.group,
            role: session.role,
            namespace: self
                .ready_namespace(session.group)
                .map(|namespace| self.pool.spaces.get(namespace).id),
            lookups: session.lookups.len(),
            lookups_pending: session.waits.len(),
            blocks_held: session.held,
            leases: session.leases.len(),
            leased_blocks: session.leases.values().map(|lease| lease.blocks.len()).sum(),
            lease_oldest_since: session.leases.values().map(|lease| lease.since).min(),
        })
    }

    /// How long look-ups waited for blocks on their way from NVMe.
    pub fn lookup_waits(&self) -> &Histogram {
        &self.lookup_waits
    }

    /// How long loads took from their commitment to their release by whoever copied. What ends with its engine is not in it.
    pub fn load_times(&self) -> &Histogram {
        &self.load_times
    }

    /// How long blocks took from their reservation to the seal of their last rank.
    pub fn store_times(&self) -> &Histogram {
        &self.store_times
    }

    /// The time since then, in this step.
    pub(crate) fn elapsed(&self, since: Option<Instant>) -> Duration {
        match (self.now, since) {
            (Some(now), Some(since)) => now.saturating_duration_since(since),
            _ => Duration::ZERO,
        }
    }

    /// Each known namespace's share from this number on, with the number of each.
    pub fn namespaces_from(&self, first: u32) -> impl Iterator<Item = (u32, NamespaceUsage)> {
        let spaces = self.pool.spaces.iter().filter(move |&(index, _)| index >= first);
        spaces.map(|(index, namespace)| (index, usage_of(namespace)))
    }

    /// Bytes of each arena of the region.
    pub fn arena_bytes(&self) -> u64 {
        self.config.arena_bytes
    }

    /// All that a known namespace stands for.
    pub fn descriptor(&self, namespace: NamespaceId) -> Option<&NamespaceDescriptor> {
        let index = self.pool.spaces.find(namespace)?;
        Some(&self.pool.spaces.get(index).descriptor)
    }

    /// Where the copies of a block are.
    pub fn residency(&self, key: &BlockKey) -> Residency {
        let namespace = self.pool.spaces.find(key.namespace);
        let block =
            namespace.and_then(|index| self.pool.blocks.find(Space::new(index, key.group.0), &key.hash));
        let record = block.map(|block| self.pool.blocks.get(block));
        record.map_or(Residency::default(), Block::residency)
    }

    fn dispatch(&mut self, now: Instant, event: Event<'_>, effects: &mut Effects) {
        let (session, outcome) = match event {
            Event::SessionOpened {
                session,
                process,
                profile,
            } => {
                return self.on_session_opened(session, process, profile, effects);
            }
            Event::SessionEnded { session, end } => return self.on_session_ended(session, end, effects),
            Event::ProcessDied { process } => return self.on_process_died(process, effects),
            Event::Drain => {
                self.is_draining = true;
                return;
            }
            Event::Tick => return,
            Event::Nvme { device, event } => return self.on_nvme(now, device, event, effects),
            Event::Remote(event) => return self.on_remote(event, effects),
            Event::NvmeTuned { tuning } => return self.on_nvme_tuned(tuning),
            Event::HostTuned {
                watermark_low: low,
                watermark_high: high,
            } => {
                if 0.0 < low && low < high && high <= 1.0 {
                    (self.config.watermark_low, self.config.watermark_high) = (low, high);
                }
                return;
            }
            Event::EvictRange(ask) => return self.on_evict_range(&ask, effects),
            Event::EvictBlocks(ask) => return self.on_evict_blocks(&ask, effects),
            Event::Keep(ask) => return self.on_keep(ask, effects),
            Event::Lookup {
                session,
                tag,
                groups,
                tokens_max,
            } => (
                session,
                self.on_lookup(now, session, tag, groups, tokens_max, effects),
            ),
            Event::LookupRelease { session, tag } => return self.on_lookup_release(session, tag, effects),
            Event::LoadCommit {
                session,
                tag,
                lease,
                spans,
            } => (
                session,
                self.on_load_commit(now, session, tag, lease, spans, effects),
            ),
            Event::LeaseRelease { session, lease } => return self.on_lease_release(session, lease),
            Event::Reserve {
                session,
                tag,
                groups,
                runs,
            } => (session, self.on_reserve(session, tag, groups, runs, effects)),
            Event::Seal { session, tag, slots } => (session, self.on_seal(session, tag, slots, effects)),
            Event::Abort { session, tag, slots } => (session, self.on_abort(session, tag, slots, effects)),
            Event::Reset { session, tag, nonce } => (session, self.on_reset(session, tag, nonce, effects)),
        };
        if let Err(violation) = outcome {
            self.counters.cut_offs += 1;
            effects.list.push(Effect::CutOff { session, violation });
            self.on_session_ended(session, SessionEnd::HungUp, effects);
        }
    }

    /// The session that an event names. One that has ended may have sent it before it knew.
    pub(crate) fn session(&mut self, session: SessionId) -> Option<&mut Session> {
        let found = self.sessions.get_mut(&session);
        self.counters.events_unknown_session += u64::from(found.is_none());
        found
    }

    /// The same, for an operation only a scheduler may ask for.
    pub(crate) fn scheduler(
        &mut self,
        session: SessionId,
        operation: &'static str,
    ) -> Result<Option<&mut Session>, Violation> {
        let Some(session) = self.session(session) else {
            return Ok(None);
        };
        match session.role {
            Role::Scheduler => Ok(Some(session)),
            Role::Worker(_) | Role::Observer => Err(Violation::WrongRole {
                role: session.role_name(),
                operation,
            }),
        }
    }

    /// The namespace of an engine all of whose ranks are attached.
    pub(crate) fn ready_namespace(&self, group: EngineGroupId) -> Option<u32> {
        self.groups.get(&group).and_then(EngineGroup::ready_namespace)
    }

    fn evict_batch(&mut self, effects: &mut Effects) {
        let mut effort = Effort::WATERMARK;
        for _ in 0..WATERMARK_BATCH {
            if !self.is_evicting {
                return;
            }
            let is_above_low = self.pool.is_above(self.config.watermark_low);
            let victim = is_above_low
                .then(|| self.pool.choose_largest(&mut effort))
                .flatten();
            let Some(victim) = victim else {
                self.is_evicting = false;
                return;
            };
            if !self.store_before_leaving(victim, effects) {
                self.evict_for_watermark(victim, effects);
            }
        }
    }

    /// A block that its policy has let go of leaves.
    pub(crate) fn evict_for_watermark(&mut self, victim: BlockIndex, effects: &mut Effects) {
        let out = &mut Out {
            counters: &mut self.counters,
            effects,
        };
        out.counters.evicted_for_watermark += 1;
        self.pool.evict_chosen(victim, out);
    }
}

fn usage_of(namespace: &Namespace) -> NamespaceUsage {
    NamespaceUsage {
        namespace: namespace.id,
        blocks: namespace.blocks,
        host_blocks: namespace.resident,
        nvme_blocks: namespace.stored,
        remote_blocks: namespace.remote,
        remote_bytes: namespace.remote_bytes,
        engine_groups: namespace.users,
        traffic: namespace.traffic,
    }
}

/// Tells a client the answer to its operation.
pub(crate) fn complete(effects: &mut Effects, session: SessionId, tag: Tag, completion: Completion) {
    effects.list.push(Effect::Complete {
        session,
        tag,
        completion,
    });
}

/// A position in one of the shared vectors of `Effects`.
pub(crate) fn position(length: usize) -> u32 {
    // A step appends at most what one message names, and the caller clears between steps.
    u32::try_from(length).unwrap_or(u32::MAX)
}
