"""Counters of the connector, as vLLM's connector stats and Prometheus metrics.

A counter is named `metric|label`; the same names are used in the log line, in the stats and in the metrics.
"""

from __future__ import annotations

from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

# metric: (label, what it counts)
METRICS: dict[str, tuple[str, str]] = {
    "kvtier_lookups": ("result", "Prefix look-ups by result: hit, miss, deadline, not_ready, quota, lost."),
    "kvtier_lookups_pending": (
        "result", "Look-ups that waited for blocks on their way from NVMe, by result: hit, miss, deadline, lost, dropped."
    ),
    "kvtier_lookup_tokens": ("kind", "Prompt tokens asked for and found."),
    "kvtier_loads": ("result", "Loads by result: done, or why they failed and were computed again."),
    "kvtier_loaded_tokens": ("kind", "Prompt tokens whose KV was loaded."),
    "kvtier_store_blocks": ("result", "Blocks offered for storing by result: stored, present, or why dropped."),
    "kvtier_copy_bytes": ("direction", "Bytes copied between device pages and slots, all workers."),
    "kvtier_copy_seconds": ("direction", "Seconds spent in copies, all workers."),
    "kvtier_attachments": ("role", "Times that a session attached to the daemon."),
}


class KVTierStats(KVConnectorStats):
    """Counts since the last step; adding two of them adds every counter."""

    def reset(self) -> None:
        """Forgets all counts."""
        self.data = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        """Adds another's counts."""
        for name, value in other.data.items():
            self.data[name] = self.data.get(name, 0) + value
        return self

    def reduce(self) -> dict[str, int | float]:
        """The counts as they stand in the log."""
        return {name.replace("|", "."): value for name, value in sorted(self.data.items())}

    def is_empty(self) -> bool:
        """Whether nothing was counted."""
        return not self.data


class Counts:
    """Counts between two steps of one process."""

    def __init__(self) -> None:
        self._data: dict[str, int | float] = {}
        self.totals: dict[str, int | float] = {}

    def add(self, metric: str, label: str, value: int | float = 1) -> None:
        """Counts something."""
        if value:
            name = f"{metric}|{label}"
            self._data[name] = self._data.get(name, 0) + value

    def take(self) -> KVTierStats | None:
        """What was counted since the last call, or None."""
        if not self._data:
            return None
        data, self._data = self._data, {}
        for name, value in data.items():
            self.totals[name] = self.totals.get(name, 0) + value
        return KVTierStats(data=data)


class KVTierPromMetrics(KVConnectorPromMetrics):
    """The counters in Prometheus, named `vllm:kvtier_*_total`."""

    def __init__(
        self,
        vllm_config: Any,
        metric_types: Any,
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        self._engine_labels = per_engine_labelvalues
        self._counters = {
            metric: self._counter_cls(
                name=f"vllm:{metric}_total", documentation=text, labelnames=[*labelnames, label]
            )
            for metric, (label, text) in METRICS.items()
        }

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        """Adds one step's counts; names of another version are passed over."""
        for name, value in transfer_stats_data.items():
            metric, _, label = name.partition("|")
            counter = self._counters.get(metric)
            if counter is not None:
                counter.labels(*self._engine_labels[engine_idx], label).inc(value)
