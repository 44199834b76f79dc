"""Answers of the daemon, copied out of the library's memory."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

from . import abi


class Span(NamedTuple):
    """A run of consecutive blocks of one group, counted in blocks from the start of the sequence."""

    group: int
    first: int
    count: int


class Completion(NamedTuple):
    """The answer to one operation.

    `OP_LOOKUP_PENDING` is none: it says that blocks of the look-up are on their way and the answer takes longer;
    `value` is the longest that the hit can be. Neither is `OP_EVENTS`, which has no tag: `data` is one batch of
    block events, or `value` is 1 because the daemon relays none.

    `slots` holds one grant for each block in order, 8 bytes each: page and generation, little-endian. Page 0 is no
    slot; the generation then holds a `GRANT_*` code.
    """

    tag: int
    op: int
    status: int
    value: int
    value2: int
    value3: int
    spans: tuple[Span, ...]
    slots: bytes
    data: bytes


def copy_completion(raw: abi.RawCompletion) -> Completion:
    """Copies an answer, because its pointers die with the next call."""
    spans = tuple(Span(raw.spans[i].group, raw.spans[i].first, raw.spans[i].count) for i in range(raw.span_count))
    slots = ctypes.string_at(raw.slots, raw.slot_count * abi.SLOT_BYTES) if raw.slot_count else b""
    data = ctypes.string_at(raw.bytes, raw.byte_count) if raw.byte_count else b""
    return Completion(raw.tag, raw.op, raw.status, raw.value, raw.value2, raw.value3, spans, slots, data)
