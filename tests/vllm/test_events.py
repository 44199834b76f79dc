"""vLLM's own classes decode what the daemon publishes: the files that kvstore/events writes in its tests. And vLLM's own
publisher passes on what the daemon says of its blocks."""

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from daemon import Daemon
from vllm.config.kv_events import KVEventsConfig
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


class Router:
    """A subscriber of an engine's publisher: what it believes, and how often it was told."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, Any], int] = {}
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.subscribe("kv@")
        # vLLM connects to an address that is not one of every interface.
        self.address = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"

    def hear(self, wait_ms: int) -> bool:
        """Takes in one message, if one comes."""
        if not self._socket.poll(wait_ms):
            return False
        topic, _, payload = self._socket.recv_multipart()
        assert topic == b"kv@pod@model"
        for event in msgspec.msgpack.decode(payload, type=KVEventBatch).events:
            more = 1 if isinstance(event, BlockStored) else -1
            for value in event.block_hashes:
                key = (event.medium, value)
                self.counts[key] = max(self.counts.get(key, 0) + more, 0)
        return True

    def blocks(self, medium: str) -> set:
        found = {value: count for (where, value), count in self.counts.items() if where == medium and count}
        assert set(found.values()) <= {1}, "told twice"
        return set(found)

    def close(self) -> None:
        self._socket.close(0)


def test_an_engines_own_publisher_tells_of_kvtiers_blocks(tmp_path, start, prompts):
    daemon = Daemon(tmp_path, events_relay="on-request", events_batch_delay="1ms").start()
    router = Router()
    publish = KVEventsConfig(
        enable_kv_cache_events=True, publisher="zmq", endpoint=router.address, topic="kv@pod@model"
    )
    try:
        engine = start("llama", daemon, {"relay_events": True}, kv_events_config=publish)
        # A subscription takes a moment: prompts until one is heard.
        answers = []
        until = time.monotonic() + 60
        while not router.hear(200):
            assert time.monotonic() < until, "nothing is published"
            answers += engine.generate([[500 - len(answers)] * 40], max_tokens=2)
        before = router.blocks("cpu")
        engine.generate(prompts[:1], max_tokens=2)
        while len(router.blocks("cpu") - before) < len(prompts[0]) // 32:
            assert time.monotonic() < until, f"{len(router.blocks('cpu'))} blocks of ours are known"
            # An engine passes on what it has heard when it steps.
            engine.generate([[7]], max_tokens=2)
            router.hear(20)
        while router.hear(200):
            pass
        ours, own = router.blocks("cpu"), router.blocks("GPU")
        assert len(ours & own) >= len(prompts[0]) // 32, "both name a block alike"
    finally:
        router.close()
        daemon.kill()
