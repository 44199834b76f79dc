"""What the daemon says of blocks reaches vLLM's publisher as vLLM's own events: once, in order, and only what is true."""

from __future__ import annotations

import logging
import time

import msgspec
import pytest
from real import Daemon
from vllm.config.kv_events import KVEventsConfig
from vllm.distributed.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, KVEventBatch
from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash
from vllm_harness import Engine, make_config, make_groups

from kvtier.client import Completion, KVTierError, SessionLost, Status, abi
from kvtier.vllm import relay as relay_module
from kvtier.vllm.compat import event_types
from kvtier.vllm.config import parse_config
from kvtier.vllm.relay import CREDIT, MESSAGES_PER_STEP, Relay, make_relay


class Session:
    """Counts credit; fails as it is told."""

    def __init__(self) -> None:
        self.credit, self.error = 0, None

    def events_request(self, credit: int) -> None:
        if self.error is not None:
            raise self.error
        self.credit += credit


class Link:
    def __init__(self) -> None:
        self.session, self.epoch = Session(), b"boot"


def block(number: int) -> bytes:
    return number.to_bytes(32, "big")


def stored(*numbers: int, parent: int | None = None, medium: str = "cpu", **more) -> dict:
    return {
        "type": "BlockStored", "block_hashes": [block(n) for n in numbers],
        "parent_block_hash": None if parent is None else block(parent), "token_ids": [7] * 16 * len(numbers),
        "block_size": 16, "lora_id": None, "medium": medium, "lora_name": None, **more,
    }


def removed(*numbers: int, medium: str = "cpu") -> dict:
    return {"type": "BlockRemoved", "block_hashes": [block(n) for n in numbers], "medium": medium}


def say(relay: Relay, *events: dict) -> None:
    answer(relay, 0, msgspec.msgpack.encode([1.5, events, None]))


def answer(relay: Relay, value: int, data: bytes = b"") -> None:
    relay.on_events(Completion(0, abi.OP_EVENTS, 0, value, 0, 0, (), b"", data))


@pytest.fixture
def relay() -> Relay:
    made = Relay(Link(), event_types())
    made.follow(True)
    assert made._link.session.credit == CREDIT
    return made


def test_events_are_vllms_own(relay, monkeypatch):
    for as_int in ("0", "1"):
        monkeypatch.setenv("VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES", as_int)
        say(relay, removed(1), stored(1, 2, parent=9, extra_keys=[None, ["salt"]], medium="storage", locality="LOCAL"))
        gone, there = relay.take()
        assert isinstance(gone, BlockRemoved) and isinstance(there, BlockStored)
        assert there.block_hashes == [maybe_convert_block_hash(block(n)) for n in (1, 2)]
        assert there.parent_block_hash == maybe_convert_block_hash(block(9))
        assert isinstance(there.parent_block_hash, int if as_int == "1" else bytes)
        assert (there.token_ids, there.block_size) == ([7] * 32, 16)
        assert (there.medium, there.extra_keys) == ("storage", [None, ("salt",)])
        # And vLLM can publish them.
        msgspec.msgpack.encode(KVEventBatch(ts=1.0, events=[gone, there]))


def test_a_step_takes_in_a_bounded_number_and_gives_its_credit_back(relay):
    for number in range(CREDIT):
        say(relay, stored(number))
    assert [len(relay.take()) for _ in range(3)] == [MESSAGES_PER_STEP, CREDIT - MESSAGES_PER_STEP, 0]
    assert relay._link.session.credit == CREDIT
    relay._link.session.error = SessionLost(3, "lost")
    relay.follow(False)
    relay._link.session.error = None
    relay.follow(False)
    relay.follow(False)
    assert relay._link.session.credit == 2 * CREDIT


