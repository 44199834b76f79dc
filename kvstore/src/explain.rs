//! What follows when a value changes while the daemon runs, in words.

use std::cmp::Ordering;

use kvstore_engine::Admission;

use crate::config::{Config, NvmeLayout, RemoteConfig, format_duration, format_size};
use crate::reload::Change;

/// What follows from the change of one key. `before`: how each tenant's share is divided now.
pub(crate) fn explain(key: &str, before: &[Option<NvmeLayout>], change: &Change) -> String {
    let config = &change.config;
    let text = match key {
        "host.watermark-low" | "host.watermark-high" => format!(
            "eviction from host memory begins when more than {} of it is in use and stops at {}",
            percent(config.host.watermark_high),
            percent(config.host.watermark_low)
        ),
        "nvme.watermark-low" | "nvme.watermark-high" => format!(
            "segments are reclaimed, the one written first before the others, when more than {} of them are in use, until \
             {} are",
            percent(config.nvme.watermark_high),
            percent(config.nvme.watermark_low)
        ),
        "nvme.admission" => match config.nvme.admission {
            Admission::All => "every block is written when it is stored".to_owned(),
            Admission::SecondTouch => {
                "blocks are written when a look-up finds them in memory; what is on NVMe already stays"
                    .to_owned()
            }
        },
        "nvme.write-rate" => rate(
            config.nvme.write_rate,
            "written to each directory, for each tenant; what comes faster waits, and beyond 65536 waiting blocks is not \
             written",
            "blocks are written as fast as the devices take them",
        ),
        "nvme.scrub-rate" => rate(
            config.nvme.scrub_rate,
            "read in each directory, for each tenant, when there is nothing else to do, to find damaged blocks",
            "blocks are verified when they are read and not otherwise",
        ),
        key if key.starts_with("remote.") => of_remote(key, &config.remote),
        "log.level" => {
            "lines of this level and of more important ones are written, others are not; those of this audit always are".to_owned()
        }
        _ => shares(before, change, config),
    };
    format!("{text}. Holds until the daemon starts again or reads its configuration again (SIGHUP)")
}

/// What follows from a bound of the remote tier.
fn of_remote(key: &str, remote: &RemoteConfig) -> String {
    let every = format_duration(remote.sweep_every);
    match (key, remote.capacity_bytes, remote.age_max) {
        ("remote.capacity", Some(bytes), _) => format!(
            "sweeps of this node, the next within {every} if it is the one that sweeps, leave at most {} of blocks in each \
             namespace; what was not used for longest goes. Other nodes have bounds of their own",
            format_size(bytes)
        ),
        ("remote.capacity", None, _) => "sweeps of this node remove no block because there are too many".to_owned(),
        ("remote.age-max", _, Some(age)) => format!(
            "sweeps of this node, the next within {every} if it is the one that sweeps, remove blocks that no node has used for \
             {}. Other nodes have bounds of their own",
            format_duration(age)
        ),
        ("remote.age-max", _, None) => "sweeps of this node remove no block because of its age".to_owned(),
        ("remote.reserve", ..) => {
            "nothing is stored at a mounted directory while less than that is free of its file system; what is there is read"
                .to_owned()
        }
        ("remote.reads", ..) => format!("at most {} blocks are fetched at a time, for each tenant", remote.reads),
        ("remote.writes", ..) => format!("at most {} blocks are stored at a time, for each tenant", remote.writes),
        _ => format!(
            "storing a block takes at most {}, those under way excepted",
            format_duration(remote.write_deadline)
        ),
    }
}

fn percent(fraction: f64) -> String {
    // Two digits, and no more zeros than needed.
    let text = format!("{:.2}", fraction * 100.0);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text} %")
}

fn rate(rate: Option<u64>, limited: &str, unlimited: &str) -> String {
    match rate {
        Some(rate) => format!("at most {} a second are {limited}", format_size(rate)),
        None => unlimited.to_owned(),
    }
}

/// What becomes of each tenant's segments.
fn shares(before: &[Option<NvmeLayout>], change: &Change, config: &Config) -> String {
    let tenants = config.tenants.iter().zip(before.iter().zip(&change.layouts));
    let texts: Vec<String> = tenants
        .filter_map(|(tenant, (before, after))| {
            let (before, after) = (before.as_ref()?, after.as_ref()?);
            let (old, new) = (before.segments_max, after.segments_max);
            let what = format!(
                "tenant {}: at most {new} segments of {} in each directory instead of {old}",
                tenant.name,
                format_size(after.segment_bytes)
            );
            let follows = match new.cmp(&old) {
                Ordering::Less => {
                    "; those beyond are reclaimed at once, the one written first before the others: blocks that were hit since \
                     they were written are carried over, the others leave NVMe"
                }
                Ordering::Greater => "; the space of their files is taken at once",
                Ordering::Equal => ", so nothing changes",
            };
            Some(what + follows)
        })
        .collect();
    if texts.is_empty() {
        "there is no NVMe tier, so nothing follows".to_owned()
    } else {
        texts.join(". ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, load};

    fn explained(key: &str, before: &str, after: &str) -> String {
        let config = |text: &str| {
            let text = format!("socket = \"/s\"\n[nvme]\ndirectories = [\"/d\"]\n{text}");
            load(&text, &Environment::default()).unwrap().config
        };
        let (before, after) = (config(before), config(after));
        let layouts: Vec<_> = before
            .tenants
            .iter()
            .map(|tenant| Some(NvmeLayout::new(tenant, &before, None)))
            .collect();
        let change = Change::between(&before, &layouts, &after).unwrap();
        explain(key, &layouts, &change)
    }

    #[test]
    fn a_change_is_explained_with_its_numbers() {
        let cases = [
            (
                "nvme.capacity",
                "",
                "capacity = \"5GiB\"",
                "at most 30 segments of 160MiB in each directory instead of 62",
            ),
            ("nvme.capacity", "", "capacity = \"5GiB\"", "carried over"),
            ("nvme.capacity", "", "capacity = \"20GiB\"", "taken at once"),
            (
                "nvme.watermark-high",
                "",
                "watermark-high = 0.925",
                "more than 92.5 % of them",
            ),
            (
                "nvme.write-rate",
                "",
                "write-rate = \"50MiB\"",
                "at most 50MiB a second",
            ),
            (
                "nvme.write-rate",
                "write-rate = \"50MiB\"",
                "",
                "as fast as the devices",
            ),
            (
                "nvme.admission",
                "",
                "admission = \"second-touch\"",
                "when a look-up finds them",
            ),
            ("log.level", "", "[log]\nlevel = \"warn\"", "Holds until"),
        ];
        for (key, before, after, expected) in cases {
            let text = explained(key, before, after);
            assert!(text.contains(expected), "{key}: {text}");
        }
    }
}
