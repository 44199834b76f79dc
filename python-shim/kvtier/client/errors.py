"""Failures of the library as exceptions, one class for each status that a caller may want to tell apart."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Status codes of the C library; codes are appended and never renumbered."""

    OK = 0
    NULL_ARGUMENT = 1
    BAD_ARGUMENT = 2
    SESSION_LOST = 3
    NOT_READY = 4
    REFUSED = 5
    UNAVAILABLE = 6
    TIMEOUT = 7
    RING_FULL = 8
    TOO_LARGE = 9
    VERSION_MISMATCH = 10
    IO = 11
    PANIC = 12
    UNSUPPORTED = 13
    QUOTA_EXCEEDED = 14
    PEER_MISBEHAVED = 15
    DEVICE_ERROR = 16
    DEVICE_LOST = 17


class KVTierError(Exception):
    """A call failed. `status` is the library's code, also where this version does not know it by name."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class SessionLost(KVTierError):
    """The daemon is gone, or its side of the shared memory is not sound; everything is a miss until reattached."""


class Refused(KVTierError):
    """The daemon refused this client; the text says why."""


class Unavailable(KVTierError):
    """No daemon answers at the socket."""


class TimedOut(KVTierError):
    """The time given was not enough."""


class RingFull(KVTierError):
    """Nothing was sent: the ring is full, or the message is larger than the ring."""


class DeviceLost(KVTierError):
    """The device does no more work for this process."""


class LibraryNotFound(ImportError):
    """The shared library is missing, cannot be loaded, or speaks another ABI."""


_CLASSES: dict[int, type[KVTierError]] = {
    Status.SESSION_LOST: SessionLost,
    Status.PEER_MISBEHAVED: SessionLost,
    Status.REFUSED: Refused,
    Status.VERSION_MISMATCH: Refused,
    Status.UNAVAILABLE: Unavailable,
    Status.TIMEOUT: TimedOut,
    Status.RING_FULL: RingFull,
    Status.TOO_LARGE: RingFull,
    Status.DEVICE_LOST: DeviceLost,
}


def error_of(status: int, text: str) -> KVTierError:
    """The exception for a status that is not OK."""
    return _CLASSES.get(status, KVTierError)(status, text)