def test_after_a_loss_what_was_passed_on_is_taken_back_first(relay, monkeypatch):
    monkeypatch.setattr(relay_module, "REMOVALS_PER_STEP", 3)
    say(relay, stored(1, 2, 3, 4, 5), stored(1, medium="storage"))
    say(relay, removed(2))
    relay.take()
    say(relay, stored(6))
    relay._link.epoch = b""
    relay.follow(True)
    relay._link.epoch = b"another"
    relay.follow(True)
    say(relay, stored(1))
    gone: dict[str, list] = {"cpu": [], "storage": []}
    for _ in range(3):
        (event,) = relay.take()
        assert isinstance(event, BlockRemoved) and len(event.block_hashes) <= 3
        gone[event.medium] += event.block_hashes
    assert sorted(gone["cpu"]) == [maybe_convert_block_hash(block(n)) for n in (1, 3, 4, 5)]
    assert gone["storage"] == [maybe_convert_block_hash(block(1))]
    (event,) = relay.take()
    assert isinstance(event, BlockStored)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x93\x01\x90", msgspec.msgpack.encode([1.0, [{"type": "Other"}], None])])
def test_what_makes_no_sense_ends_the_relay_and_raises_nothing(relay, data, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    say(relay, stored(1))
    answer(relay, 0, data)
    assert len(relay.take()) == 1
    assert "relays no more events" in caplog.text
    (gone,) = relay.take()
    assert isinstance(gone, BlockRemoved)
    say(relay, stored(2))
    relay.follow(False)
    assert relay.take() == [] and relay._link.session.credit == CREDIT


def test_a_daemon_that_relays_nothing_or_is_too_old_is_named_once(relay, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    answer(relay, 1)
    relay.follow(False)
    assert 'events.relay = "on-request"' in caplog.text and relay.take() == []
    old = Relay(Link(), event_types())
    old._link.session.error = KVTierError(Status.UNSUPPORTED, "block events, by this daemon, are not supported")
    old.follow(True)
    old._link.session.error = None
    old.follow(False)
    assert "by this daemon" in caplog.text and old._link.session.credit == 0


def test_without_the_switch_or_vllms_events_there_is_no_relay(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    config = make_config()
    assert make_relay(config, parse_config({}), Link()) is None and "relay_events" not in caplog.text
    assert make_relay(config, parse_config({"relay_events": True}), Link()) is None
    assert "vLLM publishes no events" in caplog.text


class Recorder:
    """A publisher, and a router behind it."""

    def __init__(self) -> None:
        self.believed: dict[tuple, int] = {}
        self.known: set = set()

    def publish(self, batch: KVEventBatch) -> None:
        for event in batch.events:
            if isinstance(event, AllBlocksCleared):
                self.believed = {}
                continue
            if isinstance(event, BlockStored):
                assert event.parent_block_hash is None or event.parent_block_hash in self.known
                self.known.update(event.block_hashes)
            for value in event.block_hashes:
                count = self.believed.get((event.medium, value), 0)
                self.believed[event.medium, value] = count + 1 if isinstance(event, BlockStored) else max(count - 1, 0)

    def blocks(self, medium: str) -> set:
        counts = {value: count for (where, value), count in self.believed.items() if where == medium and count}
        assert set(counts.values()) <= {1}, "told twice"
        return set(counts)

    def shutdown(self) -> None:
        pass


def test_an_engines_publisher_tells_of_the_daemons_blocks_beside_its_own(tmp_path):
    daemon = Daemon(tmp_path, events_relay="on-request", events_batch_delay="1ms").start()
    try:
        config = make_config({"socket": daemon.socket, "relay_events": True}, max_len=640)
        config.kv_events_config = KVEventsConfig(enable_kv_cache_events=True, publisher="null")
        engine = Engine(config, make_groups(blocks=60))
        engine.scheduler.kv_event_publisher = heard = Recorder()
        engine.add("first", list(range(200)), 2)
        engine.run()
        steps_until(engine, lambda: len(heard.blocks("cpu")) == 12)
        assert heard.blocks("cpu") == heard.blocks("GPU")
        # Another daemon knows nothing of them.
        daemon.kill()
        steps_until(engine, lambda: not heard.blocks("cpu"))
        daemon.start()
        side = engine.connector._scheduler
        steps_until(engine, lambda: side._link.ready)
        engine.add("second", list(range(100, 200)), 2)
        engine.run()
        steps_until(engine, lambda: len(heard.blocks("cpu")) == 6)
        assert not engine.wrong
    finally:
        daemon.kill()


def steps_until(engine: Engine, is_so) -> None:
    """Steps an engine that has nothing to do."""
    until = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < until, "it does not come"
        engine.step()
