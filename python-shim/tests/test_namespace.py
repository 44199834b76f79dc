"""Engines share blocks only if everything that decides what the bytes mean is equal."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
from vllm_harness import make_config, make_groups

from kvtier.vllm import namespace
from kvtier.vllm.config import Config
from kvtier.vllm.groups import make_plan


@pytest.fixture(scope="module")
def base():
    return make_config()


def fields_of(config, windows=(0,), per_chunk=1) -> dict[str, bytes]:
    plan = make_plan(config, make_groups(windows), Config(blocks_per_chunk=per_chunk))
    return namespace.common_fields(config, plan)


def changed(config, path: str, value):
    other = copy.deepcopy(config)
    *parents, name = path.split(".")
    target = other
    for parent in parents:
        target = getattr(target, parent)
    object.__setattr__(target, name, value)
    return other


def test_two_starts_of_one_engine_have_equal_fields_and_different_groups(base):
    one, two = make_config(), make_config()
    assert fields_of(one) == fields_of(two)
    assert "private" not in fields_of(one)
    assert namespace.engine_group(one) != namespace.engine_group(two)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model_config.model", "/other"),
        ("model_config.revision", "other"),
        ("model_config.dtype", "torch.float16"),
        ("model_config.quantization", "fp8"),
        ("model_config.seed", 7),
        ("cache_config.cache_dtype", "fp8"),
        ("cache_config.prefix_caching_hash_algo", "sha256_cbor"),
        ("parallel_config.tensor_parallel_size", 2),
        ("parallel_config.pipeline_parallel_size", 2),
    ],
)
def test_a_change_of_any_field_is_another_namespace(base, path, value):
    assert fields_of(changed(base, path, value)) != fields_of(base)


def test_chunks_and_groups_are_part_of_the_namespace(base):
    assert fields_of(base, per_chunk=4) != fields_of(base)
    assert fields_of(base, windows=(0, 64)) != fields_of(base)
    assert fields_of(base, windows=(0, 64)) != fields_of(base, windows=(0, 48))


def test_another_configuration_of_the_model_is_another_namespace(base):
    other = copy.deepcopy(base)
    other.model_config.hf_config.rope_theta = 777.0
    assert fields_of(other) != fields_of(base)


@pytest.mark.parametrize("seed", ["0", "1"])
def test_the_hash_seed_is_part_of_the_namespace(base, seed, monkeypatch):
    before = fields_of(base)
    monkeypatch.setenv("PYTHONHASHSEED", seed)
    assert fields_of(base)["hash.probe"] != before["hash.probe"]


def test_the_probe_is_where_vllms_own_hashes_start(monkeypatch):
    from vllm.utils.hashing import get_hash_fn_by_name
    from vllm.v1.core import kv_cache_utils

    for algorithm in ("sha256", "sha256_cbor"):
        for seed in (None, "42"):
            monkeypatch.delenv("PYTHONHASHSEED", raising=False)
            if seed:
                monkeypatch.setenv("PYTHONHASHSEED", seed)
            kv_cache_utils.init_none_hash(get_hash_fn_by_name(algorithm))
            assert namespace.engine_hash_seed_matches(algorithm)
            assert namespace.hash_probe(algorithm) == kv_cache_utils.NONE_HASH.hex()
    kv_cache_utils.NONE_HASH = b"x" * 32
    assert not namespace.engine_hash_seed_matches("sha256")


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("cache_config.prefix_caching_hash_algo", "xxhash", b"hash seed"),
        ("load_config.load_format", "auto", b"weights"),
    ],
)
def test_what_cannot_be_known_makes_the_namespace_private(base, path, value, reason):
    fields = fields_of(changed(base, path, value))
    assert fields["private"] == namespace.engine_group(base)
    assert reason in fields["private.reason"]


def test_weights_are_told_apart_by_name_size_and_content(tmp_path):
    model = SimpleNamespace(model=str(tmp_path), revision=None, seed=0)
    load = SimpleNamespace(load_format="auto")
    assert namespace.weights_identity(model, load) is None
    file = tmp_path / "model.safetensors"
    seen = set()
    for content in (b"a" * 100_000, b"a" * 50_000 + b"b" + b"a" * 49_999, b"a" * 100_001):
        file.write_bytes(content)
        seen.add(namespace.weights_identity(model, load))
    file.rename(tmp_path / "other.safetensors")
    seen.add(namespace.weights_identity(model, load))
    assert len(seen) == 4


def test_a_worker_tells_its_layers_and_pages():
    config, kv = make_config(), make_groups((0, 48), layers=2)
    plan = make_plan(config, kv, Config())
    one = namespace.rank_fields(plan, kv, ["a", "b"], ["FLASH"])
    assert namespace.rank_fields(plan, kv, ["a", "c"], ["FLASH"]) != one
    assert namespace.rank_fields(plan, kv, ["a", "b"], ["OTHER"]) != one
    assert set(one) == {"layout", "backends"} | {f"group.{g}.{x}" for g in (0, 1) for x in ("layers", "specs", "pages")}
