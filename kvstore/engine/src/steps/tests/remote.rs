//! The remote tier, with a store that does what a test says.

mod look;
mod store;

use std::time::Duration;

use kvstore_types::{BlockKey, OperationId, Tier};

use super::*;
use crate::config::{RemoteAdmission, RemoteConfig};
use crate::event::{RemoteDirection, RemoteEvent, RemoteOutcome};

/// Sixteen slots of one page.
fn remote_config(change: impl FnOnce(&mut RemoteConfig)) -> EngineConfig {
    let mut remote = RemoteConfig {
        admission: RemoteAdmission::Everything,
        promotion_deadline: Duration::from_secs(1),
        promotion_bytes_max: 1 << 20,
        write_bytes_max: 1 << 20,
        write_queue_max: 100,
        known_max: 100,
    };
    change(&mut remote);
    EngineConfig {
        remote: Some(remote),
        ..config()
    }
}

impl Bed {
    /// An engine with a remote tier in service that one client is attached to.
    fn with_remote(change: impl FnOnce(&mut RemoteConfig)) -> Self {
        let mut bed = Self::new(remote_config(change));
        bed.service(RemoteDirection::Read, true);
        bed.service(RemoteDirection::Write, true);
        bed.attach(SCHEDULER, 1, profile(1, Role::Scheduler, 1));
        bed.attach(WORKER, 2, profile(1, Role::Worker(Rank(0)), 1));
        bed
    }

    fn hear(&mut self, event: RemoteEvent<'_>) -> Vec<Effect> {
        self.step(Event::Remote(event)).to_vec()
    }

    fn service(&mut self, direction: RemoteDirection, is_available: bool) -> Vec<Effect> {
        self.hear(RemoteEvent::Service {
            direction,
            is_available,
        })
    }

    /// Takes the stores, fetches and questions there are, apart.
    fn stores(&mut self) -> Vec<(OperationId, u8)> {
        self.take(|order| match order {
            RemoteOrder::Store { operation, key, .. } => Some((*operation, key.hash.0[0])),
            _ => None,
        })
    }

    fn fetches(&mut self) -> Vec<(OperationId, u8)> {
        self.take(|order| match order {
            RemoteOrder::Fetch { operation, key, .. } => Some((*operation, key.hash.0[0])),
            _ => None,
        })
    }

    fn questions(&mut self) -> Vec<(OperationId, Vec<u8>)> {
        self.take(|order| match order {
            RemoteOrder::Exists { operation, keys, .. } => {
                Some((*operation, keys.iter().map(|key| key.hash.0[0]).collect()))
            }
            _ => None,
        })
    }

    fn take<T>(&mut self, wanted: impl Fn(&RemoteOrder) -> Option<T>) -> Vec<T> {
        let taken = self.remote.iter().filter_map(&wanted).collect();
        self.remote.retain(|order| wanted(order).is_none());
        taken
    }

    fn stored(&mut self, operation: OperationId, outcome: RemoteOutcome) -> Vec<Effect> {
        self.hear(RemoteEvent::Stored { operation, outcome })
    }

    fn fetched(&mut self, operation: OperationId, outcome: RemoteOutcome) -> Vec<Effect> {
        let descriptor = None;
        self.hear(RemoteEvent::Fetched {
            operation,
            outcome,
            descriptor,
        })
    }

    fn existence(&mut self, operation: OperationId, presence: &[bool]) -> Vec<Effect> {
        self.hear(RemoteEvent::Existence { operation, presence })
    }

    fn asks(&mut self, tag: u64, hashes: &[BlockHash]) -> Completion {
        self.step(Event::Lookup {
            session: SCHEDULER,
            tag: Tag(tag),
            groups: &[GroupKeys { group: 0, hashes }],
            tokens_max: u64::MAX,
        });
        self.completion()
    }

    /// Where copies of a block are: in host memory, in the remote tier.
    fn places(&self, number: u8) -> (bool, bool) {
        let Some(namespace) = self.engine.namespaces().next() else {
            return (false, false);
        };
        let found = self.engine.residency(&BlockKey {
            namespace: namespace.namespace,
            group: kvstore_types::GroupIndex(0),
            hash: BlockHash([number; 32]),
        });
        (found.host, found.remote)
    }

    /// Lets others push everything out of host memory.
    fn flush(&mut self) {
        for _ in 0..2 {
            let slots = self.slots(SCHEDULER, &hashes(200..216));
            self.step(Event::Abort {
                session: SCHEDULER,
                tag: Tag(9),
                slots: &slots,
            });
        }
    }
}

/// What was announced of the remote tier: blocks that came and blocks that went.
fn announced(effects: &[Effect]) -> (Vec<u8>, Vec<(u8, RemovalCause)>) {
    let (mut came, mut went) = (Vec::new(), Vec::new());
    for effect in effects {
        match effect {
            Effect::BlockStored {
                key,
                tier: Tier::Remote,
                ..
            } => came.push(key.hash.0[0]),
            Effect::BlockRemoved {
                key,
                tier: Tier::Remote,
                cause,
            } => went.push((key.hash.0[0], *cause)),
            _ => {}
        }
    }
    (came, went)
}

/// The hits that look-ups were answered with, by tag.
fn hits(effects: &[Effect]) -> Vec<(u64, u64)> {
    let answers = effects.iter().filter_map(|effect| match effect {
        Effect::Complete {
            tag,
            completion: Completion::Lookup { hit_tokens, .. },
            ..
        } => Some((tag.0, *hit_tokens)),
        _ => None,
    });
    answers.collect()
}
