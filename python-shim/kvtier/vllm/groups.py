"""The KV cache groups of a model, as far as kvtier supports them. Anything else fails closed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from vllm.v1 import kv_cache_interface as kv

from . import compat
from .config import Config


class Unsupported(Exception):
    """This model or this configuration is not served; the text says why."""


@dataclass(frozen=True)
class GroupPlan:
    """How one group is cut into chunks."""

    index: int
    block_tokens: int
    blocks_per_chunk: int
    window_tokens: int
    """0 means full attention."""

    @property
    def chunk_tokens(self) -> int:
        """Tokens of a chunk."""
        return self.block_tokens * self.blocks_per_chunk

    def first_live_block(self, computed_tokens: int) -> int:
        """First block that vLLM is bound to keep once so many tokens are computed: those before it have left the
        window and may belong to somebody else."""
        if not self.window_tokens:
            return 0
        return max(0, computed_tokens - self.window_tokens + 1) // self.block_tokens


@dataclass(frozen=True)
class Plan:
    """All groups, and what they have in common."""

    groups: tuple[GroupPlan, ...]
    hash_tokens: int
    align_tokens: int
    """A load starts at a multiple of this."""


def layer_specs(spec: Any) -> list[Any]:
    """The specs of the single layers in a group's spec."""
    nested = getattr(spec, "kv_cache_specs", None)
    return list(nested.values()) if isinstance(nested, dict) else [spec]


def _check_layer(group: int, spec: Any) -> int:
    """The window of a supported layer, 0 for full attention."""
    full = (kv.FullAttentionSpec, kv.MLAAttentionSpec)
    if type(spec) in full:
        window = 0
    elif type(spec) is kv.SlidingWindowSpec:
        if getattr(spec, "extra_retained_tokens", 0):
            raise Unsupported(f"group {group} keeps tokens beyond its window for speculative decoding")
        window = int(spec.sliding_window)
    else:
        raise Unsupported(f"group {group} is a {type(spec).__name__}; only full attention, MLA and sliding window are")
    if getattr(spec, "non_causal", False):
        raise Unsupported(f"group {group} attends to later tokens")
    if getattr(spec, "tokens_per_state", 1) != 1:
        raise Unsupported(f"group {group} compresses several tokens into one state")
    return window


def _check_group(index: int, group: Any) -> int:
    if getattr(group, "is_eagle_group", False):
        raise Unsupported(f"group {index} belongs to a speculative drafter")
    if getattr(group, "host_resident", False) or not getattr(group, "enable_kv_transfer", True):
        raise Unsupported(f"group {index} is not open to KV transfer")
    windows = {_check_layer(index, spec) for spec in layer_specs(group.kv_cache_spec)}
    if len(windows) != 1:
        raise Unsupported(f"group {index} mixes attention windows {sorted(windows)}")
    return windows.pop()


def check_parallel(vllm_config: Any) -> None:
    """Refuses what would need more than one node or a split along the sequence."""
    parallel = vllm_config.parallel_config
    for name in ("decode_context_parallel_size", "prefill_context_parallel_size"):
        if getattr(parallel, name, 1) > 1:
            raise Unsupported(f"{name} is {getattr(parallel, name)}; want 1")
    if getattr(parallel, "nnodes", 1) > 1:
        raise Unsupported("the engine spans several nodes")
    if vllm_config.speculative_config is not None:
        raise Unsupported("speculative decoding is on")


def make_plan(vllm_config: Any, kv_cache_config: Any, config: Config) -> Plan:
    """The plan, or `Unsupported`."""
    problem = compat.version_problem(compat.features().version)
    if problem:
        raise Unsupported(problem)
    check_parallel(vllm_config)
    if not vllm_config.cache_config.enable_prefix_caching:
        # Some backends (MLA on a CPU) have it off because they cannot compute behind a prefix that was not computed in
        # the same pass; a loaded prefix would be ignored without a word.
        raise Unsupported("prefix caching is off")
    if kv_cache_config is None or not kv_cache_config.kv_cache_groups:
        raise Unsupported("the model has no KV cache groups")
    groups = []
    for index, group in enumerate(kv_cache_config.kv_cache_groups):
        window = _check_group(index, group)
        block_tokens = int(group.kv_cache_spec.block_size)
        groups.append(GroupPlan(index, block_tokens, config.blocks_per_chunk, window))
    if len(groups) > 1 and not compat.features().failed_recving:
        raise Unsupported("this vLLM cannot report a failed load of a model with several KV cache groups")
    hash_tokens = compat.resolve_hash_block_size(kv_cache_config, vllm_config)
    for plan in groups:
        if plan.block_tokens % hash_tokens:
            raise Unsupported(f"group {plan.index}: {plan.block_tokens} tokens a block, hashed every {hash_tokens}")
    align = math.lcm(*(plan.block_tokens for plan in groups))
    return Plan(tuple(groups), hash_tokens, align)
