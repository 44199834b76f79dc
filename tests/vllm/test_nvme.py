"""A host tier too small for what is asked: prefixes come back from NVMe, whoever was killed meanwhile."""

from __future__ import annotations

import random

import pytest
from daemon import Daemon

# Of the wide model: 9 blocks of 256 KiB each, so six of them need twice the host tier.
PROMPTS = 6
TOKENS = 300
CACHED = 288


@pytest.fixture(scope="module")
def many():
    """Prompts that share nothing."""
    rng = random.Random(31)
    return [[rng.randrange(500) for _ in range(TOKENS)] for _ in range(PROMPTS)]


@pytest.fixture
def small(tmp_path, request):
    """A daemon with 8 MiB of host memory and an NVMe directory."""
    settings = {"nvme_directories": str(tmp_path / "nvme"), "nvme_capacity": "192MiB", **request.param}
    # A busy machine must not make a miss of what is there.
    running = Daemon(tmp_path, capacity="8MiB", nvme_promotion_deadline="30s", **settings).start()
    yield running
    running.kill()


def ask(engine, prompts, answers) -> list[int]:
    """Asks one after the other and compares; how many tokens of each were cached."""
    cached = []
    for prompt, (tokens, logprobs) in zip(prompts, answers, strict=True):
        (answer,) = engine.generate([prompt])
        assert answer.tokens == tokens
        # Where a prefix ends decides how the rest is batched, so the last digits differ.
        assert answer.logprobs == pytest.approx(logprobs, abs=0.1)
        cached.append(answer.cached)
    return cached


@pytest.mark.parametrize("small", [{}, {"nvme_io": "threads", "nvme_direct": "never"}], indirect=True)
def test_prefixes_outlive_host_memory_engine_and_daemon(small, start, many, expected):
    answers = [expected("wide", [prompt])[0] for prompt in many]
    patient = {"promotion_deadline_ms": 60_000}

    engine = start("wide", small, patient)
    assert ask(engine, many, answers) == [0] * PROMPTS
    assert engine.call("settle")
    stored = small.settle()
    assert stored["occupancy"]["nvme_blocks"] == PROMPTS * (TOKENS // 32)
    assert stored["occupancy"]["slots_resident"] < PROMPTS * (TOKENS // 32)
    assert engine.call("forget")
    assert ask(engine, many, answers) == [CACHED] * PROMPTS
    assert small.status()["counters"]["nvme_read"] > 0

    engine.kill()
    successor = start("wide", small, patient)
    assert ask(successor, many, answers) == [CACHED] * PROMPTS

    small.kill()
    assert successor.call("forget")
    # Misses only, and the right answers; whether the daemon is back by then decides nothing else.
    small.start()
    small.settle()
    ask(successor, many, answers)
    third = start("wide", small, patient)
    assert ask(third, many, answers) == [CACHED] * PROMPTS
    status = small.status()
    assert status["counters"]["nvme_blocks_loaded"] >= PROMPTS * (TOKENS // 32)
    assert status["counters"]["nvme_corrupt_payload"] == 0
    for survivor in (successor, third):
        assert survivor.call("held_blocks") == 0
