"""What stored chunks are about, so that the daemon can announce them to a router: their tokens, and what these follow.

It is what vLLM's own events say, once for each new chunk, as runs of chunks that differ in nothing but their tokens. The
tokens of a prompt are made into numbers of the machine once, in one go; nothing else is done for each of them.
"""

from __future__ import annotations

import logging
from array import array
from itertools import groupby
from typing import Any

import msgspec

from kvtier.client import BlockRun, block_run

from . import compat
from .groups import GroupPlan, Plan
from .request import RequestState

logger = logging.getLogger("vllm.kvtier")

# C's unsigned int, which is what the library takes.
TOKEN = "I"


class Describer:
    """Makes runs of chunks; one that is switched off makes runs that say nothing."""

    def __init__(self, plan: Plan, enabled: bool) -> None:
        self._plan, self._enabled = plan, enabled
        self._extra_keys = compat.block_extra_keys() if enabled else None

    def runs(self, state: RequestState, group: GroupPlan, first: int, count: int) -> list[BlockRun]:
        """Runs that cover chunks [first, first + count) of a group. Nothing here may cost a store: what cannot be
        described is stored all the same."""
        if self._enabled:
            try:
                return self._describe(state, group, first, count)
            except Exception:
                self._enabled = False
                logger.exception("kvtier describes no more blocks: routers will not hear of those stored from now on")
        return [block_run(count)]

    def _describe(self, state: RequestState, group: GroupPlan, first: int, count: int) -> list[BlockRun]:
        taken = self._tokens(state, first * group.chunk_tokens, (first + count) * group.chunk_tokens)
        if taken is None:
            return [block_run(count)]
        tokens, begins_at = taken
        lora = getattr(state.request, "lora_request", None)
        name = lora.lora_name.encode() if lora is not None else None
        runs = []
        for cut_first, cut_count, extra_keys in self._cut(state, group, first, count):
            parent = state.chunk_hash(group, self._plan.hash_tokens, cut_first - 1) if cut_first else None
            tokens_at = cut_first * group.chunk_tokens - begins_at
            runs.append(block_run(cut_count, group.chunk_tokens, tokens, tokens_at, parent, name, extra_keys))
        return runs

    def _tokens(self, state: RequestState, start: int, end: int) -> tuple[array[int], int] | None:
        """An array that holds tokens [start, end), and where it begins; None for prompts that are embeddings. It never
        changes, because runs point into it."""
        request = state.request
        if request.prompt_token_ids is None or getattr(request, "prompt_embeds", None) is not None:
            return None
        if end > request.num_prompt_tokens:
            return array(TOKEN, request.all_token_ids[start:end]), start
        if state.tokens is None:
            # The whole prompt at once: a chunk at a time would cost more.
            state.tokens = array(TOKEN, request.prompt_token_ids)
        return state.tokens, 0

    def _cut(
        self, state: RequestState, group: GroupPlan, first: int, count: int
    ) -> list[tuple[int, int, bytes]]:
        """(first chunk, chunks, extra keys) of each run: a new one begins where the extra keys change."""
        request, end = state.request, first + count
        multimodal = getattr(request, "mm_features", None)
        if not multimodal and getattr(request, "cache_salt", None) is None:
            return [(first, count, b"")]
        # Only the first block has the salt, and behind the last input nothing changes any more.
        varied = 1
        if multimodal:
            last = multimodal[-1].mm_position
            varied = (last.offset + last.length) // group.chunk_tokens + 2
        varied = min(max(varied, first), end)
        keys = [(chunk, self._keys_of(request, group, chunk)) for chunk in range(first, varied)]
        cuts = []
        for extra_keys, same in groupby(keys, key=lambda pair: pair[1]):
            chunks = [chunk for chunk, _ in same]
            cuts.append((chunks[0], len(chunks), extra_keys))
        if varied < end:
            cuts.append((varied, end - varied, self._keys_of(request, group, varied)))
        return cuts

    def _keys_of(self, request: Any, group: GroupPlan, chunk: int) -> bytes:
        """What went into the hashes of the chunk's blocks beside their tokens and the adapter: a MessagePack array with an
        entry for each of them, or nothing if there is nothing."""
        if self._extra_keys is None:
            return b""
        first, end = chunk * group.chunk_tokens, (chunk + 1) * group.chunk_tokens
        blocks = range(first, end, group.block_tokens)
        entries = [self._extra_keys(request, block, block + group.block_tokens) for block in blocks]
        return msgspec.msgpack.encode(entries) if any(entries) else b""
