"""Requests that are followed: which ones, and what the daemon is told of them."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
from fake_daemon import FakeCopier, FakeDaemon, FakeSession
from vllm_harness import Engine, make_config, make_groups, make_request

import kvtier.vllm.scheduler
import kvtier.vllm.worker
from kvtier.vllm import traces
from kvtier.vllm.traces import NOBODY

ALL = 1 << 63
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture
def daemon(monkeypatch):
    """A daemon that answers at once and records traces."""
    monkeypatch.setattr(kvtier.vllm.scheduler, "Session", FakeSession)
    monkeypatch.setattr(kvtier.vllm.worker, "Session", FakeSession)
    monkeypatch.setattr(kvtier.vllm.worker, "open_copies", FakeCopier)
    FakeDaemon.current = daemon = FakeDaemon(random.Random(7), capacity=400)
    daemon.answer_chance, daemon.lost_chance, daemon.ring_full_chance = 1.0, 0.0, 0.0
    daemon.traces_below = ALL
    return daemon


def engine() -> Engine:
    return Engine(make_config({}, max_len=640, batched=512), make_groups(blocks=60))


def add(engine: Engine, name: str, tokens: list[int], traceparent: str | None = None) -> None:
    request = make_request(engine.config, engine.kv, name, tokens, 1)
    request.trace_headers = None if traceparent is None else {"traceparent": traceparent}
    engine.scheduler.add_request(request)


def request_with(traceparent: str | None) -> SimpleNamespace:
    return SimpleNamespace(trace_headers=None if traceparent is None else {"traceparent": traceparent})


def test_a_request_goes_on_with_the_trace_of_its_sender():
    trace = traces.begin(request_with(SAMPLED), 0)
    assert (trace.trace_id.hex(), trace.parent_span_id.hex()) == (TRACE, SPAN)
    assert trace.span_id != trace.parent_span_id
    # A later version may say more.
    assert traces.begin(request_with(f"01-{TRACE}-{SPAN}-03-more"), 0).trace_id.hex() == TRACE


def test_what_its_sender_does_not_record_is_not_followed():
    assert traces.begin(request_with(f"00-{TRACE}-{SPAN}-00"), ALL) is None


@pytest.mark.parametrize(
    "text",
    [None, "", "x", f"00-{TRACE}-{SPAN}", f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-more", f"00-{'0' * 32}-{SPAN}-01",
     f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE.upper()}-{SPAN}-01"],
)
def test_a_request_without_a_sound_trace_begins_one(text):
    trace = traces.begin(request_with(text), ALL)
    assert trace.parent_span_id == bytes(8) and trace.trace_id.hex() != TRACE
    assert any(trace.trace_id) and any(trace.span_id)
    assert traces.begin(request_with(text), 0) is None


def test_a_quarter_of_all_requests_is_a_quarter():
    followed = sum(traces.begin(request_with(None), ALL // 4) is not None for _ in range(4000))
    assert 800 < followed < 1200


def test_a_request_is_followed_from_its_look_up_to_its_end(daemon):
    first = engine()
    add(first, "one", list(range(100)), SAMPLED)
    first.run()
    assert first.scheduler.reset_prefix_cache()
    add(first, "two", list(range(100)))
    first.run()
    told = {request.name: request for request in daemon.followed}
    one, two = told["one"], told["two"]
    assert (one.trace_id.hex(), one.parent_span_id.hex(), one.hit_tokens) == (TRACE, SPAN, 0)
    assert (two.parent_span_id, two.hit_tokens, two.loaded_tokens, two.prompt_tokens) == (bytes(8), 96, 96, 100)
    said = [(what, keys, [context[:2] for context in contexts]) for what, keys, contexts in daemon.traced]
    assert ("lookup", 6, [(one.trace_id, one.span_id)]) in said
    assert ("reserve", 6, [(one.trace_id, one.span_id)]) in said
    assert ("lookup", 6, [(two.trace_id, two.span_id)]) in said
    assert not daemon.violations


def test_a_store_of_several_requests_says_whose_each_block_is(daemon):
    together = engine()
    add(together, "one", list(range(100)), SAMPLED)
    add(together, "unseen", [7] * 100, f"00-{TRACE}-{SPAN}-00")
    add(together, "two", list(range(50, 120)))
    together.run()
    stores = [contexts for what, _, contexts in daemon.traced if what == "reserve"]
    assert len(stores) == 1
    told = {request.name: request for request in daemon.followed}
    assert set(told) == {"one", "two"}
    whose = [(context.trace_id, context.keys) for context in stores[0]]
    assert whose == [(told["one"].trace_id, 6), (NOBODY, 6), (told["two"].trace_id, 4)]
    assert not daemon.violations


def test_a_daemon_without_traces_is_told_nothing(daemon):
    daemon.traces_below = None
    silent = engine()
    add(silent, "one", list(range(100)), SAMPLED)
    silent.run()
    assert not daemon.traced and not daemon.followed and not daemon.violations
