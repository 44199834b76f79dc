"""A session with the daemon.

Submits never block and send one message each; answers are polled. A session belongs to one thread at a time. Hashes
travel as one bytes object per group, slots come back as one bytes object: no work is done per key.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import time
from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from ctypes import byref
from typing import Any, NamedTuple

from . import abi
from .completion import Completion, Span, copy_completion
from .errors import KVTierError, TimedOut, Unavailable, error_of
from .lease import Lookup


class Group(NamedTuple):
    """One KV cache group: `window_tokens` 0 means full attention; `rank_bytes` is 0 in a scheduler's view."""

    tokens_per_block: int
    window_tokens: int = 0
    rank_bytes: int = 0


class SessionInfo(NamedTuple):
    """How a session stands. Tags, leases and slots of an earlier `attachment` are void."""

    state: int
    attachment: int
    boot_epoch: bytes
    namespace_id: bytes
    region_bytes: int

    @property
    def ready(self) -> bool:
        """Whether look-ups and stores can succeed."""
        return self.state == abi.STATE_READY


class TraceContext(NamedTuple):
    """Whose consecutive keys of a message are; a trace id of zeroes: nobody's. Of a look-up, which belongs to one request,
    `keys` says nothing."""

    trace_id: bytes
    span_id: bytes
    keys: int = 0


class TracedRequest(NamedTuple):
    """A request that is over. `parent_span_id` is zeroes where it begins its trace."""

    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes
    start_unix_ns: int
    end_unix_ns: int
    prompt_tokens: int
    hit_tokens: int
    loaded_tokens: int
    name: str


