//! What is shown of the devices: for each a JSON object.

use std::path::PathBuf;

use kvstore_engine::{Engine, NvmeUsage};
use kvstore_nvme::{DeviceStats, LATENCY_BOUNDS_US, LoadReport, OperationKind, OperationStats};
use kvstore_types::Corruption;
use serde_json::{Map, Value, json};

use super::devices::{Devices, Place};

impl Devices {
    /// One object for each device, in the order of the configuration.
    pub(crate) fn show(&self, engine: &Engine) -> Value {
        let usages = engine.nvme_devices();
        self.list
            .iter()
            .zip(usages)
            .map(|(place, usage)| show(place, &usage))
            .collect()
    }
}

/// One device, for those who want more than text.
#[derive(Clone, Debug)]
pub(crate) struct DeviceView {
    /// The tenant's own directory on it.
    pub(crate) directory: PathBuf,
    /// What the engine knows of it.
    pub(crate) usage: NvmeUsage,
    /// Why it is out of service, if it is.
    pub(crate) lost: Option<String>,
    /// What it counts itself; none if it could not be opened.
    pub(crate) stats: Option<DeviceStats>,
}

impl DeviceView {
    /// What its segments may hold, in bytes.
    pub(crate) fn capacity_bytes(&self) -> u64 {
        u64::from(self.usage.segments_max) * self.usage.segment_bytes
    }

    /// What they can hold now: those that there are, and what the file system has room for beside them. None if it does not say.
    pub(crate) fn usable_bytes(&self) -> Option<u64> {
        if self.usage.state == "lost" {
            return Some(0);
        }
        let room = self.stats.as_ref()?.maintenance.room_bytes?;
        let whole = room.checked_div(self.usage.segment_bytes)? * self.usage.segment_bytes;
        let there = u64::from(self.usage.segments) * self.usage.segment_bytes;
        Some(self.capacity_bytes().min(there.saturating_add(whole)))
    }
}

impl Devices {
    /// Each device, in the order of the configuration.
    pub(crate) fn view(&self, engine: &Engine) -> Vec<DeviceView> {
        let usages = engine.nvme_devices();
        let both = self.list.iter().zip(usages);
        both.map(|(place, usage)| DeviceView {
            directory: place.directory.clone(),
            usage,
            lost: place.lost.clone(),
            stats: place.device.as_ref().map(kvstore_nvme::Device::stats),
        })
        .collect()
    }
}

fn show(place: &Place, usage: &NvmeUsage) -> Value {
    let mut map = Map::new();
    let mut put = |name: &str, value: Value| map.insert(name.to_owned(), value);
    put("directory", place.directory.display().to_string().into());
    put("state", usage.state.into());
    put("lost_reason", place.lost.clone().into());
    put("writes_suspended", usage.writes_suspended.into());
    put("segments", usage.segments.into());
    put("segments_free", usage.segments_free.into());
    put("segments_full", usage.segments_full.into());
    put("blocks", usage.blocks.into());
    put("used_bytes", usage.bytes_used.into());
    put("reads_in_flight", usage.reads_in_flight.into());
    put("writes_in_flight", usage.writes_in_flight.into());
    put("loaded", place.loaded.as_ref().map(show_load).into());
    if let Some(device) = &place.device {
        show_stats(&device.stats(), &mut map);
    }
    Value::Object(map)
}

fn show_load(report: &LoadReport) -> Value {
    json!({
        "blocks": report.blocks,
        "segments": report.segments,
        "segments_scanned": report.segments_scanned,
        "blocks_dropped": report.blocks_dropped,
        "catalogue_rebuilt": report.catalogue_rebuilt,
        "seconds": report.duration.as_secs_f64(),
    })
}

fn show_stats(stats: &DeviceStats, map: &mut Map<String, Value>) {
    let mut put = |name: &str, value: Value| map.insert(name.to_owned(), value);
    put("io", stats.engine.into());
    put("io_reason", stats.engine_reason.clone().into());
    put("direct", stats.direct.into());
    put("direct_reason", stats.direct_reason.clone().into());
    put("memory_bytes", stats.memory_bytes.into());
    put("registered_bytes", stats.registered_bytes.into());
    put("short_transfers", stats.short_transfers.into());
    let corrupt: Map<String, Value> = Corruption::ALL
        .iter()
        .zip(stats.corrupt)
        .map(|(kind, count)| (kind.name().to_owned(), count.into()))
        .collect();
    put("corrupt", corrupt.into());
    let operations: Map<String, Value> = OperationKind::ALL
        .iter()
        .map(|kind| (kind.name().to_owned(), show_operation(stats.operation(*kind))))
        .collect();
    put("operations", operations.into());
    put("latency_bounds_us", json!(LATENCY_BOUNDS_US));
    let maintenance = &stats.maintenance;
    put(
        "catalogue",
        json!({
            "there": maintenance.has_catalogue,
            "bytes": maintenance.catalogue_bytes,
            "waiting": maintenance.waiting,
            "changes_written": maintenance.changes_written,
            "changes_dropped": maintenance.changes_dropped,
            "errors": maintenance.catalogue_errors,
            "orders_failed": maintenance.orders_failed,
        }),
    );
}

fn show_operation(stats: &OperationStats) -> Value {
    let answered = stats.done + stats.corrupt + stats.no_space + stats.failed;
    json!({
        "done": stats.done,
        "bytes": stats.bytes,
        "corrupt": stats.corrupt,
        "no_space": stats.no_space,
        "failed": stats.failed,
        "waiting": stats.waiting,
        "under_way": stats.under_way,
        "latency_us_mean": stats.latency_us_sum.checked_div(answered),
        "latency_us_sum": stats.latency_us_sum,
        "latency_us_p50": quantile(&stats.latency_counts, 50),
        "latency_us_p99": quantile(&stats.latency_counts, 99),
        "latency_counts": stats.latency_counts.as_slice(),
    })
}

/// The bound below which so many percent lie; none if nothing was counted, or it lies beyond the last bound.
pub(crate) fn quantile(counts: &[u64], percent: u64) -> Option<u64> {
    let total: u64 = counts.iter().sum();
    let wanted = (total * percent).div_ceil(100);
    let mut seen = 0;
    let place = counts.iter().position(|count| {
        seen += count;
        seen >= wanted
    });
    place
        .filter(|_| total > 0)
        .and_then(|place| LATENCY_BOUNDS_US.get(place).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_bound_that_covers_it() {
        let mut counts = [0; LATENCY_BOUNDS_US.len() + 1];
        assert_eq!(quantile(&counts, 99), None);
        counts[0] = 98;
        counts[3] = 1;
        counts[4] = 1;
        assert_eq!(quantile(&counts, 50), Some(LATENCY_BOUNDS_US[0]));
        assert_eq!(quantile(&counts, 99), Some(LATENCY_BOUNDS_US[3]));
        counts[LATENCY_BOUNDS_US.len()] = 1000;
        assert_eq!(quantile(&counts, 99), None);
    }
}
