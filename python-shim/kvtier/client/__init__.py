"""A thin binding of libkvtier: sessions, look-ups and leases, copies."""

from . import abi
from .abi import BlockRun
from .completion import Completion, Span
from .copier import After, Copier, CopierInfo, CopyResult, Run
from .errors import (
    DeviceLost,
    KVTierError,
    LibraryNotFound,
    Refused,
    RingFull,
    SessionLost,
    Status,
    TimedOut,
    Unavailable,
)
from .lease import Lease, Lookup
from .session import Group, Session, SessionInfo, TraceContext, TracedRequest, block_run


def library_version() -> str:
    """Version of the loaded library."""
    return abi.library().kvt_library_version().decode()


__all__ = [
    "After",
    "BlockRun",
    "Completion",
    "Copier",
    "CopierInfo",
    "CopyResult",
    "DeviceLost",
    "Group",
    "KVTierError",
    "Lease",
    "LibraryNotFound",
    "Lookup",
    "Refused",
    "RingFull",
    "Run",
    "Session",
    "SessionInfo",
    "SessionLost",
    "Span",
    "Status",
    "TimedOut",
    "TraceContext",
    "TracedRequest",
    "Unavailable",
    "abi",
    "block_run",
    "library_version",
]
