"""The namespace descriptor: everything that must be equal for two engines' KV bytes to be interchangeable.

The scheduler and the workers state the same common fields; each worker adds its own. Whatever cannot be determined
makes the namespace private to this start of the engine: such an engine stores and finds its own blocks only.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import compat
from .groups import Plan, layer_specs

LAYOUT_VERSION = "1"
CRYPTOGRAPHIC = ("sha256", "sha256_cbor")
_SAMPLE_BYTES, _SAMPLES_PER_FILE = 4096, 256
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".npz")


def engine_group(vllm_config: Any) -> bytes:
    """16 bytes that name this start of the engine, equal in its scheduler and its workers."""
    transfer = vllm_config.kv_transfer_config
    parallel = vllm_config.parallel_config
    parts = (
        str(transfer.engine_id),
        str(getattr(vllm_config, "instance_id", "")),
        str(getattr(parallel, "data_parallel_index", getattr(parallel, "data_parallel_rank", 0))),
    )
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).digest()


def common_fields(vllm_config: Any, plan: Plan) -> dict[str, bytes]:
    """The fields that the engine's sessions have in common."""
    model, cache, parallel = vllm_config.model_config, vllm_config.cache_config, vllm_config.parallel_config
    unknown: list[str] = []
    fields = {
        "schema": LAYOUT_VERSION,
        "engine": "vllm",
        "engine.version": compat.features().version,
        "engine.runner": str(getattr(vllm_config, "use_v2_model_runner", "unknown")),
        "model.id": str(model.model),
        "model.revision": str(model.revision),
        "model.config": config_digest(model.hf_config),
        "model.weights": _known(weights_identity(model, vllm_config.load_config), "weights", unknown),
        "model.dtype": str(model.dtype),
        "model.quantization": str(model.quantization),
        "kv.dtype": str(cache.cache_dtype),
        "kv.device": str(getattr(vllm_config.device_config, "device_type", "unknown")),
        "kv.blocks_per_chunk": str(plan.groups[0].blocks_per_chunk),
        "kv.groups": ";".join(f"{g.block_tokens}/{g.window_tokens}" for g in plan.groups),
        "hash.algorithm": str(cache.prefix_caching_hash_algo),
        "hash.tokens": str(plan.hash_tokens),
        "hash.probe": _known(hash_probe(str(cache.prefix_caching_hash_algo)), "hash seed", unknown),
        "parallel.tp": str(parallel.tensor_parallel_size),
        "parallel.pp": str(parallel.pipeline_parallel_size),
        "parallel.pcp": str(getattr(parallel, "prefill_context_parallel_size", 1)),
        "parallel.dcp": str(getattr(parallel, "decode_context_parallel_size", 1)),
    }
    if getattr(cache, "calculate_kv_scales", False):
        unknown.append("KV scales computed while running")
    encoded = {tag: value.encode() for tag, value in fields.items()}
    if unknown:
        encoded["private"] = engine_group(vllm_config)
        encoded["private.reason"] = ", ".join(unknown).encode()
    return encoded


def rank_fields(plan: Plan, kv_cache_config: Any, signatures: list[str], backends: list[str]) -> dict[str, bytes]:
    """The fields of one worker: its layers, their specs and what the bytes of their pages mean."""
    fields: dict[str, bytes] = {"layout": str(getattr(kv_cache_config, "kv_cache_layout", None)).encode()}
    fields["backends"] = ",".join(sorted(set(backends))).encode()
    for group in plan.groups:
        described = kv_cache_config.kv_cache_groups[group.index]
        specs = sorted({repr(spec) for spec in layer_specs(described.kv_cache_spec)})
        fields[f"group.{group.index}.layers"] = ",".join(described.layer_names).encode()
        fields[f"group.{group.index}.specs"] = ";".join(specs).encode()
        fields[f"group.{group.index}.pages"] = signatures[group.index].encode()
    return fields


def config_digest(hf_config: Any) -> str:
    """Digest of the model's configuration after all overrides, without its name and its library's version."""
    content = hf_config.to_dict() if hasattr(hf_config, "to_dict") else dict(vars(hf_config))
    for key in ("_name_or_path", "transformers_version"):
        content.pop(key, None)
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def weights_identity(model: Any, load_config: Any) -> str | None:
    """What tells these weights from others, or None where that cannot be found out."""
    load_format = str(getattr(load_config.load_format, "value", load_config.load_format))
    if load_format == "dummy":
        return f"dummy seed {model.seed}"
    path = _local_path(str(model.model), model.revision)
    if path is None:
        return None
    files = [path] if path.is_file() else [f for f in path.iterdir() if f.suffix in _WEIGHT_SUFFIXES and f.is_file()]
    return f"{load_format} {weights_digest(files)}" if files else None


def weights_digest(files: Iterable[Path]) -> str:
    """Digest of the files' names, sizes and a sample of their content: the first and last pages, and 256 between."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda f: f.name):
        size = file.stat().st_size
        digest.update(f"{len(file.name)}:{file.name}:{size}\0".encode())
        step = max(_SAMPLE_BYTES, size // _SAMPLES_PER_FILE)
        with file.open("rb") as content:
            for offset in [*range(0, size, step), max(0, size - _SAMPLE_BYTES)]:
                content.seek(offset)
                digest.update(content.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def hash_probe(algorithm: str) -> str | None:
    """The hash from which every chain of block hashes starts, or None if it is drawn anew by each process.

    It is computed here and not taken from the running engine, because workers never compute block hashes.
    """
    if algorithm not in CRYPTOGRAPHIC:
        return None
    from vllm.utils import hashing

    seed = os.environ.get("PYTHONHASHSEED")
    if seed is None:
        seed = getattr(_cache_utils(), "DEFAULT_NONE_HASH_SEED", None)
    if seed is None:
        return None
    return bytes(getattr(hashing, algorithm)(seed)).hex()


def engine_hash_seed_matches(algorithm: str) -> bool:
    """Whether the running scheduler's hashes start where `hash_probe` says, as far as it can be asked."""
    actual = getattr(_cache_utils(), "NONE_HASH", None)
    probe = hash_probe(algorithm)
    return actual is None or probe is None or bytes(actual).hex() == probe


def _cache_utils() -> Any:
    from vllm.v1.core import kv_cache_utils

    return kv_cache_utils


def _known(value: str | None, what: str, unknown: list[str]) -> str:
    if value is None:
        unknown.append(what)
        return "unknown"
    return value


def _local_path(model: str, revision: str | None) -> Path | None:
    path = Path(model)
    if path.exists():
        return path
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except Exception:  # noqa: BLE001 - whatever the hub's library raises, the weights are not known
        return None
