"""The connector under vLLM's own scheduler, with a daemon that delays, loses, dies and comes back.

Checked after every step: no rule of the daemon was broken and no token ever attended to wrong bytes. Checked at rest:
nothing is pinned, nothing is leased, every request came to its end.
"""

from __future__ import annotations

import random

import pytest
from fake_daemon import FakeCopier, FakeDaemon, FakeSession
from vllm_harness import Engine, make_config, make_groups

import kvtier.vllm.scheduler
import kvtier.vllm.worker


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    monkeypatch.setattr(kvtier.vllm.scheduler, "Session", FakeSession)
    monkeypatch.setattr(kvtier.vllm.worker, "Session", FakeSession)
    monkeypatch.setattr(kvtier.vllm.worker, "open_copies", FakeCopier)


SHAPES = {
    "full": {"windows": (0,), "per_chunk": 1, "ranks": 1, "blocks": 40},
    "chunks of four, two ranks": {"windows": (0,), "per_chunk": 4, "ranks": 2, "blocks": 60},
    "mla": {"windows": (-1,), "per_chunk": 2, "ranks": 1, "blocks": 40},
    "hybrid": {"windows": (0, 40), "per_chunk": 1, "ranks": 1, "blocks": 70},
    "hybrid, chunks of two, decode": {"windows": (40, 0), "per_chunk": 2, "ranks": 2, "blocks": 80, "decode": True},
}


def make_engine(shape: dict, rng: random.Random) -> Engine:
    extra = {"blocks_per_chunk": shape["per_chunk"], "store_decode": shape.get("decode", False)}
    extra["promotion_deadline_ms"] = rng.choice([0, 20, 2000])
    config = make_config(extra, max_len=640, seqs=4, batched=96, ranks=shape["ranks"])
    return Engine(config, make_groups(shape["windows"], blocks=shape["blocks"], layers=2))


def prompt(rng: random.Random, families: list[list[int]]) -> list[int]:
    family = rng.choice(families)
    return family[: rng.randrange(20, len(family))] + [rng.randrange(250) for _ in range(rng.randrange(1, 40))]


def check(engine: Engine, daemon: FakeDaemon) -> None:
    assert not daemon.violations, daemon.violations
    assert not engine.wrong, engine.wrong[:3]
    assert not engine.connector._broken
    assert not any(worker.connector._broken for worker in engine.workers)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_random_traces_never_use_wrong_bytes_and_leak_nothing(shape, seed):
    rng = random.Random(f"{shape} {seed}")
    FakeDaemon.current = daemon = FakeDaemon(rng, capacity=rng.choice([12, 48, 400]))
    daemon.pending_chance = rng.choice([0.0, 0.3, 1.0])
    daemon.traces_below = (1 << 62) * seed if seed else None
    engine = make_engine(shape, rng)
    families = [[rng.randrange(250) for _ in range(500)] for _ in range(3)]
    names, events = [], 0
    while events < 900:
        events += 1
        match rng.choices(["add", "step", "abort", "kill", "start", "reset"], [18, 70, 6, 0.7, 4, 0.5])[0]:
            case "add":
                if len(engine.scheduler.requests) < 12:
                    names.append(f"r{events}")
                    engine.add(names[-1], prompt(rng, families), rng.randrange(1, 30), rng.choice([None, None, "s"]))
            case "step":
                alive = list(engine.scheduler.requests)
                during = [rng.choice(alive)] if alive and rng.random() < 0.03 else []
                engine.step(during)
            case "abort" if engine.scheduler.requests:
                engine.abort(rng.choice(list(engine.scheduler.requests)))
            case "kill" if daemon.alive:
                daemon.kill()
            case "start" if not daemon.alive:
                daemon.start()
            case "reset":
                assert engine.connector.reset_cache() is True
        check(engine, daemon)
    if not daemon.alive:
        daemon.start()
    daemon.answer_chance, daemon.ring_full_chance = 1.0, 0.0
    engine.run()
    check(engine, daemon)
    assert engine.idle_blocks() == 0
    assert daemon.leased() == 0
    assert not engine.scheduler.requests
    assert not engine.connector._scheduler._requests
    totals = engine.connector._scheduler.counts.totals
    print({name: value for name, value in totals.items()}, daemon.counts, engine.preemptions)


SCHEDULER_HOOKS = ["on_new_request", "matched_tokens", "allocated", "build_meta", "worker_news", "finished"]
WORKER_HOOKS = ["start_loads", "start_stores", "collect"]


@pytest.mark.parametrize("hook", SCHEDULER_HOOKS + WORKER_HOOKS)
@pytest.mark.parametrize("windows", [(0,), (0, 40)], ids=["full", "hybrid"])
def test_a_hook_that_fails_switches_kvtier_off_and_nothing_else(hook, windows, monkeypatch):
    rng = random.Random(hook)
    FakeDaemon.current = daemon = FakeDaemon(rng, capacity=400)
    daemon.lost_chance = daemon.ring_full_chance = 0.0
    config = make_config({}, max_len=640, seqs=4, batched=96, ranks=2)
    engine = Engine(config, make_groups(windows, blocks=70, layers=2))
    families = [[rng.randrange(250) for _ in range(400)] for _ in range(4)]
    for index, family in enumerate(families):
        engine.add(f"first{index}", family, 4)
    engine.run()
    side = engine.connector._scheduler if hook in SCHEDULER_HOOKS else engine.workers[1].connector._worker
    works, calls = getattr(side, hook), iter(range(1000))

    def fails_the_third_time(*arguments):
        if next(calls) == 2:
            works(*arguments) if rng.random() < 0.5 else None
            raise RuntimeError("on purpose")
        return works(*arguments)

    monkeypatch.setattr(side, hook, fails_the_third_time)
    for index, family in enumerate(families * 2):
        engine.add(f"second{index}", family[:300] + [index] * 60, 4)
        for _ in range(3):
            engine.step()
    engine.run()
    broken = [engine.connector._broken, *(worker.connector._broken for worker in engine.workers)]
    assert any(broken), "the hook was not called often enough"
    assert not engine.wrong, engine.wrong[:3]
    assert not daemon.violations
    assert engine.idle_blocks() == 0
    assert not engine.scheduler.requests


@pytest.mark.parametrize("windows", [(0,), (0, 40)], ids=["full", "hybrid"])
def test_a_lost_device_costs_misses_and_its_slots_stay_away(windows):
    rng = random.Random("lost")
    FakeDaemon.current = daemon = FakeDaemon(rng, capacity=400)
    daemon.lost_chance = daemon.ring_full_chance = daemon.refusal_chance = 0.0
    engine = Engine(make_config({}, max_len=640, seqs=4, batched=96), make_groups(windows, blocks=70, layers=2))
    families = [[rng.randrange(250) for _ in range(400)] for _ in range(4)]
    for index, family in enumerate(families):
        engine.add(f"first{index}", family, 4)
    while not engine.workers[0].connector._worker._copies:
        engine.step()
    daemon.device_lost = True
    for index, family in enumerate(families):
        engine.add(f"second{index}", family[:300] + [index] * 60, 4)
    engine.run()
    assert daemon.untouchable
    assert not engine.wrong, engine.wrong[:3]
    for worker in engine.workers:
        worker.connector.shutdown()
    assert not daemon.violations
    assert engine.idle_blocks() == 0
    assert daemon.leased() == 0
