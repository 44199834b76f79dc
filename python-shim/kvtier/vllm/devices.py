"""How the pages of the KV cache are reached, chosen by where its tensors lie.

    host memory     libkvtier copies with the CPU
    CUDA            libkvtier has the device copy, by the CUDA driver
    anything else   torch copies to and from pinned memory, libkvtier from there to the slots (`torch_copies`)
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from kvtier.client import After, Copier, CopyResult, KVTierError, Run, Session, abi

from .config import Config
from .groups import Unsupported

logger = logging.getLogger("vllm.kvtier")


class Copies(Protocol):
    """What a worker needs of whoever moves bytes between pages and slots."""

    def group_set(self, group: int, blocks_per_chunk: int, runs: Sequence[Run]) -> None:
        """Where the pages of a group lie."""

    def submit(self, session: Session, tag: int, direction: int, group: int, transfers: bytes) -> None:
        """Copies a batch, after what the engine has given to its stream so far."""

    def poll(self) -> list[CopyResult]:
        """What has ended since the last call."""

    def attached(self, session: Session) -> None:
        """The session has a region that was not there before."""

    def watch(self) -> None:
        """Says in the log, once each, what an operator should know."""

    def close(self) -> None:
        """Waits for copies under way."""


class HostCopies(Copier):
    """Pages in host memory."""

    def attached(self, session: Session) -> None:
        """The CPU needs nothing."""

    def watch(self) -> None:
        """There is nothing to say."""


class CudaCopies:
    """Pages on a CUDA device. Batches come after what torch's current stream was given before."""

    def __init__(self, device: int, *, driver: str | None = None, stream: Any = None) -> None:
        """`stream` says the handle of the engine's stream, if not torch."""
        self._stream = stream or _current_stream(device)
        self._copier = Copier(backend=abi.BACKEND_CUDA, device=device, driver=driver)
        self._pinning_told = self._lost_told = self._failed = False
        self.group_set, self.close = self._copier.group_set, self._copier.close

    def submit(self, session: Session, tag: int, direction: int, group: int, transfers: bytes) -> None:
        """Notes the point in the engine's stream and queues the batch."""
        after = After(abi.AFTER_STREAM, self._stream())
        try:
            self._copier.submit(session, tag, direction, group, transfers, after)
        except KVTierError:
            self._failed = True
            raise

    def poll(self) -> list[CopyResult]:
        """Asks the device which batches are over."""
        ended = self._copier.poll()
        self._failed |= any(result.status for result in ended)
        return ended

    def attached(self, session: Session) -> None:
        """Has the region pinned, so that the first copies need no detour."""
        self._pinning_told = False
        try:
            self._copier.prepare(session)
        except KVTierError as error:
            logger.debug("kvtier: the region is not pinned yet: %s", error)

    def watch(self) -> None:
        """How pinning ended, and that the device is lost."""
        if self._pinning_told and not self._failed:
            return
        self._failed = False
        info = self._copier.info()
        if info.pinning == abi.PINNING_DONE and not self._pinning_told:
            self._pinning_told = True
            seconds = info.pinning_us / 1e6
            logger.info("kvtier: %d MiB are pinned for %s, in %.1f s", info.pinned_bytes >> 20, info.device, seconds)
        elif info.pinning == abi.PINNING_FAILED and not self._pinning_told:
            self._pinning_told = True
            logger.warning("kvtier: copies go through a buffer and are slower: %s", self._copier.trouble())
        if info.lost and not self._lost_told:
            self._lost_told = True
            logger.error("kvtier: the device is lost, nothing is copied any more: %s", self._copier.trouble())


def _current_stream(device: int) -> Any:
    import torch

    return lambda: torch.cuda.current_stream(device).cuda_stream


def device_of(tensors: Mapping[str, Any]) -> tuple[str, int]:
    """Type and number of the one device that all tensors lie on; -1 where it has no number."""
    devices = {}
    for layer, tensor in tensors.items():
        device = getattr(tensor, "device", None)
        devices[str(getattr(device, "type", "unknown")), getattr(device, "index", None)] = layer
    if len(devices) != 1:
        where = ", ".join(f"{layer} on {kind}:{index}" for (kind, index), layer in devices.items())
        raise Unsupported(f"the KV cache lies on several devices ({where})" if where else "there is no KV cache")
    ((kind, index),) = devices
    return kind, -1 if index is None else int(index)


def open_copies(tensors: Mapping[str, Any], config: Config) -> Copies:
    """Whoever copies for these tensors, or `Unsupported`."""
    kind, index = device_of(tensors)
    if kind == "cpu":
        return HostCopies(threads=config.copy_threads)
    if kind in ("meta", "unknown"):
        raise Unsupported(f"the KV cache lies on device {kind!r}, which no copier serves")
    if config.device_copies == "off":
        raise Unsupported(
            f"the KV cache lies on device {kind!r} and device_copies is off: copies there were tested on a stand-in, not on a "
            'device yet; "device_copies": "auto" tries them'
        )
    if kind == "cuda" and not _is_rocm() and config.device_copies == "auto":
        logger.warning("kvtier: copies by CUDA are new: this version was tested on a stand-in for the driver, not on a GPU")
        return CudaCopies(index)
    from .torch_copies import TorchCopies

    logger.warning("kvtier: copies on %s go through torch; nobody has measured them", kind)
    return TorchCopies(tensors, threads=max(1, config.copy_threads))


def _is_rocm() -> bool:
    import torch

    return torch.version.hip is not None
