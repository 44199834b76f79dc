"""A worker's half of the connector: its session, its copier, and the copies of its rank's part.

Loads are copied in `start_load_kv`, stores in `wait_for_save`, after the forward pass that wrote the blocks; where the pages
are a device's, both come after what its stream was given by then (`devices`). What is finished is told once: loads to vLLM (`finished_recving`), loads and stores to the scheduler's half (worker metadata).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvtier.client import Group, KVTierError, RingFull, Session, abi
from kvtier.client.errors import Status

from . import compat, layout, namespace
from .config import Config
from .devices import Copies, open_copies
from .groups import Plan
from .metadata import FailedLoad, KVTierMetadata, KVTierWorkerMetadata, LoadJob, Part, StoreJob
from .stats import Counts, KVTierStats

logger = logging.getLogger("vllm.kvtier")

# A seal with more slots than this is sent in pieces, so that it fits into a worker's request ring.
SEAL_SLOTS_MAX = 8192


@dataclass(slots=True)
class Copying:
    """A job whose copies are under way."""

    order: LoadJob | StoreJob
    copies_left: int
    started: float
    failed: bool = False
    lost: bool = False
    """The device may still be writing into the slots, as far as anybody can know."""


@dataclass(slots=True)
class News:
    """What has finished and was not told yet."""

    loaded: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    bad_blocks: set[int] = field(default_factory=set)
    worker: KVTierWorkerMetadata = field(default_factory=KVTierWorkerMetadata)


class WorkerSide:
    """Copies what the scheduler's half orders."""

    def __init__(self, vllm_config: Any, kv_cache_config: Any, plan: Plan, config: Config) -> None:
        self._vllm_config, self._kv_cache_config = vllm_config, kv_cache_config
        self._plan, self._config = plan, config
        self._by_request = len(plan.groups) > 1
        self.counts = Counts()
        self._session: Session | None = None
        self._copier: Copies | None = None
        self._attachment = 0
        self._copying: dict[int, Copying] = {}
        self._copies: dict[int, int] = {}
        self._next_copy = 0
        self._unsealed: list[tuple[StoreJob, list[bytes]]] = []
        self._news = News()
        self._device_lost = False

    def register(self, tensors: Mapping[str, Any]) -> None:
        """The KV cache has been made: find the pages, open the copier and the session."""
        self.close()
        groups = self._kv_cache_config.kv_cache_groups
        num_blocks = self._kv_cache_config.num_blocks
        copier, sessions, signatures = open_copies(tensors, self._config), [], []
        self._copier = copier
        for plan in self._plan.groups:
            layers = groups[plan.index].layer_names
            runs = layout.page_runs(tensors, layers, num_blocks)
            copier.group_set(plan.index, plan.blocks_per_chunk, runs)
            rank_bytes = plan.blocks_per_chunk * sum(run.page_bytes for run in runs)
            sessions.append(Group(plan.chunk_tokens, plan.window_tokens, rank_bytes))
            signatures.append(layout.page_signature(tensors, layers))
        self._session = self._open(sessions, signatures)
        self.counts.add("kvtier_attachments", "worker", bool(self._session.state()[1]))

    def _open(self, groups: list[Group], signatures: list[str]) -> Session:
        parallel = self._vllm_config.parallel_config
        return Session(
            role=abi.ROLE_WORKER,
            rank=parallel.rank,
            rank_count=parallel.world_size,
            engine_group=namespace.engine_group(self._vllm_config),
            groups=groups,
            fields=namespace.common_fields(self._vllm_config, self._plan),
            rank_fields=namespace.rank_fields(
                self._plan, self._kv_cache_config, signatures, compat.backend_names(self._vllm_config)
            ),
            socket_path=self._config.socket,
            tenant=self._config.tenant,
            engine_name=f"vllm {compat.features().version} worker {parallel.rank}",
            reattach=True,
        )

    # Orders

    def start_loads(self, orders: KVTierMetadata) -> None:
        """Starts the loads of a step."""
        for refused in orders.failed:
            self._tell_failed(refused)
        for order in orders.loads:
            self._start(order, abi.COPY_LOAD)

    def start_stores(self, orders: KVTierMetadata) -> None:
        """Starts the stores of a step. The forward pass that wrote their blocks is over."""
        for order in orders.stores:
            self._start(order, abi.COPY_STORE)

    def _start(self, order: LoadJob | StoreJob, direction: int) -> None:
        copying = Copying(order, 0, time.monotonic())
        self._copying[order.job] = copying
        session, copier = self._session, self._copier
        if session is None or copier is None or session.info().boot_epoch != order.epoch:
            # The slots belong to a daemon that is gone, or to none this worker ever saw.
            copying.failed = True
        for part in () if copying.failed else order.parts:
            self._next_copy += 1
            try:
                assert copier is not None and session is not None
                copier.submit(session, self._next_copy, direction, part.group, self._transfers(part))
            except KVTierError as error:
                logger.warning("kvtier: a copy was refused: %s", error)
                copying.failed = True
                break
            self._copies[self._next_copy] = order.job
            copying.copies_left += 1
        if not copying.copies_left:
            self._finish(copying)

    def _transfers(self, part: Part) -> bytes:
        """One line for each device block: slot, generation, block, place in the chunk."""
        per_chunk = self._plan.groups[part.group].blocks_per_chunk
        blocks = np.frombuffer(part.blocks, dtype="<u4")
        slots = np.frombuffer(part.slots, dtype="<u4").reshape(-1, 2)
        place = np.arange(part.first, part.first + len(blocks))
        transfers = np.empty((len(blocks), 4), dtype="<u4")
        transfers[:, :2] = slots[place // per_chunk]
        transfers[:, 2] = blocks
        transfers[:, 3] = place % per_chunk
        return transfers.tobytes()

    # News

    def collect(self) -> None:
        """Takes note of copies that have finished, and seals stores."""
        if self._copies and self._copier is not None:
            for result in self._copier.poll():
                job = self._copies.pop(result.tag, None)
                if job is not None:
                    self._on_copied(self._copying[job], result.status, result.bytes)
        if self._unsealed:
            waiting, self._unsealed = self._unsealed, []
            for order, pieces in waiting:
                self._seal(order, pieces)
        if self._session is not None:
            self._drain()
        if self._copier is not None:
            self._copier.watch()

    def _on_copied(self, copying: Copying, status: int, size: int) -> None:
        copying.failed |= bool(status)
        copying.lost |= status == Status.DEVICE_LOST
        self._device_lost |= copying.lost
        copying.copies_left -= 1
        direction = "load" if isinstance(copying.order, LoadJob) else "store"
        self.counts.add("kvtier_copy_bytes", direction, size)
        if not copying.copies_left:
            self.counts.add("kvtier_copy_seconds", direction, time.monotonic() - copying.started)
            self._finish(copying)

    def _finish(self, copying: Copying) -> None:
        order = copying.order
        if isinstance(order, LoadJob):
            if copying.failed:
                self._tell_failed(_failed_load(order))
            else:
                self._news.loaded.add(order.request)
            self._tell_job(order.job, copying.failed)
        elif copying.failed:
            # A lost device may write late: its slots stay reserved until the daemon sees this process dead.
            if not copying.lost:
                self._abort(order)
            self._tell_job(order.job, True)
        else:
            slots = b"".join(part.slots for part in order.parts)
            step = SEAL_SLOTS_MAX * abi.SLOT_BYTES
            self._seal(order, [slots[at : at + step] for at in range(0, len(slots), step)])

    def _seal(self, order: StoreJob, pieces: list[bytes]) -> None:
        """Publishes this rank's part; what finds no room in the ring is tried again with the next step."""
        session = self._session
        assert session is not None
        while pieces:
            if session.info().boot_epoch != order.epoch:
                self._tell_job(order.job, True)
                return
            try:
                session.seal(session.next_tag(), pieces[0])
            except RingFull:
                self._unsealed.append((order, pieces))
                return
            except KVTierError as error:
                logger.debug("kvtier: a seal was not sent: %s", error)
                self._tell_job(order.job, True)
                return
            pieces.pop(0)
        self._tell_job(order.job, False)

    def _abort(self, order: StoreJob) -> None:
        session = self._session
        if session is None or session.info().boot_epoch != order.epoch:
            return
        try:
            for part in order.parts:
                session.abort(session.next_tag(), part.slots)
        except KVTierError as error:
            logger.debug("kvtier: reserved slots were not given back: %s", error)

    def _drain(self) -> None:
        """Takes the answers to seals, so that they do not fill the ring; the daemon counts what they say. It is also
        how a session finds out that the daemon is gone, and the look at its state is how it attaches again."""
        session = self._session
        assert session is not None
        try:
            state, attachment = session.state()
            if attachment != self._attachment and state == abi.STATE_READY and self._copier is not None:
                self._attachment = attachment
                self._copier.attached(session)
            while session.poll() is not None:
                pass
        except KVTierError as error:
            logger.debug("kvtier: %s", error)

    def _tell_job(self, job: int, failed: bool) -> None:
        self._copying.pop(job, None)
        self._news.worker.finished[job] = 1
        if failed:
            self._news.worker.failed.add(job)

    def _tell_failed(self, load: FailedLoad) -> None:
        self._news.loaded.add(load.request)
        if self._by_request:
            self._news.failed.add(load.request)
        else:
            self._news.bad_blocks.update(np.frombuffer(load.blocks, dtype="<u4").tolist())

    def take_loaded(self) -> tuple[set[str], set[str]]:
        """Requests whose loads are over, and those among them that failed (told by request)."""
        loaded, failed = self._news.loaded, self._news.failed
        self._news.loaded, self._news.failed = set(), set()
        return loaded, failed

    def take_bad_blocks(self) -> set[int]:
        """Blocks whose load failed (told by block)."""
        bad, self._news.bad_blocks = self._news.bad_blocks, set()
        return bad

    def take_worker_meta(self) -> KVTierWorkerMetadata | None:
        """Jobs that are over."""
        if not self._news.worker.finished:
            return None
        news, self._news.worker = self._news.worker, KVTierWorkerMetadata()
        return news

    def take_stats(self) -> KVTierStats | None:
        """Counts since the last step."""
        return self.counts.take()

    # Ends

    def abandon(self) -> None:
        """The connector is broken: end the copies, report every load as failed and every store as over."""
        self.close()
        for copying in list(self._copying.values()):
            copying.failed = True
            order = copying.order
            if isinstance(order, LoadJob):
                self._tell_failed(_failed_load(order))
            self._tell_job(order.job, True)
        for order, _ in self._unsealed:
            self._tell_job(order.job, True)
        self._copies, self._unsealed = {}, []

    def refuse(self, orders: KVTierMetadata) -> None:
        """Answers a step's orders without copying, where they were not answered yet: loads have failed, stores are
        over."""
        for refused in orders.failed:
            self._tell_failed(refused)
        for order in [*orders.loads, *orders.stores]:
            if order.job in self._news.worker.finished:
                continue
            if isinstance(order, LoadJob):
                self._tell_failed(_failed_load(order))
            self._tell_job(order.job, True)

    def close(self) -> None:
        """Waits for copies under way, then says good-bye. Not if a device was lost under a copy: a good-bye promises that
        nobody touches the slots any more, and only the end of this process does that."""
        copier, self._copier = self._copier, None
        if copier is not None:
            copier.close()
        session, self._session = self._session, None
        if session is not None and not self._device_lost:
            session.close()


def _failed_load(order: LoadJob) -> FailedLoad:
    return FailedLoad(order.request, b"".join(part.blocks for part in order.parts))
