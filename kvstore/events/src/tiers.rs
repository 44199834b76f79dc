//! Sets of tiers.

use kvstore_types::Tier;

/// A set of tiers: where copies of a block are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TierSet(u8);

/// All tiers, fastest first.
pub const TIERS: [Tier; 3] = [Tier::Host, Tier::Nvme, Tier::Remote];

/// Position of a tier in [`TIERS`].
pub(crate) const fn tier_index(tier: Tier) -> usize {
    match tier {
        Tier::Host => 0,
        Tier::Nvme => 1,
        Tier::Remote => 2,
    }
}

impl TierSet {
    /// No tier.
    pub const EMPTY: Self = Self(0);
    /// Every tier.
    pub const ALL: Self = Self(0b111);

    /// The set of one tier.
    pub const fn of(tier: Tier) -> Self {
        Self(1 << tier_index(tier))
    }

    /// As a number.
    pub(crate) const fn bits(self) -> u8 {
        self.0
    }

    /// Of such a number; none if it has other bits.
    pub(crate) const fn from_bits(bits: u8) -> Option<Self> {
        if bits & !Self::ALL.0 == 0 {
            Some(Self(bits))
        } else {
            None
        }
    }

    /// Whether it has no tier.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the tier is in it.
    pub const fn contains(self, tier: Tier) -> bool {
        self.0 & Self::of(tier).0 != 0
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in this one and not in the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Its tiers, fastest first.
    pub fn iter(self) -> impl Iterator<Item = Tier> {
        TIERS.into_iter().filter(move |tier| self.contains(*tier))
    }
}

impl FromIterator<Tier> for TierSet {
    fn from_iter<I: IntoIterator<Item = Tier>>(tiers: I) -> Self {
        tiers
            .into_iter()
            .fold(Self::EMPTY, |set, tier| set.union(Self::of(tier)))
    }
}
