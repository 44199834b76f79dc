"""The scheduler's half of the connector: vLLM's hooks, joined to look-ups, loads and stores.

No hook waits for the daemon longer than one bounded round trip, and none raises: an unexpected exception switches
kvtier off for the rest of the engine's life (`Guard` in `connector.py`), and the engine goes on without it.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from kvtier.client import Group, Session, abi

from . import compat, namespace, traces
from .config import Config
from .groups import Plan, Unsupported
from .link import Link
from .loads import Loads
from .metadata import FailedLoad, KVTierMetadata, KVTierWorkerMetadata
from .relay import make_relay
from .request import LoadState, LookupState, RequestState
from .stats import Counts, KVTierStats
from .stores import Step, Stores

logger = logging.getLogger("vllm.kvtier")


def pod_name(config: Config) -> str:
    """Where routers find this engine: what the user says, else the pod's address and the port that is served, if both
    are known."""
    if config.pod is not None:
        return config.pod
    address, port = os.environ.get("POD_IP", ""), compat.serving_port(sys.argv)
    if not address or port is None:
        return ""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def open_session(vllm_config: Any, plan: Plan, config: Config) -> Session:
    """The scheduler's session; without a daemon it keeps trying in the background."""
    return Session(
        role=abi.ROLE_SCHEDULER,
        rank_count=vllm_config.parallel_config.world_size,
        engine_group=namespace.engine_group(vllm_config),
        groups=[Group(group.chunk_tokens, group.window_tokens) for group in plan.groups],
        fields=namespace.common_fields(vllm_config, plan),
        socket_path=config.socket,
        tenant=config.tenant,
        engine_name=f"vllm {compat.features().version}",
        reattach=True,
        pod=pod_name(config),
        model=compat.served_model_name(vllm_config) if config.model is None else config.model,
    )


