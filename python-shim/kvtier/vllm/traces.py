"""Traces: which requests are followed, in the sense of W3C Trace Context, and what the daemon is told of them.

Only a daemon that records traces is told anything; without one no request has a trace, and all this costs is a look at that.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvtier.client import TraceContext, TracedRequest

if TYPE_CHECKING:
    from .request import RequestState

# As many as one message may have.
CONTEXTS_MAX = 256
NOBODY, NO_SPAN = bytes(16), bytes(8)
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(slots=True)
class Trace:
    """A request that is followed."""

    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes
    began_ns: int
    loaded_tokens: int = 0

    def context(self, keys: int = 0) -> TraceContext:
        """For a message of this request, or for so many keys of one."""
        return TraceContext(self.trace_id, self.span_id, keys)

    def over(self, state: RequestState) -> TracedRequest:
        """The request is over."""
        return TracedRequest(
            self.trace_id,
            self.span_id,
            self.parent_span_id,
            self.began_ns,
            time.time_ns(),
            state.request.num_prompt_tokens,
            state.hit_tokens,
            self.loaded_tokens,
            state.id,
        )


def begin(request: Any, below: int) -> Trace | None:
    """The trace of a request that has just come: that of whoever sent it, if it says so and records it; else one of its own
    for a part of them, as `below` says."""
    span_id, now = os.urandom(8), time.time_ns()
    found = _parent(getattr(request, "trace_headers", None))
    if found is not None:
        trace_id, parent_span_id, is_sampled = found
        return Trace(trace_id, span_id, parent_span_id, now) if is_sampled else None
    trace_id = os.urandom(16)
    if int.from_bytes(trace_id[8:], "big") >> 1 >= below:
        return None
    return Trace(trace_id, span_id, NO_SPAN, now)


def _parent(headers: Any) -> tuple[bytes, bytes, bool] | None:
    """What a sender says: its trace, its span, and whether it records them; nothing if that makes no sense."""
    text = headers.get("traceparent") if headers else None
    match = _TRACEPARENT.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None or match[1] == "ff" or (match[1] == "00" and match[5]):
        return None
    trace_id, span_id = bytes.fromhex(match[2]), bytes.fromhex(match[3])
    if not any(trace_id) or not any(span_id):
        return None
    return trace_id, span_id, bool(int(match[4], 16) & 1)


def contexts(shares: Iterable[tuple[RequestState, int]]) -> list[TraceContext]:
    """Whose the keys of a message are that belong to several requests, in order; nothing if nobody follows any of them."""
    found: list[TraceContext] = []
    for state, keys in shares:
        context = TraceContext(NOBODY, NO_SPAN, keys) if state.trace is None else state.trace.context(keys)
        if found and found[-1][:2] == context[:2]:
            found[-1] = found[-1]._replace(keys=found[-1].keys + keys)
        else:
            found.append(context)
    del found[CONTEXTS_MAX:]
    return found if any(context.trace_id != NOBODY for context in found) else []