class Session:
    """An open session. Use it as a context manager, or call `close`."""

    def __init__(
        self,
        *,
        role: int,
        engine_group: bytes,
        groups: Sequence[Group],
        fields: Mapping[str, bytes],
        rank_fields: Mapping[str, bytes] | None = None,
        rank: int = 0,
        rank_count: int = 1,
        socket_path: str | None = None,
        tenant: str | None = None,
        engine_name: str = "python",
        reattach: bool = False,
        deadline_ms: int = 0,
        request_ring_bytes: int = 0,
        completion_ring_bytes: int = 0,
        pod: str = "",
        model: str = "",
    ) -> None:
        if len(engine_group) != 16:
            raise ValueError(f"engine_group: want 16 bytes, got {len(engine_group)}")
        self._lib = abi.library()
        self._handle = ctypes.c_void_p()
        options = abi.SessionOptions(struct_bytes=ctypes.sizeof(abi.SessionOptions))
        options.socket_path = _encoded(socket_path)
        options.tenant = _encoded(tenant)
        options.engine_name = engine_name.encode()
        options.role, options.rank, options.rank_count = role, rank, rank_count
        options.reattach = abi.REATTACH_BACKGROUND if reattach else abi.REATTACH_NEVER
        options.engine_group[:] = engine_group
        options.fields, options.field_count = _field_array(fields)
        options.rank_fields, options.rank_field_count = _field_array(rank_fields or {})
        options.groups = (abi.GroupSpec * len(groups))(*(_group_spec(group) for group in groups))
        options.group_count = len(groups)
        options.request_ring_bytes, options.completion_ring_bytes = request_ring_bytes, completion_ring_bytes
        options.deadline_ms = deadline_ms
        options.pod, options.model = pod.encode(), model.encode()
        text = ctypes.create_string_buffer(1024)
        status = self._lib.kvt_session_open(byref(options), byref(self._handle), text, len(text))
        if status:
            raise error_of(status, text.value.decode(errors="replace") or abi.status_text(status))
        self.group_count = len(groups)
        self._tags = itertools.count(1)
        self._raw = abi.RawCompletion()
        self._raw_ref = byref(self._raw)
        self._count = ctypes.c_size_t()
        self._count_ref = byref(self._count)
        self._info = abi.RawSessionInfo(struct_bytes=ctypes.sizeof(abi.RawSessionInfo))
        self._info_ref = byref(self._info)
        self._stash: dict[tuple[int, int], Completion] = {}
        # Events that came while an answer was waited for.
        self._events: deque[Completion] = deque()

    # Life

    def close(self) -> None:
        """Says good-bye. Promises that no copy of this session is under way. Calling it twice is harmless."""
        handle, self._handle = self._handle, ctypes.c_void_p()
        if handle:
            self._lib.kvt_session_close(handle)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def handle(self) -> ctypes.c_void_p:
        """The library's pointer, for a copier."""
        return self._handle

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return not self._handle

    def next_tag(self) -> int:
        """A tag that this session has not used."""
        return next(self._tags)

    def state(self) -> tuple[int, int]:
        """(state, attachment): what a hot path asks for. Adopts a finished reattachment."""
        if status := self._lib.kvt_session_info_get(self._handle, self._info_ref):
            self._fail(status)
        return self._info.state, self._info.attachment

    def info(self) -> SessionInfo:
        """Everything there is to know about the attachment. Adopts a finished reattachment."""
        self.state()
        raw = self._info
        return SessionInfo(
            raw.state,
            raw.attachment,
            bytes(raw.boot_epoch),
            bytes(raw.namespace_id),
            raw.region_bytes,
        )

    def group_layout(self, group: int) -> tuple[int, int, int]:
        """(slot bytes, offset of this rank's part, bytes of this rank's part)."""
        raw = abi.RawGroupLayout()
        self._check(self._lib.kvt_session_group_layout(self._handle, group, byref(raw)))
        return raw.slot_bytes, raw.rank_offset, raw.rank_bytes

    def slot_address(self, slot: bytes, group: int) -> tuple[int, int]:
        """(address, bytes) of a slot, bounds checked; a worker sees its own rank's part."""
        address, size = ctypes.c_void_p(), ctypes.c_uint64()
        raw = abi.RawSlot.from_buffer_copy(slot)
        self._check(self._lib.kvt_slot_address(self._handle, raw, group, byref(address), byref(size)))
        return address.value or 0, size.value

    # Submits

    def lookup_submit(self, tag: int, groups: Sequence[tuple[int, bytes]], tokens_max: int) -> None:
        """Asks how long a prefix is cached; `groups` pairs a group with its joined hashes."""
        self._check(self._lib.kvt_lookup_submit(self._handle, tag, _key_array(groups), len(groups), tokens_max))

    def lookup_release(self, tag: int) -> None:
        """Gives up a look-up's holds."""
        self._check(self._lib.kvt_lookup_release(self._handle, tag))

    def load_commit(self, lookup_tag: int, lease_tag: int, spans: Sequence[tuple[int, int, int]]) -> None:
        """Turns the holds on `spans` into a lease and gives up the look-up's other holds."""
        array = (abi.RawSpan * len(spans))(*spans)
        self._check(self._lib.kvt_load_commit(self._handle, lookup_tag, lease_tag, array, len(spans)))

    def lease_release(self, lease_tag: int) -> None:
        """Ends a lease; the slots' bytes must not be touched afterwards."""
        self._check(self._lib.kvt_lease_release(self._handle, lease_tag))

    def reserve(self, tag: int, groups: Sequence[tuple[int, bytes]], runs: Sequence[abi.BlockRun] = ()) -> None:
        """Asks for slots to fill, one for each key. `runs`, made by `block_run`, say what the blocks are about; they
        cover all keys in order, and none has keys of two groups."""
        keys = _key_array(groups)
        if not any(run.tokens_per_block for run in runs):
            self._check(self._lib.kvt_blocks_reserve(self._handle, tag, keys, len(groups)))
            return
        array = (abi.BlockRun * len(runs))(*runs)
        self._check(
            self._lib.kvt_blocks_reserve_described(self._handle, tag, keys, len(groups), array, len(runs))
        )

    def seal(self, tag: int, slots: bytes) -> None:
        """This rank's part of the slots is final."""
        self._check(self._lib.kvt_blocks_seal(self._handle, tag, slots, len(slots) // abi.SLOT_BYTES))

    def abort(self, tag: int, slots: bytes) -> None:
        """Gives reserved slots back."""
        self._check(self._lib.kvt_blocks_abort(self._handle, tag, slots, len(slots) // abi.SLOT_BYTES))

    def namespace_reset(self, tag: int) -> None:
        """Moves this engine to a namespace that nobody has used."""
        self._check(self._lib.kvt_namespace_reset(self._handle, tag))

    def counters_request(self, tag: int) -> None:
        """Asks for the daemon's counters."""
        self._check(self._lib.kvt_counters_request(self._handle, tag))

    def events_request(self, credit: int) -> None:
        """Asks for block events, and for so many messages of them more; they come as `OP_EVENTS`. At most 8 can be under
        way. A new attachment has to be asked anew."""
        self._check(self._lib.kvt_events_request(self._handle, credit))

    # Traces

    def traces_below(self) -> int | None:
        """None: the daemon records no traces, and nothing has to be said for them. Else a request that comes without a
        trace is to be followed if the last eight bytes of its new trace id, shifted right by one, are below this. Belongs
        to one attachment."""
        raw = abi.RawTraces(struct_bytes=ctypes.sizeof(abi.RawTraces))
        self._check(self._lib.kvt_traces_get(self._handle, byref(raw)))
        return raw.sample_below if raw.recording else None

    def trace_next(self, tag: int, contexts: Sequence[TraceContext]) -> None:
        """Says whose the keys of the next message are, in order: a look-up or a reservation with this tag."""
        array = (abi.RawTraceContext * len(contexts))()
        for raw, context in zip(array, contexts):
            raw.trace_id[:], raw.span_id[:], raw.key_count = context.trace_id, context.span_id, context.keys
        self._check(self._lib.kvt_trace_next(self._handle, tag, array, len(contexts)))

    def trace_request(self, request: TracedRequest) -> None:
        """Says that a request that was followed is over."""
        raw = abi.RawTracedRequest(struct_bytes=ctypes.sizeof(abi.RawTracedRequest))
        raw.trace_id[:], raw.span_id[:], raw.parent_span_id[:] = (
            request.trace_id,
            request.span_id,
            request.parent_span_id,
        )
        raw.start_unix_ns, raw.end_unix_ns = request.start_unix_ns, request.end_unix_ns
        raw.prompt_tokens, raw.hit_tokens = request.prompt_tokens, request.hit_tokens
        raw.loaded_tokens = request.loaded_tokens
        raw.name = request.name.encode()[:256].decode(errors="ignore").encode()
        self._check(self._lib.kvt_trace_request(self._handle, byref(raw)))

    # Answers

    def poll(self) -> Completion | None:
        """The next answer, or nothing. Reads memory only."""
        return self._events.popleft() if self._events else self._poll()

    def _poll(self) -> Completion | None:
        if status := self._lib.kvt_session_poll(self._handle, self._raw_ref, self._count_ref):
            self._fail(status)
        return copy_completion(self._raw) if self._count.value else None

    def wait(self, timeout_us: int) -> None:
        """Sleeps until an answer is there, the state changes, or the time is over."""
        status = self._lib.kvt_session_wait(self._handle, timeout_us)
        if status and status != 7:
            self._fail(status)

    def wait_for(self, op: int, tag: int, timeout: float = 5.0) -> Completion:
        """Waits for one answer and keeps the others for later calls."""
        until = time.monotonic() + timeout
        attachment = self.state()[1]
        while (op, tag) not in self._stash:
            completion = self._poll()
            if completion is not None:
                if completion.op == abi.OP_EVENTS:
                    self._events.append(completion)
                else:
                    self._stash[completion.op, completion.tag] = completion
                continue
            left = until - time.monotonic()
            state, now = self.state()
            if now != attachment or state == abi.STATE_LOST:
                raise error_of(3, "the daemon went away before it answered")
            if left <= 0:
                raise TimedOut(7, f"operation {op} was not answered within {timeout} s")
            self.wait(min(int(left * 1e6) + 1, 100_000))
        return self._stash.pop((op, tag))

    def wait_ready(self, timeout: float = 5.0) -> SessionInfo:
        """Waits until all ranks of the engine have attached."""
        until = time.monotonic() + timeout
        while not (info := self.info()).ready:
            left = until - time.monotonic()
            if left <= 0:
                raise TimedOut(7, f"the session is not ready after {timeout} s (state {info.state})")
            self.wait(min(int(left * 1e6) + 1, 50_000))
        return info

    # For people

    def lookup(self, groups: Sequence[tuple[int, bytes]], tokens_max: int, timeout: float = 5.0) -> Lookup:
        """A look-up that has been answered; leaving its `with` block gives up the holds. The answer takes longer if
        blocks have to come from a slower tier first, but not longer than the daemon's promotion deadline."""
        tag = self.next_tag()
        self.lookup_submit(tag, groups, tokens_max)
        try:
            answer = self.wait_for(abi.OP_LOOKUP, tag, timeout)
        except TimedOut:
            self.lookup_release(tag)
            raise
        finally:
            pending = self._stash.pop((abi.OP_LOOKUP_PENDING, tag), None)
        if answer.status:
            raise error_of(answer.status, abi.status_text(answer.status))
        return Lookup(self, tag, answer.value, answer.spans, pending is not None)

    def reserve_now(self, groups: Sequence[tuple[int, bytes]], timeout: float = 5.0) -> bytes:
        """Reserves and waits: one grant of 8 bytes for each key, page first.

        Page 0 means that there is no slot; the other four bytes then say why (`abi.GRANT_*`): the block is there
        already, somebody else is filling it, or there is no room.
        """
        tag = self.next_tag()
        self.reserve(tag, groups)
        return self.wait_for(abi.OP_RESERVE, tag, timeout).slots

    def seal_now(self, slots: bytes, timeout: float = 5.0) -> Completion:
        """Seals and waits for the answer."""
        tag = self.next_tag()
        self.seal(tag, slots)
        return self.wait_for(abi.OP_SEAL, tag, timeout)

    def counters(self, timeout: float = 5.0) -> dict[str, Any]:
        """The daemon's counters."""
        tag = self.next_tag()
        self.counters_request(tag)
        return json.loads(self.wait_for(abi.OP_COUNTERS, tag, timeout).data)

    def _check(self, status: int) -> None:
        if status:
            self._fail(status)

    def _fail(self, status: int) -> None:
        if not self._handle:
            raise error_of(3, "the session is closed")
        text = self._lib.kvt_session_error(self._handle) or b""
        raise error_of(status, f"{abi.status_text(status)} {text.decode(errors='replace')}".strip())


def block_run(
    blocks: int,
    tokens_per_block: int = 0,
    tokens: array[int] | None = None,
    tokens_at: int = 0,
    parent: bytes | None = None,
    lora_name: bytes | None = None,
    extra_keys: bytes = b"",
) -> abi.BlockRun:
    """What consecutive new blocks of one sequence are about; without tokens: nothing is said of them.

    The tokens of all blocks lie in an `array("I")` from `tokens_at` on; `parent` is the hash of the block before the
    first one; `extra_keys` is one MessagePack array with an entry for each of the engine's own blocks in a block. The run
    keeps all of them alive; the array must not change its length while it is in use.
    """
    if tokens is None or not tokens_per_block:
        return abi.BlockRun(blocks)
    if tokens.itemsize != 4 or not 0 <= tokens_at <= len(tokens) - blocks * tokens_per_block:
        raise ValueError(f"want {blocks} x {tokens_per_block} tokens of 4 bytes from {tokens_at} on, got {len(tokens)}")
    if parent is not None and len(parent) != abi.HASH_BYTES:
        raise ValueError(f"parent: want {abi.HASH_BYTES} bytes, got {len(parent)}")
    address = tokens.buffer_info()[0] + 4 * tokens_at
    run = abi.BlockRun(blocks, tokens_per_block, parent, address, lora_name, extra_keys or None, len(extra_keys))
    run.kept = tokens
    return run


def _encoded(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _field_array(fields: Mapping[str, bytes]) -> tuple[Any, int]:
    items = [abi.Field(tag.encode(), value, len(value)) for tag, value in sorted(fields.items())]
    return (abi.Field * len(items))(*items), len(items)


def _group_spec(group: Group) -> abi.GroupSpec:
    kind = abi.ATTENTION_SLIDING_WINDOW if group.window_tokens else abi.ATTENTION_FULL
    return abi.GroupSpec(kind, group.tokens_per_block, group.window_tokens, 0, group.rank_bytes)


def _key_array(groups: Sequence[tuple[int, bytes]]) -> Any:
    return (abi.GroupKeys * len(groups))(
        *((group, 0, hashes, len(hashes) // abi.HASH_BYTES) for group, hashes in groups)
    )


__all__ = [
    "Group",
    "KVTierError",
    "Session",
    "SessionInfo",
    "Span",
    "TraceContext",
    "TracedRequest",
    "Unavailable",
    "block_run",
]
