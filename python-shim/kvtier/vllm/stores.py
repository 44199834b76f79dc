"""Stores of the scheduler side: which chunks are new, where they may go, and the pins on their blocks.

One reserve message a step asks for the new chunks of all requests. Their device blocks are pinned from then on until
every worker has copied and sealed them, or until they turn out not to be wanted. The work of a step is in proportion to
its new chunks, never to the length of the prompts.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvtier.client import BlockRun, Completion, abi

from .config import Config
from .describe import Describer
from .groups import GroupPlan, Plan
from .link import Link
from .metadata import Part, StoreJob
from .request import RequestState
from .stats import Counts
from .traces import contexts

# A reserve with more keys than this would not fit into the request ring; the rest goes with the next step.
KEYS_MAX = 100_000

_DROPPED = {
    abi.GRANT_ALREADY_PRESENT: "present",
    abi.GRANT_FILLING: "filling",
    abi.GRANT_NO_SPACE: "no_space",
    abi.GRANT_DRAINING: "draining",
    abi.GRANT_NOT_READY: "not_ready",
}


@dataclass(slots=True)
class Chunks:
    """Chunks [first, first + count) of one request in one group, and the device blocks that hold them."""

    state: RequestState
    group: GroupPlan
    first: int
    count: int
    blocks: list[int]


@dataclass(slots=True)
class Reserve:
    """A reserve that is not answered yet."""

    deadline: float
    chunks: list[Chunks]
    pins: list[Any]


@dataclass(slots=True)
class Store:
    """A store from grant to the last worker's news. `slots` are given back if no worker is ever told."""

    pins: list[Any]
    parts: tuple[Part, ...]
    epoch: bytes
    chunk_count: int
    workers_left: int = 0
    failed: bool = False


@dataclass(slots=True)
class Step:
    """New chunks that one step found."""

    chunks: list[Chunks] = field(default_factory=list)
    key_count: int = 0


