"""Copies between device pages and slots. A worker owns a copier; it moves whole batches."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref
from typing import NamedTuple

from . import abi
from .errors import error_of
from .session import Session


class Run(NamedTuple):
    """Pages of one layer: the page of device block `b` lies at `base + b * stride_bytes`."""

    base: int
    stride_bytes: int
    page_bytes: int
    page_count: int


class CopyResult(NamedTuple):
    """A finished copy: status 0 and the bytes moved, or why it failed."""

    tag: int
    status: int
    bytes: int


class Copier:
    """Moves batches between device pages and slots; `close` waits for copies under way."""

    RESULTS_MAX = 64

    def __init__(self, *, threads: int = 0, backend: int = abi.BACKEND_HOST) -> None:
        self._lib = abi.library()
        self._handle = ctypes.c_void_p()
        self._check(self._lib.kvt_copier_open(backend, threads, byref(self._handle)))
        self._results = (abi.RawCopyResult * self.RESULTS_MAX)()
        self._count = ctypes.c_size_t()

    def group_set(self, group: int, blocks_per_chunk: int, runs: Sequence[Run]) -> None:
        """Tells the copier where the device pages of a group lie."""
        array = (abi.PageRun * len(runs))(*runs)
        self._check(self._lib.kvt_copier_group_set(self._handle, group, blocks_per_chunk, array, len(runs)))

    def submit(self, session: Session, tag: int, direction: int, group: int, transfers: bytes) -> None:
        """Checks everything, then copies or queues. `transfers` has 16 bytes each: page, generation, device block,
        block in chunk."""
        count = len(transfers) // abi.TRANSFER_BYTES
        status = self._lib.kvt_copy_submit(self._handle, session.handle, tag, direction, group, transfers, count)
        self._check(status)

    def poll(self) -> list[CopyResult]:
        """Copies that have finished since the last call."""
        finished: list[CopyResult] = []
        while True:
            self._check(self._lib.kvt_copy_poll(self._handle, self._results, self.RESULTS_MAX, byref(self._count)))
            count = self._count.value
            finished.extend(CopyResult(raw.tag, raw.status, raw.bytes) for raw in self._results[:count])
            if count < self.RESULTS_MAX:
                return finished

    def wait(self, timeout_us: int) -> None:
        """Sleeps until a copy has finished or the time is over."""
        status = self._lib.kvt_copy_wait(self._handle, timeout_us)
        if status != 7:
            self._check(status)

    def close(self) -> None:
        """Waits for copies under way. Calling it twice is harmless."""
        handle, self._handle = self._handle, ctypes.c_void_p()
        if handle:
            self._lib.kvt_copier_close(handle)

    def __enter__(self) -> Copier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, status: int) -> None:
        if status:
            raise error_of(status, abi.status_text(status))
