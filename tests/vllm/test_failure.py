"""Whatever happens to the daemon or to a request, the engine goes on and its answers are right."""

from __future__ import annotations

import random
import signal
import time

import pytest
from conftest import cached, contents
from daemon import Daemon


def wait_attached(engine, state: int = 2, seconds: float = 30) -> None:
    """Steps the engine until its session is in a state."""
    until = time.monotonic() + seconds
    while engine.call("attached") != state:
        assert time.monotonic() < until, "the engine did not attach"
        engine.generate([[1, 2, 3]], max_tokens=1)
        time.sleep(0.05)


def test_a_daemon_that_is_not_there_at_the_start_is_found_later(start, tmp_path, prompts, expected):
    absent = Daemon(tmp_path)
    engine = start("llama", absent)
    assert contents(engine.generate(prompts)) == expected("llama")
    absent.start()
    try:
        wait_attached(engine)
        assert engine.call("forget")
        assert contents(engine.generate(prompts)) == expected("llama")
        assert engine.call("forget")
        assert cached(engine.generate(prompts)) == [288, 288, 288]
    finally:
        absent.kill()


def test_a_daemon_killed_and_started_again_costs_misses_only(start, daemon, prompts, expected):
    engine = start("llama", daemon)
    assert contents(engine.generate(prompts)) == expected("llama")
    assert engine.call("forget")
    engine.call("add", "loading", prompts[0], 8)
    daemon.kill()
    done = {}
    while "loading" not in done:
        done.update(engine.call("step", 1))
    assert done["loading"].content == expected("llama")[0]
    assert contents(engine.generate(prompts)) == expected("llama")
    assert engine.call("settle")
    daemon.start()
    wait_attached(engine)
    assert engine.call("forget")
    assert contents(engine.generate(prompts)) == expected("llama")
    assert engine.call("forget")
    answers = engine.generate(prompts)
    assert contents(answers) == expected("llama")
    assert cached(answers) == [288, 288, 288]
    assert engine.call("held_blocks") == 0


def test_a_daemon_that_drains_while_the_engine_runs_ends_cleanly(start, daemon, prompts, expected):
    engine = start("llama", daemon)
    engine.generate(prompts)
    assert daemon.stop() == 0
    assert contents(engine.generate(prompts)) == expected("llama")
    assert engine.call("settle")


def test_a_daemon_that_hangs_delays_an_engine_by_its_deadlines_only(start, daemon, prompts, expected):
    engine = start("llama", daemon, {"commit_deadline_ms": 200, "lookup_deadline_ms": 100})
    wait_attached(engine)
    assert contents(engine.generate(prompts)) == expected("llama")
    assert engine.call("forget")
    daemon.signal(signal.SIGSTOP)
    assert contents(engine.generate(prompts)) == expected("llama")
    assert engine.call("settle")
    assert engine.call("held_blocks") == 0
    counters = engine.call("counters")
    assert counters.get("kvtier_lookups|deadline") == 3, counters
    daemon.signal(signal.SIGCONT)
    assert engine.call("forget")
    assert contents(engine.generate(prompts)) == expected("llama")


def test_a_request_aborted_while_it_loads_gives_everything_back(start, daemon, prompts, expected):
    engine = start("llama", daemon, {"commit_deadline_ms": 60_000, "lookup_deadline_ms": 60_000})
    engine.generate(prompts)
    assert engine.call("forget")
    engine.call("add", "victim", prompts[0], 8)
    time.sleep(0.2)
    daemon.signal(signal.SIGSTOP)
    engine.call("core_step", 2)
    assert list(engine.call("statuses").values()) == ["WAITING_FOR_REMOTE_KVS"]
    engine.call("abort", "victim")
    daemon.signal(signal.SIGCONT)
    assert engine.call("settle")
    assert engine.call("statuses") == {}
    assert engine.call("held_blocks") == 0
    assert contents(engine.generate(prompts)) == expected("llama")


def test_preemption_under_a_tiny_gpu_cache(start, daemon, expected):
    rng = random.Random(5)
    shared = [rng.randrange(500) for _ in range(200)]
    inputs = [shared + [rng.randrange(500) for _ in range(60)] for _ in range(6)]
    options = {"max_tokens": 150}
    alone = expected("llama", inputs, **options)
    engine = start("llama", daemon, {"store_decode": True}, num_gpu_blocks_override=36, max_model_len=1024)
    for _ in range(2):
        answers = engine.generate(inputs, **options)
        assert [answer.content[0] for answer in answers] == [content[0] for content in alone]
    assert engine.call("preemptions") > 0
    assert engine.call("settle")
    assert engine.call("held_blocks") == 0


def test_a_prompt_longer_than_the_host_tier_loses_what_does_not_fit_and_says_so(start, tmp_path, expected):
    rng = random.Random(6)
    long = [[rng.randrange(500) for _ in range(1900)]]
    answers = expected("wide", long)
    small = Daemon(tmp_path, capacity="8MiB").start()
    try:
        engine = start("wide", small)
        for _ in range(2):
            # Where a prefix ends decides how the rest is batched, so the last digits differ.
            (answer,), ((tokens, logprobs),) = engine.generate(long), answers
            assert answer.tokens == tokens
            assert answer.logprobs == pytest.approx(logprobs, abs=0.1)
            assert engine.call("forget")
        counters = engine.call("counters")
        stored = counters["kvtier_store_blocks|stored"]
        told = sum(value for name, value in counters.items() if name.startswith("kvtier_store_blocks|"))
        assert 0 < stored
        assert told >= 1900 // 32
        assert counters.get("kvtier_loaded_tokens|host", 0) < 1900
        assert engine.call("held_blocks") == 0
    finally:
        small.kill()


def test_a_reset_hides_everything_from_the_engine_and_nothing_from_others(start, daemon, prompts, expected):
    engine, other = start("llama", daemon), start("llama", daemon)
    engine.generate(prompts)
    assert engine.call("reset") is True
    answers = engine.generate(prompts)
    assert contents(answers) == expected("llama")
    assert cached(answers) == [0, 0, 0]
    assert engine.call("forget")
    assert cached(engine.generate(prompts)) == [288, 288, 288]
    assert cached(other.generate(prompts)) == [288, 288, 288]


@pytest.mark.parametrize("salts", [("red", "blue")])
def test_a_cache_salt_separates(salts, start, daemon, prompts, expected):
    engine = start("llama", daemon)
    for salt in salts:
        answers = engine.generate(prompts, salt=salt)
        assert contents(answers) == expected("llama")
        assert cached(answers) == [0, 0, 0]
    assert engine.call("forget")
    assert cached(engine.generate(prompts, salt=salts[0])) == [288, 288, 288]
