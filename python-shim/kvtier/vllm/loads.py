"""Look-ups and loads of the scheduler side: submit, poll, commit, and every way a load can end."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from kvtier.client import Completion, Status, abi

from .config import Config
from .groups import GroupPlan, Plan
from .link import Link
from .metadata import FailedLoad, LoadJob, Part
from .request import Load, LoadPart, LoadState, LookupState, RequestState
from .stats import Counts

# A look-up with more keys than this would not fit into the request ring.
KEYS_MAX = 200_000
# An answer that is older than this when vLLM first wants it is asked for again, if more could have come meanwhile.
STALE_AFTER_S = 0.25


class Loads:
    """All live look-ups and loads."""

    def __init__(self, link: Link, plan: Plan, config: Config, counts: Counts, world_size: int) -> None:
        self._link, self._plan, self._config, self._counts = link, plan, config, counts
        self._world_size = world_size
        self._lookups: dict[int, RequestState] = {}
        self._loads: dict[int, Load] = {}
        self._granted: list[Load] = []
        self._failed: list[FailedLoad] = []
        self._committed = 0

    # Look-ups

    def ask(self, state: RequestState) -> bool:
        """Submits the look-up of a request if there is anything to ask and room to ask it."""
        if len(self._lookups) >= self._config.lookups_live_max:
            return False
        tokens_max = state.request.num_tokens - 1
        keys = []
        for group in self._plan.groups:
            # A key too many costs nothing: the hit is not longer than `tokens_max`.
            count = min(state.chunks_hashed(group, self._plan.hash_tokens), KEYS_MAX // len(self._plan.groups))
            count = count if tokens_max >= group.chunk_tokens else 0
            keys.append((group.index, state.hashes(group, self._plan.hash_tokens, 0, count)))
        if not all(joined for _, joined in keys):
            self._answer(state, 0)
            return True
        tag = self._link.session.next_tag()
        if state.trace is not None:
            self._link.follow(tag, [state.trace.context()])
        if not self._link.lookup(tag, keys, tokens_max):
            self._counts.add("kvtier_lookups", "not_sent")
            self._answer(state, 0)
            return True
        self._lookups[tag] = state
        state.lookup, state.lookup_tag, state.deadline, state.pending = LookupState.ASKED, tag, None, False
        self._counts.add("kvtier_lookup_tokens", "asked", tokens_max)
        return True

    def matched(self, state: RequestState, local_tokens: int) -> int | None:
        """Tokens beyond the local ones that can be loaded; None while the answer is not there."""
        if state.lookup is LookupState.ASKED:
            now = time.monotonic()
            if state.deadline is None:
                state.deadline = now + self._patience(state)
            if now < state.deadline:
                return None
            self._count_answer(state, "deadline")
            self.drop_lookup(state)
            self._answer(state, 0)
        state.local_tokens, state.deadline = local_tokens, state.deadline or 0.0
        if local_tokens % self._plan.align_tokens:
            return 0
        return max(0, state.hit_tokens - local_tokens)

    def _patience(self, state: RequestState) -> float:
        config = self._config
        return (config.promotion_deadline_ms if state.pending else config.lookup_deadline_ms) / 1000

    def on_lookup_pending(self, completion: Completion) -> None:
        """Blocks of the hit are on their way into host memory: the answer is worth waiting for."""
        state = self._lookups.get(completion.tag)
        if state is None or state.lookup is not LookupState.ASKED or state.pending:
            return
        before = self._patience(state)
        state.pending = True
        if state.deadline is not None:
            state.deadline += self._patience(state) - before

    def on_lookup(self, completion: Completion) -> None:
        """The daemon answered a look-up."""
        state = self._lookups.get(completion.tag)
        if state is None:
            return
        hit = completion.value if completion.status == Status.OK else 0
        if not hit:
            # A miss holds nothing, but the daemon keeps no tag of it either way.
            del self._lookups[completion.tag]
        result = {Status.NOT_READY: "not_ready", Status.QUOTA_EXCEEDED: "quota"}.get(completion.status)
        self._count_answer(state, result or ("hit" if hit else "miss"))
        self._counts.add("kvtier_lookup_tokens", "found", hit)
        self._answer(state, hit)
        state.spans = completion.spans

    def drop_lookup(self, state: RequestState) -> None:
        """Gives up a look-up and what it holds."""
        if state.lookup_tag in self._lookups:
            del self._lookups[state.lookup_tag]
            tag = state.lookup_tag
            self._link.submit(lambda: self._link.session.lookup_release(tag))
        if state.pending:
            self._counts.add("kvtier_lookups_pending", "dropped")
        state.lookup_tag, state.pending = 0, False

    def _count_answer(self, state: RequestState, result: str) -> None:
        self._counts.add("kvtier_lookups", result)
        if state.pending:
            self._counts.add("kvtier_lookups_pending", result)
            state.pending = False

    def stale(self, state: RequestState) -> bool:
        """Whether an answer came long before vLLM wanted it, and more may be cached by now."""
        if state.lookup is not LookupState.ANSWERED or state.deadline is not None or not state.answered_at:
            return False
        longest = min(group.chunk_tokens for group in self._plan.groups)
        more = state.hit_tokens + longest < state.request.num_tokens
        return more and time.monotonic() - state.answered_at > STALE_AFTER_S

    def _answer(self, state: RequestState, hit: int) -> None:
        state.lookup, state.hit_tokens, state.spans = LookupState.ANSWERED, hit, ()
        state.answered_at = time.monotonic()

    # Loads

    def commit(self, state: RequestState, blocks: Any, tokens: int) -> None:
        """Blocks are allocated: turn the holds of the missing chunks into a lease and fill the blocks from it."""
        end = state.local_tokens + tokens
        parts = [part for group in self._plan.groups if (part := self._part(state, group, blocks, end))]
        job, tag = self._link.session.next_tag(), state.lookup_tag
        deadline = time.monotonic() + self._config.commit_deadline_ms / 1000
        load = Load(job, state, self._link.attachment, self._link.epoch, deadline, tokens, parts)
        state.load = load
        self._loads[job] = load
        held = self._lookups.pop(tag, None) is not None
        state.lookup_tag = 0
        spans = [(part.group, part.first_chunk, part.chunk_count) for part in parts]
        fits = held and end <= state.hit_tokens and _within(spans, state.spans)
        if not fits or not self._link.submit(lambda: self._link.session.load_commit(tag, job, spans)):
            if held and not fits:
                self._link.submit(lambda: self._link.session.lookup_release(tag))
            load.leased = False
            self._fail(load, "void" if not fits else "not_sent")
            return
        self._committed += 1

    def _part(self, state: RequestState, group: GroupPlan, blocks: Any, end: int) -> LoadPart | None:
        start = max(state.local_tokens // group.block_tokens, group.first_live_block(end))
        table = blocks.blocks[group.index][start : end // group.block_tokens]
        if not table:
            return None
        per_chunk = group.blocks_per_chunk
        first_chunk, last_chunk = start // per_chunk, (start + len(table) - 1) // per_chunk
        ids = np.fromiter((block.block_id for block in table), dtype="<u4", count=len(table))
        if not ids.all():
            raise ValueError(f"group {group.index} has a hole among the blocks to load")
        return LoadPart(group.index, first_chunk, last_chunk - first_chunk + 1, start % per_chunk, ids.tobytes())

    def on_load(self, completion: Completion) -> None:
        """The daemon granted slots, or lost some of them."""
        load = self._loads.get(completion.tag)
        if load is None or load.state is not LoadState.COMMITTED:
            return
        expected = sum(part.chunk_count for part in load.parts) * abi.SLOT_BYTES
        self._committed -= 1
        if completion.status or completion.value or len(completion.slots) != expected:
            self._fail(load, "lost_block", counted=True)
            return
        load.state, load.slots = LoadState.GRANTED, completion.slots
        self._granted.append(load)

    def cancel(self, state: RequestState) -> None:
        """The request is over. A load that no worker knows of still has to be reported by all of them."""
        self.drop_lookup(state)
        if state.load is not None and state.load.state in (LoadState.COMMITTED, LoadState.GRANTED):
            self._fail(state.load, "aborted")

    def _fail(self, load: Load, cause: str, counted: bool = False) -> None:
        """Gives up a load that was never sent: the workers report it as failed, vLLM computes the tokens."""
        if load.state is LoadState.COMMITTED and not counted and load.leased:
            self._committed -= 1
        if load.state is LoadState.GRANTED:
            self._granted.remove(load)
        load.state, load.failed = LoadState.FAILED, True
        self._distrust(load.owner)
        self._failed.append(_failed_load(load))
        self._counts.add("kvtier_loads", cause)
        self._end(load)

    def _end(self, load: Load) -> None:
        del self._loads[load.job]
        load.owner.load = None
        if load.leased and load.attachment == self._link.attachment and self._link.epoch:
            self._link.submit(lambda: self._link.session.lease_release(load.job))

    def _distrust(self, state: RequestState) -> None:
        """A load failed: the request computes its tokens and never loads again, so it cannot fail for ever; and it
        offers all its chunks, because those it found may be gone."""
        state.loads_allowed = False
        state.next_chunk = [0] * len(self._plan.groups)

    # Steps

    @property
    def unanswered(self) -> bool:
        """Whether a commit waits for its grants."""
        return self._committed > 0

    @property
    def promoting(self) -> bool:
        """Whether a look-up waits for blocks on their way into host memory."""
        return any(state.pending for state in self._lookups.values())

    @property
    def pending(self) -> bool:
        """Whether any load is on its way."""
        return bool(self._loads or self._failed)

    def live_lookups(self) -> int:
        """Look-ups that are asked or hold blocks."""
        return len(self._lookups)

    def expire(self) -> None:
        """Gives up commits that the daemon did not answer in time."""
        if self._committed:
            now = time.monotonic()
            for load in [x for x in self._loads.values() if x.state is LoadState.COMMITTED and now >= x.deadline]:
                self._fail(load, "deadline")

    def take(self) -> tuple[list[LoadJob], list[FailedLoad]]:
        """The orders of this step."""
        jobs = []
        for load in self._granted:
            load.state, load.workers_left = LoadState.SENT, self._world_size
            jobs.append(LoadJob(load.job, load.owner.id, load.epoch, _job_parts(load)))
        self._granted = []
        failed, self._failed = self._failed, []
        return jobs, failed

    def on_worker(self, job: int, workers: int, failed: bool) -> Load | None:
        """News of a load from some workers; the load once all of them have told."""
        load = self._loads.get(job)
        if load is None:
            return None
        load.failed |= failed
        load.workers_left -= workers
        if load.workers_left > 0:
            return None
        if load.failed:
            self._distrust(load.owner)
        self._counts.add("kvtier_loads", "copy_failed" if load.failed else "done")
        if not load.failed:
            self._counts.add("kvtier_loaded_tokens", "host", load.tokens)
            if load.owner.trace is not None:
                load.owner.trace.loaded_tokens += load.tokens
        self._end(load)
        return load

    def on_loss(self) -> None:
        """Every tag is void. Answers that nobody has used yet are asked again; copies under way may finish."""
        for state in self._lookups.values():
            state.lookup, state.lookup_tag = LookupState.NONE, 0
            state.hit_tokens, state.spans = 0, ()
            self._count_answer(state, "lost")
        self._lookups.clear()
        for load in list(self._loads.values()):
            if load.state in (LoadState.COMMITTED, LoadState.GRANTED):
                self._fail(load, "daemon_lost")

    def reset(self) -> None:
        """The cache was reset: answers of the old namespace are worth nothing."""
        for state in list(self._lookups.values()):
            self.drop_lookup(state)
            self._answer(state, 0)

    def abandon(self) -> list[FailedLoad]:
        """The connector is broken: everything that was never sent has to be reported as failed."""
        sent = {load.job: load for load in self._loads.values() if load.state is LoadState.SENT}
        unsent = [load for load in self._loads.values() if load.state in (LoadState.COMMITTED, LoadState.GRANTED)]
        failed = [_failed_load(load) for load in unsent] + self._failed
        self._loads, self._failed, self._granted, self._committed = sent, [], [], 0
        return failed


def _within(spans: list[tuple[int, int, int]], held: tuple[Any, ...]) -> bool:
    """Whether the daemon holds all of these spans: asking for more would end the session."""
    by_group = {span.group: span for span in held}
    for group, first, count in spans:
        span = by_group.get(group)
        if span is None or first < span.first or first + count > span.first + span.count:
            return False
    return True


def _failed_load(load: Load) -> FailedLoad:
    return FailedLoad(load.owner.id, b"".join(part.blocks for part in load.parts))


def _job_parts(load: Load) -> tuple[Part, ...]:
    parts, offset = [], 0
    for part in load.parts:
        end = offset + part.chunk_count * abi.SLOT_BYTES
        parts.append(Part(part.group, load.slots[offset:end], part.blocks, part.first_in_chunk))
        offset = end
    return tuple(parts)
