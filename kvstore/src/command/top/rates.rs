//! What changed between samples.

use std::time::Instant;

use kvtier_proto::v1;
use serde::{Serialize, Serializer};

use super::Top;

/// One answer of the daemon.
#[derive(Debug)]
pub(in crate::command) struct Sample {
    pub(super) at: Instant,
    pub(super) status: v1::GetStatusResponse,
    pub(super) tiers: Vec<v1::TierStatus>,
}

/// What happened between two samples, each second.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Rates {
    pub(super) seconds: f64,
    pub(super) lookups: f64,
    /// Blocks hit for each that was looked up; none: none was.
    pub(super) hit_ratio: Option<f64>,
    /// The same since the daemon's start.
    pub(super) hit_ratio_all: Option<f64>,
    pub(super) hit_tokens: f64,
    pub(super) stored_bytes: f64,
    pub(super) loaded_bytes: f64,
    pub(super) nvme_written_bytes: f64,
    pub(super) nvme_read_bytes: f64,
    pub(super) tiers: Vec<TierRates>,
    pub(super) latencies: Vec<LatencyRates>,
    #[serde(serialize_with = "as_map")]
    pub(super) queues: Vec<(&'static str, u64)>,
}

/// One tier, of all tenants that are shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct TierRates {
    pub(super) tier: &'static str,
    pub(super) used_bytes: u64,
    pub(super) capacity_bytes: u64,
    /// "serving", or what is said of those tenants' where it does not.
    pub(super) state: String,
    /// How fast it fills; negative while it drains.
    pub(super) change_bytes: f64,
    pub(super) admitted_blocks: f64,
    pub(super) removed_blocks: f64,
    /// Blocks hit here for each that was looked up anywhere.
    pub(super) hit_ratio: Option<f64>,
}

/// How long something took in the interval.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct LatencyRates {
    pub(super) name: String,
    pub(super) p50_seconds: Option<f64>,
    pub(super) p99_seconds: Option<f64>,
}

/// What is said of a tier that is well.
pub(super) const SERVING: &str = "serving";

/// Numbers of what is under way, as people call them.
const QUEUES: [(&str, &str); 8] = [
    ("sessions", "sessions"),
    ("loads", "leases"),
    ("held blocks", "holds"),
    ("waiting look-ups", "lookups_pending"),
    ("being stored", "slots_filling"),
    ("to be written", "nvme_queue"),
    ("being written", "nvme_writes_in_flight"),
    ("being read", "nvme_reads_in_flight"),
];

impl Top {
    /// What happened between the last two samples; none before there are two.
    pub(super) fn rates(&self) -> Option<Rates> {
        let count = self.samples.len();
        let (before, after) = (self.samples.get(count.checked_sub(2)?)?, self.samples.back()?);
        Some(self.between(before, after))
    }

    /// The same of each two neighbours, the oldest first.
    pub(super) fn history(&self) -> Vec<Rates> {
        let pairs = self.samples.iter().zip(self.samples.iter().skip(1));
        pairs.map(|(before, after)| self.between(before, after)).collect()
    }

