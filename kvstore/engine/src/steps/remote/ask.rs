//! Which blocks of a prefix are in the remote tier.

use kvstore_types::{AttentionKind, BlockKey};

use crate::block::{BlockIndex, Reach, Space, Trail};
use crate::effect::{Effect, Effects, RemoteOrder};
use crate::engine::Engine;
use crate::pool::Out;
use crate::remote::Operation;
use crate::space::group_index;
use crate::steps::nvme::Cold;

impl Engine {
    /// Asks for the blocks behind a look-up's hit that nothing is known of, for each group at once. The answer is how many
    /// questions that were.
    ///
    /// A longer hit needs none of the blocks before the end of this one beyond those that this one needs, whatever the
    /// group's window is.
    pub(crate) fn ask_remote(&mut self, cold: &Cold<'_>, wait: u64, effects: &mut Effects) -> usize {
        let mut questions = Vec::new();
        let namespace = self.pool.spaces.get(cold.namespace);
        for (group, (layout, keys)) in (0_u8..).zip(namespace.geometry.groups.iter().zip(cold.keys)) {
            let block =
                |tokens: u64| usize::try_from(tokens / u64::from(layout.tokens_per_block)).unwrap_or(0);
            let range = block(cold.hit)..block(cold.longest);
            let hashes = keys.unwrap_or_default().get(range).unwrap_or_default();
            let mut found = vec![BlockIndex::NONE; hashes.len()];
            let (space, mut trail) = (Space::new(cold.namespace, group), Trail::new(Reach::Remote));
            self.pool
                .blocks
                .find_present(space, hashes, &mut found, &mut trail);
            let unknown = hashes
                .iter()
                .zip(found)
                .filter(|&(_, found)| found == BlockIndex::NONE);
            let keys: Vec<BlockKey> = unknown
                .map(|(&hash, _)| BlockKey {
                    namespace: namespace.id,
                    group: group_index(group),
                    hash,
                })
                .collect();
            if !keys.is_empty() {
                questions.push((keys, layout.kind == AttentionKind::Full));
            }
        }
        if questions.is_empty() {
            return 0;
        }
        self.keep_remote_namespace(cold.namespace, effects);
        self.counters.remote_lookups += 1;
        for (keys, until_missing) in &questions {
            self.counters.remote_asked += keys.len() as u64;
            self.remote.questions += 1;
            let operation = self.nvme.next_operation();
            let under_way = Operation::Exists {
                wait,
                keys: keys.clone(),
            };
            self.remote.operations.insert(operation, under_way);
            effects.list.push(Effect::Remote(RemoteOrder::Exists {
                operation,
                keys: keys.clone(),
                until_missing: *until_missing,
            }));
        }
        questions.len()
    }

    /// What is there is known from now on, whoever still waits for it.
    pub(super) fn on_existence(
        &mut self,
        wait: u64,
        keys: &[BlockKey],
        presence: &[bool],
        effects: &mut Effects,
    ) {
        self.remote.questions -= 1;
        let present = keys.iter().zip(presence).filter(|&(_, &is_present)| is_present);
        let present: Vec<&BlockKey> = present.map(|(key, _)| key).collect();
        self.counters.remote_found += present.len() as u64;
        self.pool.blocks.reserve(self.pool.blocks.len() + present.len());
        let namespace = keys.first().and_then(|key| self.pool.spaces.find(key.namespace));
        if let Some(namespace) = namespace {
            for key in present {
                self.learn(Space::new(namespace, key.group.0), key, effects);
            }
        }
        let Some(waiting) = self.nvme.waits.get_mut(wait) else {
            return;
        };
        waiting.asking -= 1;
        if waiting.asking == 0 {
            self.extend_wait(wait, effects);
        }
    }

    /// A block is in the remote tier.
    pub(super) fn learn(&mut self, space: Space, key: &BlockKey, effects: &mut Effects) {
        let out = &mut Out {
            counters: &mut self.counters,
            effects,
        };
        if let Some(block) = self.pool.blocks.find(space, &key.hash) {
            self.pool.set_remote(block, out);
        } else {
            let block = self.pool.add_remote(space, key.hash);
            self.pool.announce_remote(block, out);
        }
    }
}