class Stores:
    """All reserves and stores that are under way, and the pins that belong to them."""

    def __init__(self, link: Link, plan: Plan, config: Config, counts: Counts, world_size: int) -> None:
        self._link, self._plan, self._config, self._counts = link, plan, config, counts
        self._world_size = world_size
        self._describer = Describer(plan, config.describe)
        self._pool: Any = None
        self._reserves: dict[int, Reserve] = {}
        self._granted: dict[int, Store] = {}
        self._sent: dict[int, Store] = {}
        self.epoch = 0

    def bind_pool(self, pool: Any) -> None:
        """vLLM's block pool, whose reference counts are the pins."""
        self._pool = pool

    @property
    def possible(self) -> bool:
        """Whether blocks can be pinned and the daemon takes stores."""
        return self._pool is not None and self._link.ready

    @property
    def pending(self) -> bool:
        """Whether anything is pinned."""
        return bool(self._reserves or self._granted or self._sent)

    @property
    def unanswered(self) -> bool:
        """Whether a reserve waits for its grants."""
        return bool(self._reserves)

    # Finding new chunks

    def tokens_to_store(self, state: RequestState) -> int:
        """Tokens of a request that are ever stored; generated ones only if the user wants them."""
        request = state.request
        return request.num_tokens if self._config.store_decode else request.num_prompt_tokens

    def collect(self, step: Step, state: RequestState, computed_before: int, computed_after: int) -> bool:
        """Adds the chunks that this step completes. Says whether the request may have more of them later."""
        limit = self.tokens_to_store(state)
        ready_tokens, more = min(computed_after, limit), self._config.store_decode
        for group in self._plan.groups:
            more |= state.next_chunk[group.index] < limit // group.chunk_tokens
            end = min(ready_tokens // group.chunk_tokens, state.chunks_hashed(group, self._plan.hash_tokens))
            first = state.next_chunk[group.index]
            if first >= end:
                continue
            live = -(-group.first_live_block(computed_before) // group.blocks_per_chunk)
            first = max(first, live)
            end = min(end, first + KEYS_MAX - step.key_count)
            if first < end:
                self._collect_group(step, state, group, first, end)
        return more

    def _collect_group(self, step: Step, state: RequestState, group: GroupPlan, first: int, end: int) -> None:
        per_chunk, tables = group.blocks_per_chunk, state.tables
        assert tables is not None
        blocks = tables[group.index][first * per_chunk : end * per_chunk]
        if group.window_tokens:
            # Blocks that had left the window when the table was made stand in it as block 0.
            gone = -(-blocks.count(0) // per_chunk)
            first, blocks = first + gone, blocks[gone * per_chunk :]
        count = len(blocks) // per_chunk
        state.next_chunk[group.index] = first + count
        if not count:
            return
        if blocks[0] == 0 or len(blocks) != count * per_chunk or first + count != end:
            raise ValueError(f"group {group.index}: the block table does not hold chunks {first} to {end}")
        step.chunks.append(Chunks(state, group, first, count, blocks))
        step.key_count += count

    # Reserving

    def reserve(self, step: Step) -> None:
        """Pins the blocks of a step's new chunks and asks for slots, in one message."""
        if not step.chunks:
            return
        step.chunks.sort(key=lambda chunks: chunks.group.index)
        keys: dict[int, list[bytes]] = defaultdict(list)
        runs: list[BlockRun] = []
        for chunks in step.chunks:
            joined = chunks.state.hashes(
                chunks.group, self._plan.hash_tokens, chunks.first, chunks.first + chunks.count
            )
            keys[chunks.group.index].append(joined)
            runs += self._describer.runs(chunks.state, chunks.group, chunks.first, chunks.count)
        message = [(group, b"".join(parts) if len(parts) > 1 else parts[0]) for group, parts in keys.items()]
        tag = self._link.session.next_tag()
        if self._link.traces_below is not None:
            if whose := contexts((chunks.state, chunks.count) for chunks in step.chunks):
                self._link.follow(tag, whose)
        if not self._link.submit(lambda: self._link.session.reserve(tag, message, runs)):
            # A prompt with a hole is worth nothing behind the hole.
            for chunks in step.chunks:
                chunks.state.stores_allowed = False
            self._counts.add("kvtier_store_blocks", "not_sent", step.key_count)
            return
        table = self._pool.blocks
        pins = [table[block] for chunks in step.chunks for block in chunks.blocks]
        self._pool.touch(pins)
        deadline = time.monotonic() + self._config.commit_deadline_ms / 1000
        self._reserves[tag] = Reserve(deadline, step.chunks, pins)

    def on_reserve(self, completion: Completion) -> None:
        """The daemon answered: one grant for each chunk, in order."""
        grants = np.frombuffer(completion.slots, dtype="<u4").reshape(-1, 2)
        reserve = self._reserves.pop(completion.tag, None)
        if reserve is None or self._void(reserve, len(grants), completion.status):
            # Given up meanwhile: nobody will fill these slots.
            self._link.abort(grants[grants[:, 0] != 0].tobytes())
            if reserve is not None:
                self._unpin(reserve.pins)
                self._counts.add("kvtier_store_blocks", "refused", sum(chunks.count for chunks in reserve.chunks))
            return
        by_group: dict[int, tuple[list[bytes], list[Any]]] = {}
        pins: list[Any] = []
        free: list[Any] = []
        offset = pin = 0
        for chunks in reserve.chunks:
            mine, offset = grants[offset : offset + chunks.count], offset + chunks.count
            held, pin = reserve.pins[pin : pin + len(chunks.blocks)], pin + len(chunks.blocks)
            granted = mine[:, 0] != 0
            if chunks.state.store_epoch != self.epoch:
                self._link.abort(mine[granted].tobytes())
                free.extend(held)
                continue
            blocks = np.array(chunks.blocks, dtype="<u4").reshape(chunks.count, -1)
            if not granted.all():
                self._count_dropped(chunks, mine[~granted, 1])
                kept = np.repeat(granted, chunks.group.blocks_per_chunk)
                free.extend(block for block, keep in zip(held, kept) if not keep)
                held = [block for block, keep in zip(held, kept) if keep]
            if held:
                slots, tables = by_group.setdefault(chunks.group.index, ([], []))
                slots.append(mine[granted].tobytes())
                tables.append(blocks[granted].tobytes())
                pins.extend(held)
        self._unpin(free)
        if pins:
            parts = tuple(Part(group, b"".join(s), b"".join(b), 0) for group, (s, b) in by_group.items())
            count = sum(len(part.slots) for part in parts) // abi.SLOT_BYTES
            self._granted[completion.tag] = Store(pins, parts, self._link.epoch, count)

    def _void(self, reserve: Reserve, grant_count: int, status: int) -> bool:
        return bool(status) or grant_count != sum(chunks.count for chunks in reserve.chunks)

    def _count_dropped(self, chunks: Chunks, codes: Any) -> None:
        for code, count in zip(*np.unique(codes, return_counts=True)):
            self._counts.add("kvtier_store_blocks", _DROPPED.get(int(code), "refused"), int(count))
            if code == abi.GRANT_NOT_READY:
                state = chunks.state
                state.next_chunk[chunks.group.index] = min(state.next_chunk[chunks.group.index], chunks.first)
            elif code in (abi.GRANT_NO_SPACE, abi.GRANT_DRAINING):
                chunks.state.stores_allowed = False

    def _unpin(self, pins: Sequence[Any]) -> None:
        if pins:
            # The tail of a prompt goes first when room is needed, as in vLLM itself.
            self._pool.free_blocks(reversed(pins))

    # Steps

    def take(self) -> list[StoreJob]:
        """The orders of this step."""
        jobs = []
        for job, store in self._granted.items():
            store.workers_left = self._world_size
            jobs.append(StoreJob(job, store.epoch, store.parts))
        self._sent.update(self._granted)
        self._granted = {}
        return jobs

    def on_worker(self, job: int, workers: int, failed: bool) -> bool:
        """News of a store from some workers; whether the job is a store at all."""
        store = self._sent.get(job)
        if store is None:
            return False
        store.failed |= failed
        store.workers_left -= workers
        if store.workers_left <= 0:
            del self._sent[job]
            self._counts.add("kvtier_store_blocks", "failed" if store.failed else "stored", store.chunk_count)
            self._unpin(store.pins)
        return True

    def expire(self) -> None:
        """Gives up reserves that the daemon did not answer in time; a late answer is aborted."""
        if not self._reserves:
            return
        now = time.monotonic()
        for tag in [tag for tag, reserve in self._reserves.items() if now >= reserve.deadline]:
            self._drop(tag, "deadline")

    def _drop(self, tag: int, cause: str) -> None:
        reserve = self._reserves.pop(tag)
        self._unpin(reserve.pins)
        for chunks in reserve.chunks:
            chunks.state.stores_allowed = False
            self._counts.add("kvtier_store_blocks", cause, chunks.count)

    def on_loss(self) -> None:
        """Every tag and slot is void. Stores under way at the workers end there, and are told as always."""
        for tag in list(self._reserves):
            self._drop(tag, "daemon_lost")
        for store in self._granted.values():
            self._unpin(store.pins)
            self._counts.add("kvtier_store_blocks", "daemon_lost", store.chunk_count)
        self._granted = {}

    def reset(self) -> None:
        """The cache was reset: requests that live now store nothing more."""
        self.epoch += 1
        for store in self._granted.values():
            for part in store.parts:
                self._link.abort(part.slots)
            self._unpin(store.pins)
        self._granted = {}

    def abandon(self) -> None:
        """The connector is broken: lets go of every pin that no worker's copy needs."""
        for reserve in self._reserves.values():
            self._unpin(reserve.pins)
        for store in self._granted.values():
            self._unpin(store.pins)
        self._reserves, self._granted = {}, {}
