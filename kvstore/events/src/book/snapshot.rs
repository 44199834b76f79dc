//! Snapshots: after something was lost, the engine says everything again, and what it does not say is gone.

use kvstore_types::Tier;

use super::{Book, TenantIndex};
use crate::tiers::TierSet;

/// Where a tenant's snapshots are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Round {
    /// The one that is awaited; others are ignored.
    wanted: Option<u64>,
    /// The one that has begun.
    begun: bool,
    /// Marks what it has said; what has another mark it has not.
    mark: u8,
}

impl Book {
    /// Something of this tenant was lost: only a snapshot of this number, which is still to begin, tells what is there.
    pub fn snapshot_wanted(&mut self, tenant: TenantIndex, number: u64) {
        let round = self.round_mut(tenant);
        round.wanted = Some(number);
        round.begun = false;
    }

    /// Whether what is known of the tenant may be incomplete.
    pub fn is_incomplete(&self, tenant: TenantIndex) -> bool {
        self.round(tenant).wanted.is_some()
    }

    pub(super) fn snapshot_begun(&mut self, tenant: TenantIndex, number: u64) {
        let round = self.round_mut(tenant);
        if round.wanted == Some(number) {
            round.begun = true;
            round.mark = round.mark.wrapping_add(1);
        }
    }

    pub(super) fn snapshot_ended(&mut self, tenant: TenantIndex, number: u64) {
        let round = self.round_mut(tenant);
        if round.wanted != Some(number) || !round.begun {
            return;
        }
        round.wanted = None;
        let mark = round.mark;
        let mut gone = Vec::new();
        for record in self.places().iter().filter(|record| !record.tiers.is_empty()) {
            let (owner, key) = self.key_of(record);
            let confirmed = if record.round == mark {
                record.confirmed
            } else {
                TierSet::EMPTY
            };
            if owner == tenant {
                let unconfirmed = record.tiers.without(confirmed);
                gone.extend(unconfirmed.iter().map(|tier| (key, tier)));
            }
        }
        for (key, tier) in gone {
            self.remove(tenant, &key, tier);
        }
    }

    /// The engine has said it since the snapshot began.
    pub(super) fn confirm(&mut self, tenant: TenantIndex, index: u32, tier: Tier) {
        let mark = self.round(tenant).mark;
        let record = self.records.get_mut(index);
        if record.round != mark {
            record.round = mark;
            record.confirmed = TierSet::EMPTY;
        }
        record.confirmed = record.confirmed.union(TierSet::of(tier));
    }

    fn round(&self, tenant: TenantIndex) -> Round {
        self.snapshots
            .get(usize::from(tenant))
            .copied()
            .unwrap_or_default()
    }

    fn round_mut(&mut self, tenant: TenantIndex) -> &mut Round {
        let tenant = usize::from(tenant);
        if self.snapshots.len() <= tenant {
            self.snapshots.resize(tenant + 1, Round::default());
        }
        &mut self.snapshots[tenant]
    }
}