    /// The tenants that are shown.
    pub(super) fn tenants<'a>(
        &self,
        sample: &'a Sample,
    ) -> impl Iterator<Item = &'a v1::TenantStatus> + use<'a> {
        let shown = self.tenant;
        let all = sample.status.tenants.iter().enumerate();
        all.filter(move |(index, _)| shown.is_none_or(|shown| shown == *index))
            .map(|(_, tenant)| tenant)
    }

    fn counter(&self, sample: &Sample, name: &str) -> u64 {
        let counters = self.tenants(sample).map(|tenant| tenant.counters.get(name));
        counters.flatten().sum()
    }

    fn between(&self, before: &Sample, after: &Sample) -> Rates {
        let seconds = after
            .at
            .saturating_duration_since(before.at)
            .as_secs_f64()
            .max(1e-3);
        let grown = |name: &str| {
            self.counter(after, name)
                .saturating_sub(self.counter(before, name))
        };
        let rate = |name: &str| per(grown(name), seconds);
        let asked = grown("lookup_blocks");
        Rates {
            seconds,
            lookups: rate("lookups"),
            hit_ratio: share(grown("hit_blocks"), asked),
            hit_ratio_all: share(
                self.counter(after, "hit_blocks"),
                self.counter(after, "lookup_blocks"),
            ),
            hit_tokens: rate("hit_tokens"),
            stored_bytes: rate("published_bytes"),
            loaded_bytes: rate("load_bytes"),
            nvme_written_bytes: rate("nvme_written_bytes"),
            nvme_read_bytes: rate("nvme_read_bytes"),
            tiers: self.tiers(before, after, seconds, asked),
            latencies: self.latencies(before, after),
            queues: QUEUES
                .iter()
                .map(|&(shown, name)| {
                    let occupancy = self.tenants(after).map(|tenant| tenant.occupancy.get(name));
                    (shown, occupancy.flatten().sum())
                })
                .collect(),
        }
    }

    fn tiers(&self, before: &Sample, after: &Sample, seconds: f64, asked: u64) -> Vec<TierRates> {
        [v1::Tier::Host, v1::Tier::Nvme, v1::Tier::Remote]
            .into_iter()
            .filter(|tier| after.tiers.iter().any(|each| each.tier() == *tier))
            .map(|tier| {
                let names: Vec<&str> = self.tenants(after).map(|tenant| tenant.tenant.as_str()).collect();
                let of_tenants =
                    |each: &&v1::TierStatus| each.tier() == tier && names.contains(&each.tenant.as_str());
                let sum = |sample: &Sample, number: fn(&v1::TierStatus) -> u64| -> u64 {
                    let tiers = sample.tiers.iter();
                    tiers.filter(of_tenants).map(number).sum()
                };
                let grown = |number: fn(&v1::TierStatus) -> u64| {
                    sum(after, number).saturating_sub(sum(before, number))
                };
                let used = |sample| sum(sample, |each| each.used_bytes);
                TierRates {
                    tier: tier.name(),
                    used_bytes: used(after),
                    capacity_bytes: sum(after, |each| each.capacity_bytes),
                    state: state(after.tiers.iter().filter(of_tenants)),
                    change_bytes: per(used(after).saturating_sub(used(before)), seconds)
                        - per(used(before).saturating_sub(used(after)), seconds),
                    admitted_blocks: per(grown(|each| each.admitted_blocks), seconds),
                    removed_blocks: per(grown(|each| each.removed_blocks.values().sum()), seconds),
                    // Tiers are asked after the tenants: some of these hits may be of look-ups that are not counted yet.
                    hit_ratio: share(grown(|each| each.hit_blocks).min(asked), asked),
                }
            })
            .collect()
    }

    fn latencies(&self, before: &Sample, after: &Sample) -> Vec<LatencyRates> {
        let mut names: Vec<&str> = Vec::new();
        for latency in self.tenants(after).flat_map(|tenant| &tenant.latencies) {
            if !names.contains(&latency.name.as_str()) {
                names.push(&latency.name);
            }
        }
        let counts = |sample: &Sample, name: &str| -> Vec<u64> {
            let mut sums = Vec::new();
            let latencies = self.tenants(sample).flat_map(|tenant| &tenant.latencies);
            for latency in latencies.filter(|latency| latency.name == name) {
                sums.resize(latency.counts.len().max(sums.len()), 0);
                for (sum, count) in sums.iter_mut().zip(&latency.counts) {
                    *sum += count;
                }
            }
            sums
        };
        let bounds = |name: &str| {
            let mut latencies = self.tenants(after).flat_map(|tenant| &tenant.latencies);
            latencies
                .find(|latency| latency.name == name)
                .map_or(&[][..], |latency| latency.bounds_seconds.as_slice())
        };
        names
            .into_iter()
            .map(|name| {
                let (before, after) = (counts(before, name), counts(after, name));
                let grown: Vec<u64> = after
                    .iter()
                    .enumerate()
                    .map(|(place, count)| count - before.get(place).unwrap_or(&0).min(count))
                    .collect();
                LatencyRates {
                    name: name.to_owned(),
                    p50_seconds: quantile(&grown, bounds(name), 50),
                    p99_seconds: quantile(&grown, bounds(name), 99),
                }
            })
            .collect()
    }
}

/// What a tier's state is called where it is several tenants' and not the same. That stores are refused is said of all of it.
fn state<'a>(tiers: impl Iterator<Item = &'a v1::TierStatus>) -> String {
    let mut unwell: Vec<&str> = Vec::new();
    for tier in tiers.filter(|tier| tier.state != SERVING && tier.state != "draining") {
        if !unwell.contains(&tier.state.as_str()) {
            unwell.push(&tier.state);
        }
    }
    if unwell.is_empty() {
        SERVING.to_owned()
    } else {
        unwell.join(", ")
    }
}

/// The order is for the screen; a machine asks by name.
fn as_map<S: Serializer>(pairs: &[(&'static str, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(
        pairs
            .iter()
            .map(|&(name, number)| (name.replace([' ', '-'], "_"), number)),
    )
}

/// The bound below which so many per cent lie; none if there are none.
fn quantile(counts: &[u64], bounds: &[f64], percent: u64) -> Option<f64> {
    let total: u64 = counts.iter().sum();
    let wanted = (total * percent).div_ceil(100).max(1);
    let mut below = 0;
    for (place, count) in counts.iter().enumerate() {
        below += count;
        if total > 0 && below >= wanted {
            return bounds.get(place).or(bounds.last()).copied();
        }
    }
    None
}

#[expect(clippy::cast_precision_loss, reason = "rates are shown")]
fn per(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}

#[expect(clippy::cast_precision_loss, reason = "ratios are shown")]
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_bounds() {
        let bounds = [0.001, 0.01, 0.1];
        assert_eq!(quantile(&[0, 0, 0, 0], &bounds, 50), None);
        assert_eq!(quantile(&[99, 0, 1, 0], &bounds, 50), Some(0.001));
        assert_eq!(quantile(&[99, 0, 1, 0], &bounds, 99), Some(0.001));
        assert_eq!(quantile(&[98, 0, 2, 0], &bounds, 99), Some(0.1));
        // Beyond the last bound it is at least that.
        assert_eq!(quantile(&[0, 0, 0, 5], &bounds, 50), Some(0.1));
    }
}
