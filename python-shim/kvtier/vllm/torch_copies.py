"""Copies for devices that libkvtier does not know: torch moves pages to and from pinned rows, libkvtier rows to and from slots.

    store   pages ─gather, copy on a stream─▶ rows ─libkvtier─▶ slots
    load    slots ─libkvtier─▶ rows ─copy, scatter on a stream─▶ pages

Each direction has its rows and works on one piece of a batch at a time; `poll` takes it a step further. The device touches the
rows only, never a slot, so a slot is free to be given back whatever becomes of the device.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kvtier.client import Copier, CopyResult, KVTierError, Run, Session, abi
from kvtier.client.errors import Status

from .groups import Unsupported

logger = logging.getLogger("vllm.kvtier")

# Pinned bytes for each direction and group.
STAGING_BYTES = 32 << 20


@dataclass
class Batch:
    """One submitted batch: the transfers that are left, and how it goes."""

    session: Session
    tag: int
    direction: int
    group: int
    transfers: np.ndarray
    bytes: int
    at: int = 0
    failed: bool = False


@dataclass
class Group:
    """Pages as matrices of bytes, a row for each block, and the pinned rows of both directions."""

    pages: list[torch.Tensor]
    rows: torch.Tensor
    count: int
    """Rows of one direction."""


class Lane:
    """One direction."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.queue: deque[Batch] = deque()
        self.event: Any = None
        """The device's part of the piece under way."""
        self.copying: tuple[int, int] | None = None
        """libkvtier's part of it: its tag, and the transfers it ends with."""


