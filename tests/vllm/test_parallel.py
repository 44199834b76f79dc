"""Several ranks, and adapters."""

from __future__ import annotations

from conftest import cached, contents
from models import write_lora

RANKS = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}


def test_two_tensor_parallel_ranks_store_and_load_their_parts(start, daemon, prompts):
    engine = start("llama", daemon, **RANKS)
    first = engine.generate(prompts)
    assert cached(first) == [0, 0, 0]
    assert engine.call("forget")
    second = engine.generate(prompts)
    assert contents(second) == contents(first)
    assert cached(second) == [288, 288, 288]
    counters = engine.call("counters")
    assert counters["kvtier_loads|done"] == 3
    assert daemon.scramble() > 0
    assert engine.call("forget")
    assert contents(engine.generate(prompts)) != contents(first)


def test_adapters_do_not_share_blocks_with_each_other(start, daemon, prompts, tmp_path):
    red, blue = write_lora(tmp_path, 1), write_lora(tmp_path, 2)
    engine = start("llama", daemon, enable_lora=True, max_lora_rank=8, max_loras=2)
    plain = engine.generate(prompts)
    first = engine.generate(prompts, lora=red)
    assert contents(first) != contents(plain)
    assert cached(first) == [0, 0, 0]
    other = engine.generate(prompts, lora=blue)
    assert contents(other) != contents(first)
    assert engine.call("forget")
    again = engine.generate(prompts, lora=red)
    assert contents(again) == contents(first)
    assert cached(again) == [288, 288, 288]
