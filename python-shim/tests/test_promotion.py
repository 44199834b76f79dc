"""Look-ups that wait for blocks on their way from NVMe: how long the connector waits, and for what."""

from __future__ import annotations

import random
import time

import pytest
from fake_daemon import FakeCopier, FakeDaemon, FakeSession
from vllm_harness import Engine, make_config, make_groups

import kvtier.vllm.scheduler
import kvtier.vllm.worker

PROMPT = list(range(100))
CACHED = 96


@pytest.fixture
def daemon(monkeypatch):
    """A daemon that answers at once, but for promotions."""
    monkeypatch.setattr(kvtier.vllm.scheduler, "Session", FakeSession)
    monkeypatch.setattr(kvtier.vllm.worker, "Session", FakeSession)
    monkeypatch.setattr(kvtier.vllm.worker, "open_copies", FakeCopier)
    FakeDaemon.current = daemon = FakeDaemon(random.Random(7), capacity=400)
    daemon.answer_chance, daemon.lost_chance, daemon.ring_full_chance = 1.0, 0.0, 0.0
    return daemon


def engine_after_store(daemon: FakeDaemon, **extra: int) -> Engine:
    """An engine that has stored the prompt and forgotten it; from now on every hit has to be promoted."""
    engine = Engine(make_config(extra, max_len=640), make_groups(blocks=40))
    engine.add("first", PROMPT, 1)
    engine.run()
    assert engine.scheduler.reset_prefix_cache()
    daemon.pending_chance, daemon.arrival_chance = 1.0, 0.0
    return engine


def totals(engine: Engine) -> dict:
    side = engine.connector._scheduler
    side.take_stats()
    return side.counts.totals


def steps_for(engine: Engine, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        engine.step()


def test_a_pending_look_up_is_waited_for_beyond_the_usual_deadline(daemon):
    engine = engine_after_store(daemon, lookup_deadline_ms=20, promotion_deadline_ms=600_000)
    engine.add("second", PROMPT, 1)
    steps_for(engine, 0.1)
    assert "second" in engine.scheduler.requests
    daemon.arrival_chance = 1.0
    engine.run()
    counts = totals(engine)
    assert counts["kvtier_lookups_pending|hit"] == 1
    assert counts["kvtier_loaded_tokens|host"] == CACHED
    assert "kvtier_lookups|deadline" not in counts
    assert not engine.wrong and not daemon.violations and not daemon.leased()


def test_promotions_that_do_not_come_are_given_up_and_the_prompt_is_computed(daemon):
    engine = engine_after_store(daemon, lookup_deadline_ms=600_000, promotion_deadline_ms=30)
    engine.add("second", PROMPT, 1)
    engine.run(steps=1_000_000)
    counts = totals(engine)
    assert counts["kvtier_lookups_pending|deadline"] == counts["kvtier_lookups|deadline"] == 1
    assert "kvtier_loaded_tokens|host" not in counts
    assert not any(session.promoting for session in daemon.sessions), "the look-up was released"
    assert not engine.wrong and not daemon.violations


def test_a_request_that_is_aborted_meanwhile_releases_its_pending_look_up(daemon):
    engine = engine_after_store(daemon, promotion_deadline_ms=600_000)
    engine.add("second", PROMPT, 1)
    engine.step()
    assert any(session.promoting for session in daemon.sessions)
    engine.abort("second")
    assert not any(session.promoting for session in daemon.sessions)
    engine.run()
    assert totals(engine)["kvtier_lookups_pending|dropped"] == 1
    assert not daemon.violations


def test_a_daemon_that_dies_meanwhile_is_a_miss(daemon):
    engine = engine_after_store(daemon, promotion_deadline_ms=600_000)
    engine.add("second", PROMPT, 1)
    engine.step()
    daemon.kill()
    engine.run(steps=1_000_000)
    assert totals(engine)["kvtier_lookups_pending|lost"] == 1
    assert not engine.wrong and not daemon.violations