class TorchCopies:
    """Moves batches between the pages of any torch device and slots."""

    def __init__(self, tensors: Mapping[str, Any], *, threads: int = 1, module: Any = None) -> None:
        """`module` is torch's module of the device (`torch.xpu`), found by itself if None."""
        self._tensors = list(tensors.values())
        self._device = self._tensors[0].device
        self._module = module or torch.get_device_module(self._device)
        self._copier = Copier(threads=threads)
        self._groups: dict[int, Group] = {}
        self._lanes = {way: Lane(self._module.Stream()) for way in (abi.COPY_LOAD, abi.COPY_STORE)}
        self._next_tag = 0

    def group_set(self, group: int, blocks_per_chunk: int, runs: Sequence[Run]) -> None:
        """Finds the tensors that the runs lie in, and pins rows."""
        pages = [self._matrix(run) for run in runs]
        block_bytes = sum(run.page_bytes for run in runs)
        count = max(1, STAGING_BYTES // block_bytes)
        pin = self._device.type != "cpu"
        rows = torch.empty((2 * count, block_bytes), dtype=torch.uint8, pin_memory=pin)
        self._copier.group_set(group, blocks_per_chunk, [Run(rows.data_ptr(), block_bytes, block_bytes, 2 * count)])
        self._groups[group] = Group(pages, rows, count)

    def _matrix(self, run: Run) -> torch.Tensor:
        for tensor in self._tensors:
            storage = tensor.untyped_storage()
            offset = run.base - storage.data_ptr()
            end = offset + (run.page_count - 1) * run.stride_bytes + run.page_bytes
            if 0 <= offset and end <= storage.nbytes():
                flat = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
                return flat.as_strided((run.page_count, run.page_bytes), (run.stride_bytes, 1), offset)
        raise Unsupported(f"pages at {run.base:#x} lie in no tensor of the KV cache")

    def submit(self, session: Session, tag: int, direction: int, group: int, transfers: bytes) -> None:
        """Queues a batch, after what the engine's stream was given so far."""
        lines = np.frombuffer(transfers, dtype="<u4").reshape(-1, 4)
        rows = self._groups[group].rows
        lane = self._lanes[direction]
        lane.stream.wait_stream(self._module.current_stream())
        lane.queue.append(Batch(session, tag, direction, group, lines, len(lines) * rows.shape[1]))
        self._advance(lane)

    def poll(self) -> list[CopyResult]:
        """Takes every direction as far as it goes; batches that have ended."""
        copied = {result.tag: result.status for result in self._copier.poll()}
        ended: list[CopyResult] = []
        for lane in self._lanes.values():
            if lane.copying and lane.copying[0] in copied:
                self._on_copied(lane, copied[lane.copying[0]])
            if lane.event is not None and lane.event.query():
                self._on_event(lane)
            self._advance(lane)
            while lane.queue and self._is_over(lane):
                batch = lane.queue.popleft()
                status, size = (Status.DEVICE_ERROR, 0) if batch.failed else (Status.OK, batch.bytes)
                ended.append(CopyResult(batch.tag, status, size))
                self._advance(lane)
        return ended

    def _is_over(self, lane: Lane) -> bool:
        batch = lane.queue[0]
        idle = lane.event is None and lane.copying is None
        return idle and (batch.failed or batch.at == len(batch.transfers))

    def _piece(self, batch: Batch) -> tuple[Group, int, int, int]:
        """The group, the first row, and the transfers of the next piece."""
        group = self._groups[batch.group]
        first = 0 if batch.direction == abi.COPY_STORE else group.count
        return group, first, batch.at, min(len(batch.transfers), batch.at + group.count)

    def _advance(self, lane: Lane) -> None:
        """Begins the next piece of the batch in front, if nothing is under way."""
        if not lane.queue or lane.event is not None or lane.copying is not None or self._is_over(lane):
            return
        batch = lane.queue[0]
        try:
            if batch.direction == abi.COPY_STORE:
                self._gather(lane, batch)
            else:
                self._copy(lane, batch)
        except (KVTierError, RuntimeError) as error:
            self._fail(batch, error)

    def _gather(self, lane: Lane, batch: Batch) -> None:
        group, first, start, end = self._piece(batch)
        with self._module.stream(lane.stream):
            blocks = self._blocks(batch, start, end)
            packed = torch.cat([pages.index_select(0, blocks) for pages in group.pages], dim=1)
            group.rows[first : first + end - start].copy_(packed, non_blocking=True)
            lane.event = self._module.Event()
            lane.event.record(lane.stream)

    def _scatter(self, lane: Lane, batch: Batch) -> None:
        group, first, start, end = self._piece(batch)
        with self._module.stream(lane.stream):
            blocks = self._blocks(batch, start, end)
            packed = group.rows[first : first + end - start].to(self._device, non_blocking=True)
            at = 0
            for pages in group.pages:
                pages.index_copy_(0, blocks, packed[:, at : at + pages.shape[1]])
                at += pages.shape[1]
            lane.event = self._module.Event()
            lane.event.record(lane.stream)

    def _blocks(self, batch: Batch, start: int, end: int) -> torch.Tensor:
        return torch.from_numpy(batch.transfers[start:end, 2].astype(np.int64)).to(self._device)

    def _copy(self, lane: Lane, batch: Batch) -> None:
        """libkvtier's part of a piece: between rows and slots."""
        _, first, start, end = self._piece(batch)
        lines = batch.transfers[start:end].copy()
        lines[:, 2] = np.arange(first, first + end - start)
        self._next_tag += 1
        self._copier.submit(batch.session, self._next_tag, batch.direction, batch.group, lines.tobytes())
        lane.copying = (self._next_tag, end)

    def _on_event(self, lane: Lane) -> None:
        lane.event = None
        batch = lane.queue[0]
        if batch.direction == abi.COPY_LOAD:
            batch.at = self._piece(batch)[3]
            return
        try:
            self._copy(lane, batch)
        except KVTierError as error:
            self._fail(batch, error)

    def _on_copied(self, lane: Lane, status: int) -> None:
        assert lane.copying is not None
        (_, end), lane.copying = lane.copying, None
        batch = lane.queue[0]
        if status:
            self._fail(batch, RuntimeError(abi.status_text(status)))
        elif batch.direction == abi.COPY_STORE:
            batch.at = end
        else:
            try:
                self._scatter(lane, batch)
            except RuntimeError as error:
                self._fail(batch, error)

    def _fail(self, batch: Batch, error: Exception) -> None:
        if not batch.failed:
            logger.warning("kvtier: a copy by torch failed: %s", error)
        batch.failed = True

    def attached(self, session: Session) -> None:
        """Slots are never touched by the device."""

    def watch(self) -> None:
        """There is nothing more to say."""

    def close(self) -> None:
        """Waits for both sides."""
        self._copier.close()
        for lane in self._lanes.values():
            lane.stream.synchronize()
