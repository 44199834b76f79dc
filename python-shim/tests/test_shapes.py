"""What is configured, and what a KV cache looks like: known shapes are served, unknown ones refused with a reason."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import pytest
import torch
from vllm.v1.kv_cache_interface import MambaSpec
from vllm_harness import make_config, make_groups

from kvtier.vllm.config import Config, ConfigError, parse_config
from kvtier.vllm.groups import GroupPlan, Unsupported, make_plan
from kvtier.vllm.layout import check_host, page_runs


def test_the_defaults_need_no_configuration():
    assert parse_config(None) == Config()


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError) as failure:
        parse_config({"blocks_per_chunk": 0, "store_decode": "yes", "sokcet": "/x", "tenant": ""})
    for word in ("blocks_per_chunk", "store_decode", "sokcet", "tenant", "lookup_deadline_ms"):
        assert word in str(failure.value)


def pages_of(runs, block) -> bytes:
    return b"".join(ctypes.string_at(run.base + block * run.stride_bytes, run.page_bytes) for run in runs)


@pytest.mark.parametrize(
    ("shape", "order"),
    [
        ((6, 2, 16, 8), (0, 1, 2, 3)),
        ((6, 2, 16, 8), (0, 2, 1, 3)),
        ((6, 16, 8), (0, 1, 2)),
    ],
)
def test_pages_of_each_block_are_found_whatever_the_order_inside(shape, order):
    raw = torch.randint(0, 100, [shape[i] for i in order], dtype=torch.int16)
    inverse = [order.index(i) for i in range(len(order))]
    runs = page_runs({"a": raw.permute(inverse)}, ["a"], 6)
    for block in range(6):
        assert pages_of(runs, block) == raw[block].numpy().tobytes()


def test_kernel_blocks_are_joined_to_blocks():
    raw = torch.randint(0, 100, (12, 2, 8), dtype=torch.int16)
    (run,) = page_runs({"a": raw}, ["a"], 6)
    assert run.page_bytes == run.stride_bytes == 2 * 2 * 8 * 2


def test_layers_packed_in_one_block_are_one_run():
    packed = torch.randint(0, 100, (6, 3, 16, 4), dtype=torch.int16)
    runs = page_runs({name: packed[:, i] for i, name in enumerate("abc")}, ["a", "b", "c"], 6)
    assert [(run.page_bytes, run.stride_bytes) for run in runs] == [(3 * 16 * 4 * 2, 3 * 16 * 4 * 2)]


def test_keys_and_values_in_an_outermost_pair_are_two_runs():
    pair = torch.randint(0, 100, (2, 6, 16, 1, 4), dtype=torch.int16)
    runs = page_runs({"a": pair}, ["a"], 6)
    for block in range(6):
        assert pages_of(runs, block) == pair[0, block].numpy().tobytes() + pair[1, block].numpy().tobytes()


def test_layers_that_share_a_cache_are_taken_once():
    tensor = torch.zeros((6, 16, 4))
    assert len(page_runs({"a": tensor, "b": tensor}, ["a", "b"], 6)) == 1


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros((7, 16, 4)), torch.zeros((6, 16, 8))[:, :, ::2], torch.zeros((12, 2, 16, 4))[:, 0], "not a tensor"],
    ids=["blocks do not fit", "gaps inside", "gaps between kernel blocks", "no tensor"],
)
def test_unknown_layouts_are_refused(tensor):
    with pytest.raises(Unsupported):
        page_runs({"a": tensor}, ["a"], 6)


def test_a_device_without_a_copier_is_refused_in_plain_words():
    class Cuda:
        class device:
            type = "cuda"

    with pytest.raises(Unsupported, match="CUDA device copies are not built into this libkvtier"):
        check_host({"a": Cuda()})


def test_groups_that_are_not_attention_are_refused():
    config, kv = make_config(), make_groups()
    mamba = MambaSpec(block_size=16, shapes=((4,),), dtypes=(torch.float32,))
    kv.kv_cache_groups[0].kv_cache_spec = mamba
    with pytest.raises(Unsupported, match="MambaSpec"):
        make_plan(config, kv, Config())


def test_drafters_and_context_parallelism_are_refused():
    config, kv = make_config(), make_groups()
    kv.kv_cache_groups[0].is_eagle_group = True
    with pytest.raises(Unsupported, match="drafter"):
        make_plan(config, kv, Config())
    config.parallel_config.decode_context_parallel_size = 2
    with pytest.raises(Unsupported, match="decode_context_parallel_size"):
        make_plan(config, make_groups(), Config())


def test_an_engine_without_prefix_caching_is_refused():
    config = make_config()
    config.cache_config.enable_prefix_caching = False
    with pytest.raises(Unsupported, match="prefix caching is off"):
        make_plan(config, make_groups(), Config())


def test_attention_to_later_tokens_is_refused():
    config, kv = make_config(), make_groups()
    kv.kv_cache_groups[0].kv_cache_spec = replace(kv.kv_cache_groups[0].kv_cache_spec, non_causal=True)
    with pytest.raises(Unsupported, match="later tokens"):
        make_plan(config, kv, Config())


@pytest.mark.parametrize(("computed", "first"), [(0, 0), (40, 0), (55, 1), (56, 1), (1000, 60)])
def test_blocks_behind_the_window_are_not_trusted(computed, first):
    assert GroupPlan(0, 16, 1, 40).first_live_block(computed) == first
    assert GroupPlan(0, 16, 1, 0).first_live_block(computed) == 0
