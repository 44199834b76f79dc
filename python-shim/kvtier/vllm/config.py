"""Settings of the connector, from `kv_connector_extra_config`. All problems are told at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


class ConfigError(ValueError):
    """The extra config has unknown keys or bad values; the text names each of them."""


@dataclass(frozen=True)
class Config:
    """What a user may set. Every key has a default."""

    socket: str | None = None
    tenant: str | None = None
    blocks_per_chunk: int = 1
    store_decode: bool = False
    lookup_deadline_ms: int = 100
    promotion_deadline_ms: int = 2000
    commit_deadline_ms: int = 1000
    answer_wait_us: int = 200
    copy_threads: int = 0
    device_copies: str = "off"
    block_layout: str = "engine"
    lookups_live_max: int = 512
    describe: bool = True
    relay_events: bool = False
    pod: str | None = None
    model: str | None = None


_BOUNDS = {
    "blocks_per_chunk": (1, 1024),
    "lookup_deadline_ms": (0, 600_000),
    "promotion_deadline_ms": (0, 600_000),
    "commit_deadline_ms": (1, 600_000),
    "answer_wait_us": (0, 1_000_000),
    "copy_threads": (0, 64),
    "lookups_live_max": (1, 65_536),
}


_CHOICES = {
    "device_copies": ("auto", "torch", "off"),
    "block_layout": ("engine", "contiguous"),
}


def parse_config(extra: Mapping[str, Any] | None) -> Config:
    """Reads the extra config; raises `ConfigError` with every problem there is."""
    extra = dict(extra or {})
    known = {field.name for field in fields(Config)}
    problems = [
        f"{key}: unknown key; known keys are {', '.join(sorted(known))}" for key in sorted(set(extra) - known)
    ]
    for key in sorted(known & set(extra)):
        problem = _problem(key, extra[key])
        if problem:
            problems.append(f"{key}: {problem}")
    if problems:
        raise ConfigError("kv_connector_extra_config: " + "; ".join(problems))
    return Config(**extra)


def _problem(key: str, value: Any) -> str | None:
    if key in ("socket", "tenant"):
        return None if isinstance(value, str) and value else f"want a non-empty string, got {value!r}"
    if key in ("pod", "model"):
        # Both go into the topic of events, which has its parts between @.
        fits = isinstance(value, str) and "@" not in value and len(value.encode()) <= 256
        return None if fits else f"want a string of at most 256 bytes without @, got {value!r}"
    if key in ("store_decode", "describe", "relay_events"):
        return None if isinstance(value, bool) else f"want true or false, got {value!r}"
    if key in _CHOICES:
        wanted = _CHOICES[key]
        return None if value in wanted else f"want one of {', '.join(wanted)}, got {value!r}"
    low, high = _BOUNDS[key]
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        return f"want a whole number from {low} to {high}, got {value!r}"
    return None
