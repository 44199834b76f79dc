"""What the scheduler side knows about one request.

```text
look-up:  NONE ──submit──▶ ASKED ──answer, deadline or loss──▶ ANSWERED ──blocks allocated──▶ CONSUMED
          (ASKED has a later deadline once the daemon says that the answer is pending)
            ▲                                                                                  │
            └────────────────────────── asked again (preempted) ◀──────────────────────────────┘
load:     COMMITTED ──grants──▶ GRANTED ──metadata──▶ SENT ──all workers──▶ over
              └── lost, deadline, abort ──▶ FAILED (reported by the workers in the next step)
```
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from kvtier.client import Span

from .groups import GroupPlan
from .traces import Trace


class LookupState(Enum):
    """Where a request's look-up stands."""

    NONE = "none"
    ASKED = "asked"
    ANSWERED = "answered"
    CONSUMED = "consumed"


class LoadState(Enum):
    """Where a load stands until the workers are done with it."""

    COMMITTED = "committed"
    GRANTED = "granted"
    SENT = "sent"
    FAILED = "failed"


@dataclass(slots=True)
class LoadPart:
    """One group's share of a load: device blocks for the chunks from number `first_chunk` on."""

    group: int
    first_chunk: int
    chunk_count: int
    first_in_chunk: int
    blocks: bytes


@dataclass(slots=True)
class Load:
    """One load from commit to the last worker's news. The job number is the lease's tag."""

    job: int
    owner: RequestState
    attachment: int
    epoch: bytes
    deadline: float
    tokens: int
    parts: list[LoadPart]
    state: LoadState = LoadState.COMMITTED
    slots: bytes = b""
    workers_left: int = 0
    failed: bool = False
    leased: bool = True


@dataclass(slots=True)
class RequestState:
    """One request, from its first hook until it is finished."""

    request: Any
    id: str
    lookup: LookupState = LookupState.NONE
    lookup_tag: int = 0
    deadline: float | None = None
    """Set when vLLM first asks for the answer."""
    pending: bool = False
    """Whether the daemon said that blocks are on their way into host memory, and has not answered yet."""
    answered_at: float = 0.0
    hit_tokens: int = 0
    spans: tuple[Span, ...] = ()
    local_tokens: int = 0
    load: Load | None = None
    refused: bool = False
    """Whether it was counted already that there was nobody to ask."""
    loads_allowed: bool = True
    stores_allowed: bool = True
    tables: list[list[int]] | None = None
    next_chunk: list[int] = field(default_factory=list)
    tokens: array[int] | None = None
    """Those of its prompt as numbers of the machine, once one of its chunks is described."""
    store_epoch: int = 0
    trace: Trace | None = None
    """If it is followed."""

    def hashes(self, group: GroupPlan, hash_tokens: int, first: int, end: int) -> bytes:
        """Keys of chunks [first, end) of a group: a chunk is named by the hash of its last block."""
        stride = group.chunk_tokens // hash_tokens
        if stride == 1 and first == 0 and end == len(self.request.block_hashes):
            return b"".join(self.request.block_hashes)
        return b"".join(self.request.block_hashes[(first + 1) * stride - 1 : end * stride : stride])

    def chunk_hash(self, group: GroupPlan, hash_tokens: int, chunk: int) -> bytes:
        """Key of one chunk."""
        return self.request.block_hashes[(chunk + 1) * (group.chunk_tokens // hash_tokens) - 1]

    def chunks_hashed(self, group: GroupPlan, hash_tokens: int) -> int:
        """Chunks of a group that have a key."""
        return len(self.request.block_hashes) * hash_tokens // group.chunk_tokens
