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


class After(NamedTuple):
    """What a copy comes after: an `AFTER_*` and the handle of a stream or an event."""

    kind: int
    handle: int = 0


class CopierInfo(NamedTuple):
    """What a copier knows of its device."""

    device: str
    batched: bool
    lost: bool
    pinning: int
    pinned_bytes: int
    pinning_us: int


class CopyResult(NamedTuple):
    """A finished copy: status 0 and the bytes moved, or why it failed."""

    tag: int
    status: int
    bytes: int


class Copier:
    """Moves batches between device pages and slots; `close` waits for copies under way."""

    RESULTS_MAX = 64

    def __init__(
        self, *, threads: int = 0, backend: int = abi.BACKEND_HOST, device: int = -1, driver: str | None = None
    ) -> None:
        """`threads` are for the host backend. `device` is a CUDA device's number, -1 that of the current context; `driver`
        another library than the system's `libcuda.so.1`."""
        self._lib = abi.library()
        self._handle = ctypes.c_void_p()
        options = abi.CopierOptions(
            struct_bytes=ctypes.sizeof(abi.CopierOptions),
            backend=backend,
            threads=threads,
            device=device,
            driver_path=driver.encode() if driver else None,
        )
        text = ctypes.create_string_buffer(512)
        status = self._lib.kvt_copier_open_with(byref(options), byref(self._handle), text, len(text))
        if status:
            raise error_of(status, text.value.decode(errors="replace"))
        self._results = (abi.RawCopyResult * self.RESULTS_MAX)()
        self._count = ctypes.c_size_t()

    def group_set(self, group: int, blocks_per_chunk: int, runs: Sequence[Run]) -> None:
        """Tells the copier where the device pages of a group lie."""
        array = (abi.PageRun * len(runs))(*runs)
        self._check(self._lib.kvt_copier_group_set(self._handle, group, blocks_per_chunk, array, len(runs)))

    def prepare(self, session: Session) -> None:
        """Has the session's region pinned in the background, where the device wants that."""
        self._check(self._lib.kvt_copier_prepare(self._handle, session.handle))

    def submit(
        self, session: Session, tag: int, direction: int, group: int, transfers: bytes, after: After | None = None
    ) -> None:
        """Checks everything, then copies or queues. `transfers` has 16 bytes each: page, generation, device block,
        block in chunk. A device other than the CPU wants to be told what the copy comes after."""
        count = len(transfers) // abi.TRANSFER_BYTES
        named = (self._handle, session.handle, tag, direction, group, transfers, count)
        if after is None:
            self._check(self._lib.kvt_copy_submit(*named))
        else:
            self._check(self._lib.kvt_copy_submit_after(*named, after.kind, after.handle))

    def info(self) -> CopierInfo:
        """What is known of the device."""
        raw = abi.RawCopierInfo(struct_bytes=ctypes.sizeof(abi.RawCopierInfo))
        self._check(self._lib.kvt_copier_info_get(self._handle, byref(raw)))
        return CopierInfo(
            raw.device.decode(), bool(raw.batched), bool(raw.lost), raw.pinning, raw.pinned_bytes, raw.pinning_us
        )

    def trouble(self) -> str:
        """What the device refused last; empty if nothing."""
        return self._lib.kvt_copier_trouble(self._handle).decode(errors="replace")

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
            said = self._lib.kvt_copier_error(self._handle).decode(errors="replace") if self._handle else ""
            raise error_of(status, f"{abi.status_text(status)} ({said})" if said else abi.status_text(status))
