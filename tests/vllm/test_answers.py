"""Answers are the same with and without kvtier, and prefixes outlive the engine that computed them."""

from __future__ import annotations

import pytest
from conftest import cached, contents


@pytest.mark.parametrize("per_chunk", [1, 4])
def test_a_new_engine_finds_what_a_killed_one_computed(per_chunk, start, daemon, prompts, expected):
    options = {"blocks_per_chunk": per_chunk}
    first = start("llama", daemon, options)
    answers = first.generate(prompts)
    assert contents(answers) == expected("llama")
    assert cached(answers) == [0, 0, 0]
    assert first.call("settle")
    first.kill()
    second = start("llama", daemon, options)
    answers = second.generate(prompts)
    assert contents(answers) == expected("llama")
    assert cached(answers) == [300 // (32 * per_chunk) * 32 * per_chunk] * 3
    counters = second.call("counters")
    assert counters["prompt_tokens_cached_by_source|host"] == sum(cached(answers))
    assert counters["kvtier_loads|done"] == 3


def test_an_engine_killed_in_the_middle_of_requests_leaves_a_usable_cache(start, daemon, prompts, expected):
    first = start("llama", daemon)
    first.generate(prompts[:1])
    for index, prompt in enumerate(prompts):
        first.call("add", f"r{index}", prompt, 50)
    first.call("step", 3)
    first.send("step", 10_000)
    first.kill()
    second = start("llama", daemon)
    answers = second.generate(prompts)
    assert contents(answers) == expected("llama")
    assert cached(answers)[0] == 288


def test_two_engines_side_by_side_share_what_either_computed(start, daemon, prompts, expected):
    one, two = start("llama", daemon), start("llama", daemon)
    one.generate(prompts[:2])
    assert one.call("settle")
    answers = two.generate(prompts)
    assert contents(answers) == expected("llama")
    assert cached(answers) == [288, 288, 0]
    assert two.call("settle")
    answers = one.generate(prompts[2:])
    assert contents(answers) == expected("llama")[2:]
    assert cached(answers) == [288]


def test_scrambled_bytes_change_the_answers_so_loads_are_really_used(start, daemon, prompts, expected):
    engine = start("llama", daemon)
    assert contents(engine.generate(prompts)) == expected("llama")
    assert engine.call("forget")
    assert contents(engine.generate(prompts)) == expected("llama")
    assert engine.call("forget")
    assert daemon.scramble() > 0
    answers = engine.generate(prompts)
    assert cached(answers) == [288, 288, 288]
    assert contents(answers) != expected("llama")


def test_generated_tokens_are_stored_only_by_switch(start, daemon, prompts):
    plain = start("llama", daemon)
    (answer,) = plain.generate(prompts[:1], max_tokens=100)
    longer = prompts[0] + list(answer.tokens)
    assert plain.call("forget")
    assert cached(plain.generate([longer + [1]])) == [288]
    plain.kill()
    storing = start("llama", daemon, {"store_decode": True})
    (answer,) = storing.generate([prompts[1]], max_tokens=100)
    longer = prompts[1] + list(answer.tokens)
    assert storing.call("forget")
    assert cached(storing.generate([longer + [1]])) == [384]


@pytest.mark.parametrize("per_chunk", [1, 2])
def test_sliding_window_and_full_attention_together(per_chunk, start, daemon, prompts, expected):
    first = start("hybrid", daemon, {"blocks_per_chunk": per_chunk})
    assert sorted(first.call("groups")) == ["FullAttentionSpec", "SlidingWindowSpec"]
    assert contents(first.generate(prompts)) == expected("hybrid")
    assert first.call("settle")
    first.kill()
    second = start("hybrid", daemon, {"blocks_per_chunk": per_chunk})
    answers = second.generate(prompts)
    assert contents(answers) == expected("hybrid")
    assert cached(answers) == [300 // (32 * per_chunk) * 32 * per_chunk] * 3


def test_mla_on_a_cpu_is_refused_because_vllm_cannot_compute_behind_a_prefix_there(start, daemon, prompts, expected):
    engine = start("mla", daemon)
    assert engine.call("groups") == ["MLAAttentionSpec"]
    for _ in range(2):
        answers = engine.generate(prompts)
        assert contents(answers) == expected("mla")
        assert cached(answers) == [0, 0, 0]
