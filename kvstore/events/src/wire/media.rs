//! What tiers are called on the wire.

use kvstore_types::Tier;

use crate::tiers::{TIERS, TierSet, tier_index};

/// Index of a medium: tiers that are announced under one name are one.
pub type Medium = u8;

/// What tiers are called on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Media {
    names: Vec<String>,
    of_tier: [Medium; 3],
}

impl Media {
    /// Of the names of the tiers, fastest first. Routers do not tell upper case from lower, so neither does this.
    pub(crate) fn new(names: &[String; 3]) -> Self {
        let mut media = Self {
            names: Vec::new(),
            of_tier: [0; 3],
        };
        for (tier, name) in names.iter().enumerate() {
            let known = media
                .names
                .iter()
                .position(|other| other.eq_ignore_ascii_case(name));
            let index = known.unwrap_or_else(|| {
                media.names.push(name.clone());
                media.names.len() - 1
            });
            // There are three at most.
            media.of_tier[tier] = Medium::try_from(index).unwrap_or(0);
        }
        media
    }

    /// The media of these tiers.
    pub(crate) fn set(&self, tiers: TierSet) -> MediumSet {
        let bits = tiers.iter().map(|tier| 1 << self.of_tier[tier_index(tier)]);
        MediumSet(bits.fold(0, |set, bit| set | bit))
    }

    pub(super) fn name(&self, medium: Medium) -> &str {
        self.names.get(usize::from(medium)).map_or("", String::as_str)
    }

    /// Whether what is in these tiers of a medium is on the node.
    pub(super) fn locality(&self, medium: Medium, tiers: TierSet) -> Option<&'static str> {
        let mut locality = None;
        for tier in TIERS {
            if self.of_tier[tier_index(tier)] == medium && tiers.contains(tier) {
                match tier {
                    Tier::Host => return None,
                    Tier::Nvme => return Some("LOCAL"),
                    Tier::Remote => locality = Some("REMOTE"),
                }
            }
        }
        locality
    }
}

/// A set of media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MediumSet(u8);

impl MediumSet {
    pub(crate) const EMPTY: Self = Self(0);

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn contains(self, medium: Medium) -> bool {
        self.0 & 1 << medium != 0
    }

    /// Each once, that of the fastest tier first.
    pub(crate) fn iter(self) -> impl Iterator<Item = Medium> {
        (0..3).filter(move |medium| self.contains(*medium))
    }
}
