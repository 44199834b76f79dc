//! The remote tier: what follows from what it says, and what is asked of it.

mod ask;
mod fetch;
mod store;

use crate::block::{BlockIndex, BlockState, mark};
use crate::effect::{Effect, Effects, RemoteOrder, RemovalCause};
use crate::engine::Engine;
use crate::event::RemoteEvent;
use crate::pool::Out;
use crate::remote::Operation;

/// Most blocks that one step stores of its own accord.
const BATCH: u32 = 256;
/// Most records that one step looks at for something to forget.
const LOOKED_AT: u32 = 4096;

impl Engine {
    pub(crate) fn on_remote(&mut self, event: RemoteEvent<'_>, effects: &mut Effects) {
        let operation = match &event {
            RemoteEvent::Service {
                direction,
                is_available,
            } => return self.remote.set_service(*direction, *is_available),
            RemoteEvent::Taken { operation } => return self.on_store_taken(*operation, effects),
            RemoteEvent::Stored { operation, .. }
            | RemoteEvent::Fetched { operation, .. }
            | RemoteEvent::Existence { operation, .. } => *operation,
        };
        let Some(under_way) = self.remote.operations.remove(&operation) else {
            self.counters.remote_events_unknown += 1;
            return;
        };
        match (under_way, event) {
            (Operation::Store(store), RemoteEvent::Stored { outcome, .. }) => {
                self.on_stored(&store, outcome, effects);
            }
            (
                Operation::Fetch { promotion },
                RemoteEvent::Fetched {
                    outcome, descriptor, ..
                },
            ) => self.on_fetched(promotion, outcome, descriptor.as_ref(), effects),
            (Operation::Exists { wait, keys }, RemoteEvent::Existence { presence, .. }) => {
                self.on_existence(wait, &keys, presence, effects);
            }
            (other, _) => {
                // Its own answer is still to come.
                self.remote.operations.insert(operation, other);
                self.counters.remote_events_unknown += 1;
            }
        }
    }

    /// Does what is to be done at the end of each step, as far as the batch goes.
    pub(crate) fn tend_remote(&mut self, effects: &mut Effects) {
        if self.remote.config.is_none() {
            return;
        }
        self.forget_namespaces(effects);
        let mut budget = BATCH;
        self.store_queued(&mut budget, effects);
        self.remote.has_work = budget == 0;
        self.forget_surplus(effects);
    }

    /// Makes sure that the remote tier knows what a block's namespace stands for.
    fn keep_remote_namespace(&mut self, namespace: u32, effects: &mut Effects) {
        self.forget_namespaces(effects);
        let namespace = self.pool.spaces.get_mut(namespace);
        if !std::mem::replace(&mut namespace.is_kept_remote, true) {
            let order = RemoteOrder::KeepNamespace {
                descriptor: namespace.descriptor.clone(),
                geometry: namespace.geometry.clone(),
            };
            effects.list.push(Effect::Remote(order));
        }
    }

    /// Tells of namespaces that are gone: before they are kept again, if they are.
    fn forget_namespaces(&mut self, effects: &mut Effects) {
        let forgotten = self.pool.spaces.take_forgotten().into_iter();
        let orders = forgotten.map(|namespace| Effect::Remote(RemoteOrder::ForgetNamespace { namespace }));
        effects.list.extend(orders);
    }

    /// Forgets blocks that are in the remote tier only, where more are known than may be: a hand goes round the records, and
    /// spares once what was hit.
    fn forget_surplus(&mut self, effects: &mut Effects) {
        let max = self.remote.config.as_ref().map_or(0, |config| config.known_max);
        for _ in 0..LOOKED_AT {
            if self.pool.blocks.remote_only() <= max {
                return;
            }
            let index = BlockIndex(self.remote.hand);
            self.remote.hand = (self.remote.hand + 1) % self.pool.blocks.records().max(1);
            let record = self.pool.blocks.get_mut(index);
            if record.state != BlockState::Remote {
                continue;
            }
            if record.has(mark::HIT) {
                record.marks &= !mark::HIT;
                continue;
            }
            self.counters.remote_forgotten += 1;
            self.drop_remote(index, RemovalCause::Forgotten, effects);
        }
        self.remote.has_work = true;
    }

    fn drop_remote(&mut self, block: BlockIndex, cause: RemovalCause, effects: &mut Effects) {
        let out = &mut Out {
            counters: &mut self.counters,
            effects,
        };
        self.pool.drop_remote(block, cause, out);
    }
}
