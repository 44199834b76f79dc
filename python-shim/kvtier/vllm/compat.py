"""What the running vLLM offers: everything that differs between versions is asked here, once."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import vllm
from vllm.distributed.kv_transfer.kv_connector.v1 import base as connector_base

logger = logging.getLogger("vllm.kvtier")

SUPPORTED = "kvtier supports vLLM 0.26 to 0.32"
OLDEST, NEWEST = (0, 26), (0, 32)

TransferResults: Any = getattr(connector_base, "KVConnectorTransferResults", None)


@dataclass(frozen=True)
class Features:
    """What this vLLM can do."""

    version: str
    failed_recving: bool
    """A failed load can be told by request, which models with several groups need."""


def features() -> Features:
    """Asks the installed vLLM."""
    return Features(version=vllm.__version__, failed_recving=TransferResults is not None)


def version_problem(version: str) -> str | None:
    """Why this version cannot be served; a newer one is served with a warning instead."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None:
        logger.warning("%s; this is %r, which is not known to work", SUPPORTED, version)
        return None
    number = (int(match[1]), int(match[2]))
    if number < OLDEST:
        return f"{SUPPORTED}; this is {version}"
    if number > NEWEST:
        logger.warning("%s; this is %s, which is newer than any that was tested", SUPPORTED, version)
    return None


def hit_source_host() -> Any:
    """vLLM's name for host memory as the source of a hit, or None before 0.32."""
    try:
        from vllm.v1.metrics.cache_hit_source import CacheHitSource
    except ImportError:
        return None
    return CacheHitSource.HOST


def resolve_hash_block_size(kv_cache_config: Any, vllm_config: Any) -> int:
    """Tokens for each of a request's block hashes."""
    resolved = getattr(kv_cache_config, "hash_block_size", None)
    if resolved:
        return int(resolved)
    groups = kv_cache_config.kv_cache_groups
    try:
        from vllm.v1.core.kv_cache_utils import resolve_kv_cache_block_sizes
    except ImportError:
        if len(groups) != 1:
            raise ValueError("this vLLM does not tell the hash block size of a model with several groups") from None
        return int(groups[0].kv_cache_spec.block_size)
    return int(resolve_kv_cache_block_sizes(kv_cache_config, vllm_config)[1])


def block_extra_keys() -> Callable[[Any, int, int], Any] | None:
    """(request, first token, end) -> what goes into that block's hash beside its tokens, as vLLM's events say it, less the
    name of a LoRA adapter: routers take it for an image's and never find the block. It has a field of its own."""
    try:
        from vllm.v1.core import kv_cache_utils
    except ImportError:
        return None
    generate = getattr(kv_cache_utils, "generate_block_hash_extra_keys", None)
    # Before 0.32 the hash took what the events say.
    convert = getattr(kv_cache_utils, "to_event_extra_keys", None)
    if generate is None:
        return None

    def keys(request: Any, first: int, end: int) -> Any:
        found = generate(request, first, end, 0)[0]
        lora = getattr(request, "lora_request", None)
        # The adapter comes first: by its name, or with a tag and its path.
        if found and lora is not None and (found[0] == lora.lora_name or found[0][0] == "lora"):
            found = found[1:]
        if not found:
            return None
        return convert([found])[0] if convert is not None else found

    return keys


class EventTypes(NamedTuple):
    """vLLM's events of KV cache blocks."""

    batch: Any
    removed: Any
    hash_of: Callable[[Any], Any]
    """A block's hash as the engine's own events have it."""


def event_types() -> EventTypes | None:
    """What this vLLM's events are made of, or None if they are not maps, as those of the daemon are."""
    try:
        from vllm.distributed.kv_events import BlockRemoved, BlockStored, KVEventBatch
    except ImportError:
        return None
    if BlockStored.__struct_config__.array_like or BlockRemoved.__struct_config__.array_like:
        return None
    try:
        from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash
    except ImportError:
        return EventTypes(KVEventBatch, BlockRemoved, lambda value: value)
    return EventTypes(KVEventBatch, BlockRemoved, maybe_convert_block_hash)


def served_model_name(vllm_config: Any) -> str:
    """The name that clients, and so routers, call the model by; empty if this vLLM does not say."""
    name = getattr(vllm_config.model_config, "served_model_name", None)
    if isinstance(name, (list, tuple)):
        name = name[0] if name else None
    return str(name) if name else ""


def serving_port(arguments: Sequence[str]) -> int | None:
    """The port of the API server that this command line starts, or None if it does not say."""
    for at, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--port":
            value = value or (arguments[at + 1] if at + 1 < len(arguments) else "")
            return int(value) if value.isdecimal() else None
    serves = "serve" in arguments[1:2] or any("api_server" in argument for argument in arguments[:1])
    # A file may say another port than vLLM's own default.
    return 8000 if serves and not any(argument.startswith("--config") for argument in arguments) else None


def backend_names(vllm_config: Any) -> list[str]:
    """Names of the attention backends of this worker's layers; they decide what the bytes of a page mean."""
    try:
        from vllm.config import get_layers_from_vllm_config
        from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase

        layers = get_layers_from_vllm_config(vllm_config, AttentionLayerBase)
        return sorted({layer.get_attn_backend().full_cls_name()[1] for layer in layers.values()})
    except (ImportError, AttributeError, TypeError):
        return ["unknown"]