class SchedulerSide:
    """Decides what is loaded and what is stored."""

    def __init__(self, vllm_config: Any, plan: Plan, config: Config, session: Session) -> None:
        transfer = vllm_config.kv_transfer_config
        world_size = vllm_config.parallel_config.world_size
        self._plan, self._config = plan, config
        self._reads, self._writes = transfer.is_kv_consumer, transfer.is_kv_producer
        self.counts = Counts()
        self._link = Link(session)
        self._loads = Loads(self._link, plan, config, self.counts, world_size)
        self._stores = Stores(self._link, plan, config, self.counts, world_size)
        self._requests: dict[str, RequestState] = {}
        self._hash_algorithm = str(vllm_config.cache_config.prefix_caching_hash_algo)
        self._seed_checked = False
        self._was_reset = self._reset_due = False
        self._hit_source = compat.hit_source_host()
        self._handlers = {
            abi.OP_LOOKUP: self._loads.on_lookup,
            abi.OP_LOOKUP_PENDING: self._loads.on_lookup_pending,
            abi.OP_LOAD: self._loads.on_load,
            abi.OP_RESERVE: self._stores.on_reserve,
        }
        self._relay = make_relay(vllm_config, config, self._link)
        if self._relay is not None:
            self._handlers[abi.OP_EVENTS] = self._relay.on_events
        if not transfer.kv_load_failure_policy == "recompute":
            logger.warning(
                'kvtier: set "kv_load_failure_policy":"recompute"; with %r a block that is lost fails its request',
                transfer.kv_load_failure_policy,
            )
        self._refresh()

    def bind_pool(self, pool: Any) -> None:
        """vLLM's block pool has been made."""
        self._stores.bind_pool(pool)

    # Requests

    def on_new_request(self, request: Any) -> None:
        """A request has arrived: ask for its prefix at once."""
        self._refresh()
        state = self._state(request)
        if self._may_read(state) and self._link.ready:
            self._loads.ask(state)

    def matched_tokens(self, request: Any, local_tokens: int) -> int | None:
        """How many tokens can be loaded beyond the local ones; None: ask again."""
        state = self._state(request)
        if not self._may_read(state) or state.load is not None:
            return 0
        self._refresh()
        self._drain()
        if self._link.ready and self._loads.stale(state):
            self._loads.drop_lookup(state)
            state.lookup = LookupState.NONE
        if state.lookup in (LookupState.NONE, LookupState.CONSUMED) and not self._ask_now(state):
            return 0
        return self._loads.matched(state, local_tokens)

    def _ask_now(self, state: RequestState) -> bool:
        """Asks while vLLM is waiting, and waits a moment for the answer: it often costs less than another step."""
        state.lookup, state.deadline = LookupState.NONE, None
        if not self._link.ready:
            self.counts.add("kvtier_lookups", "not_ready", not state.refused)
            state.refused = True
            return False
        if not self._loads.ask(state):
            self.counts.add("kvtier_lookups", "too_many")
            return False
        if state.lookup is LookupState.ASKED and self._config.answer_wait_us:
            self._link.wait(self._config.answer_wait_us)
            self._drain()
        return True

    def allocated(self, request: Any, blocks: Any, external_tokens: int) -> None:
        """vLLM gave the request blocks, and takes this many tokens from here."""
        state = self._state(request)
        if external_tokens > 0:
            self._loads.commit(state, blocks, external_tokens)
        elif state.load is None:
            self._loads.drop_lookup(state)
        if state.lookup is not LookupState.CONSUMED:
            state.lookup = LookupState.CONSUMED
            for group in self._plan.groups:
                found = state.hit_tokens // group.chunk_tokens
                state.next_chunk[group.index] = max(state.next_chunk[group.index], found)

    def hit_sources(self, tokens: int) -> dict[Any, int]:
        """Where loaded tokens came from."""
        return {self._hit_source: tokens} if tokens and self._hit_source is not None else {}

    def finished(self, request: Any) -> None:
        """A request is over, by whatever way."""
        state = self._requests.pop(request.request_id, None)
        if state is not None:
            self._loads.cancel(state)
            state.tables = None
            if state.trace is not None:
                self._link.followed(state.trace.over(state))

    def _state(self, request: Any) -> RequestState:
        state = self._requests.get(request.request_id)
        if state is None:
            self._check_seed()
            state = RequestState(request, request.request_id, next_chunk=[0] * len(self._plan.groups))
            state.store_epoch = self._stores.epoch
            # The tokens of a session that is fed while it runs may still change under their hashes.
            fed = bool(getattr(request, "resumable", False))
            state.loads_allowed, state.stores_allowed = not fed, not fed and self._writes
            if self._link.traces_below is not None:
                state.trace = traces.begin(request, self._link.traces_below)
            self._requests[state.id] = state
        return state

    def _check_seed(self) -> None:
        """vLLM draws its hash seed after this connector is made; the namespace was composed with what it should be."""
        if not self._seed_checked:
            self._seed_checked = True
            if not namespace.engine_hash_seed_matches(self._hash_algorithm):
                raise Unsupported("vLLM's block hashes start from another seed than the namespace says")

    def _may_read(self, state: RequestState) -> bool:
        skip = getattr(state.request, "skip_reading_prefix_cache", False)
        return self._reads and state.loads_allowed and not skip

    # Steps

    def build_meta(self, output: Any) -> KVTierMetadata:
        """One step's orders: grants that have come, and a reserve for what this step computes."""
        self._refresh()
        self._drain()
        for request in output.preempted_req_ids or ():
            if state := self._requests.get(request):
                state.tables = None
        self._reserve(output)
        unanswered = self._loads.unanswered or self._stores.unanswered
        # A step that computes nothing while blocks are on their way would only keep the daemon from its work.
        idle = not output.total_num_scheduled_tokens and self._loads.promoting
        if self._config.answer_wait_us and (unanswered or idle):
            self._link.wait(self._config.answer_wait_us)
            self._drain()
        self._loads.expire()
        self._stores.expire()
        loads, failed = self._loads.take()
        return KVTierMetadata(loads, self._stores.take(), failed)

    def _reserve(self, output: Any) -> None:
        step = Step()
        for new in output.scheduled_new_reqs:
            state = self._requests.get(new.req_id)
            if state is not None and state.stores_allowed:
                state.tables = [list(blocks) for blocks in new.block_ids]
                self._collect(step, state, new.num_computed_tokens, output)
        cached = output.scheduled_cached_reqs
        resumed = cached.resumed_req_ids
        for index, request in enumerate(cached.req_ids):
            state = self._requests.get(request)
            if state is None:
                continue
            if not state.stores_allowed:
                # A table that misses a step's blocks is worth nothing if stores are allowed again.
                state.tables = None
                continue
            blocks = cached.new_block_ids[index]
            if request in resumed:
                state.tables = [list(ids) for ids in blocks or ()] or None
            elif state.tables is not None and blocks:
                for table, ids in zip(state.tables, blocks):
                    table.extend(ids)
            if state.tables is not None:
                self._collect(step, state, cached.num_computed_tokens[index], output)
        self._stores.reserve(step)

    def _collect(self, step: Step, state: RequestState, computed: int, output: Any) -> None:
        if not self._stores.possible or state.store_epoch != self._stores.epoch:
            return
        after = computed + output.num_scheduled_tokens.get(state.id, 0)
        if not self._stores.collect(step, state, computed, after):
            state.tables = None

    def worker_news(self, news: KVTierWorkerMetadata | None) -> None:
        """What the workers finished in a step. Each job is taken out of the news, so that nothing is counted twice if
        they have to be gone through again after an exception."""
        while news is not None and news.finished:
            job, workers = news.finished.popitem()
            failed = job in news.failed
            if not self._stores.on_worker(job, workers, failed):
                self._loads.on_worker(job, workers, failed)

    def pending(self) -> bool:
        """Whether the engine has to keep stepping for us."""
        return self._loads.pending or self._stores.pending

    def reset(self) -> bool:
        """The weights or the cache changed: move to a namespace that nobody has used."""
        self._loads.reset()
        self._stores.reset()
        self._was_reset = self._reset_due = True
        self._refresh()
        return True

    def _send_reset(self) -> None:
        """Tells the daemon of a reset. Until it knows, nothing is looked up or stored."""
        session = self._link.session
        if self._link.ready and self._link.submit(lambda: session.namespace_reset(session.next_tag())):
            self._reset_due = False
        else:
            self._link.ready = False

    @property
    def relays(self) -> bool:
        """Whether there may be events to take."""
        return self._relay is not None

    def take_events(self) -> list[Any]:
        """Events since the last step."""
        if self._relay is None:
            return []
        self._refresh()
        self._drain()
        return self._relay.take()

    def take_stats(self) -> KVTierStats | None:
        """Counts since the last step."""
        return self.counts.take()

    def abandon(self) -> list[FailedLoad]:
        """Lets go of everything but what the workers hold; returns the loads they have to report as failed."""
        self._stores.abandon()
        return self._loads.abandon()

    def close(self) -> None:
        """The engine shuts down."""
        self._link.session.close()

    def _refresh(self) -> None:
        changed = self._link.refresh()
        # A daemon that attached this engine anew knows nothing of an earlier reset.
        self._reset_due |= changed and self._was_reset
        if self._reset_due:
            self._send_reset()
        if changed:
            self.counts.add("kvtier_attachments", "scheduler", bool(self._link.epoch))
            self._loads.on_loss()
            self._stores.on_loss()
            for state in self._requests.values():
                # What was stored is gone with the daemon: a request that still computes stores from its start.
                state.next_chunk = [0] * len(self._plan.groups)
                state.stores_allowed = self._writes and not getattr(state.request, "resumable", False)
        if self._relay is not None:
            self._relay.follow(changed)

    def _drain(self) -> None:
        while (completion := self._link.poll()) is not None:
            handler = self._handlers.get(completion.op)
            if handler is not None:
                handler(completion)


__all__ = ["LoadState", "SchedulerSide", "open_session"]
