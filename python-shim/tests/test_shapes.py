"""What is configured, and what a KV cache looks like: known shapes are served, unknown ones refused with a reason."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import pytest
import torch
from vllm.v1.kv_cache_interface import MambaSpec
from vllm_harness import make_config, make_groups

from kvtier.client import KVTierError
from kvtier.vllm.config import Config, ConfigError, parse_config
from kvtier.vllm.groups import GroupPlan, Unsupported, make_plan
from kvtier.vllm.devices import CudaCopies, HostCopies, device_of, open_copies
from kvtier.vllm.layout import page_runs


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


@pytest.mark.parametrize(
    ("shape", "dtype", "runs", "page_bytes"),
    [
        ((6, 16, 576), torch.bfloat16, 1, 16 * 576 * 2),
        ((6, 16, 656), torch.uint8, 1, 16 * 656),
        ((6, 2, 16, 4, 8), torch.float8_e4m3fn, 1, 2 * 16 * 4 * 8),
        ((2, 6, 16, 4, 8), torch.float8_e4m3fn, 2, 16 * 4 * 8),
        ((6, 4, 16, 16), torch.bfloat16, 1, 4 * 16 * 16 * 2),
    ],
    ids=["MLA", "packed FP8 MLA", "K and V interleaved", "K and V apart", "K and V of a head side by side"],
)
def test_the_shapes_of_known_backends_are_served(shape, dtype, runs, page_bytes):
    found = page_runs({"a": torch.zeros(shape, dtype=torch.uint8).to(dtype)}, ["a"], 6)
    assert [run.page_bytes for run in found] == [page_bytes] * runs


class Elsewhere:
    """A tensor of a device that this machine does not have."""

    def __init__(self, kind: str, index: int | None = 0) -> None:
        self.device = type("device", (), {"type": kind, "index": index})


def test_whoever_copies_is_chosen_by_where_the_tensors_lie(monkeypatch):
    opened = []
    monkeypatch.setattr("kvtier.vllm.devices.CudaCopies", lambda index: opened.append(("cuda", index)))
    monkeypatch.setattr(
        "kvtier.vllm.torch_copies.TorchCopies", lambda tensors, threads: opened.append(("torch", threads))
    )
    with open_copies({"a": torch.zeros(1)}, Config()) as host:
        assert isinstance(host, HostCopies)
    open_copies({"a": Elsewhere("cuda", 3)}, Config(device_copies="auto"))
    open_copies({"a": Elsewhere("xpu")}, Config(device_copies="auto", copy_threads=2))
    open_copies({"a": Elsewhere("cuda", 3)}, Config(device_copies="torch"))
    monkeypatch.setattr("torch.version.hip", "7.0")
    open_copies({"a": Elsewhere("cuda")}, Config(device_copies="auto"))
    assert opened == [("cuda", 3), ("torch", 2), ("torch", 1), ("torch", 1)]


def test_devices_that_no_copier_serves_are_refused_by_name():
    with pytest.raises(Unsupported, match="'meta'"):
        open_copies({"a": torch.zeros(1, device="meta")}, Config())
    with pytest.raises(Unsupported, match="'cuda' and device_copies is off"):
        open_copies({"a": Elsewhere("cuda")}, Config())
    with pytest.raises(Unsupported, match="a on cuda:0, b on cuda:1"):
        device_of({"a": Elsewhere("cuda", 0), "b": Elsewhere("cuda", 1)})


def test_a_machine_without_a_driver_is_told_so():
    with pytest.raises(KVTierError, match="no CUDA driver: /nowhere/libcuda.so.1"):
        CudaCopies(0, driver="/nowhere/libcuda.so.1", stream=lambda: 0)


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
