"""vLLM's own classes decode what the daemon publishes: the files that kvstore/events writes in its tests."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from vllm.distributed.kv_events import BlockRemoved, BlockStored, KVEventBatch

FIXTURES = Path(__file__).parents[2] / "kvstore/events/fixtures"


class Positional(msgspec.Struct, array_like=True, tag=True):
    """Events by position, as vLLM wrote them before 0.26."""


class OldStored(Positional, tag="BlockStored"):
    block_hashes: list[bytes]
    parent_block_hash: bytes | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: list[tuple[Any, ...] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None


class OldRemoved(Positional, tag="BlockRemoved"):
    block_hashes: list[bytes]
    medium: str | None = None
    group_idx: int | None = None


class OldBatch(msgspec.Struct, array_like=True):
    ts: float
    events: list[OldStored | OldRemoved]
    data_parallel_rank: int | None = None


def block(number: int) -> bytes:
    return bytes([number]) * 32


@pytest.mark.parametrize(
    ("name", "batch_type", "stored", "removed"),
    [("map", KVEventBatch, BlockStored, BlockRemoved), ("array", OldBatch, OldStored, OldRemoved)],
)
def test_every_field_arrives_where_vllm_has_it(name, batch_type, stored, removed):
    data = (FIXTURES / f"batch-{name}.msgpack").read_bytes()
    batch = msgspec.msgpack.decode(data, type=batch_type)
    assert (batch.ts, batch.data_parallel_rank) == (1.5, None)
    first, second, chain, other = batch.events
    assert isinstance(first, removed) and isinstance(second, removed)
    assert [(event.block_hashes, event.medium, event.group_idx) for event in (first, second)] == [
        ([block(9)], "cpu", 0),
        ([block(9)], "storage", 1),
    ]
    assert isinstance(chain, stored) and isinstance(other, stored)
    assert (chain.block_hashes, chain.parent_block_hash) == ([block(1), block(2)], None)
    assert (chain.token_ids, chain.block_size) == ([7, 300, 70000, 0], 2)
    assert (chain.medium, chain.lora_name, chain.extra_keys) == ("cpu", None, [None, ("x",)])
    assert (chain.group_idx, chain.kv_cache_spec_kind) == (0, "full_attention")
    assert (other.block_hashes, other.parent_block_hash) == ([block(3)], block(2))
    assert (other.medium, other.lora_name, other.extra_keys) == ("storage", "adapter", None)
    assert (other.kv_cache_spec_kind, other.kv_cache_spec_sliding_window) == ("sliding_window", 64)
    if name == "map":
        assert (chain.locality, other.locality) == (None, "LOCAL")
