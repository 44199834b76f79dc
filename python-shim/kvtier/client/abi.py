"""The C ABI as ctypes sees it: structures, constants and argument types, declared once.

The structures mirror `kvtier.h`. Nothing here keeps state but the loaded library itself.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, Structure, c_char, c_char_p, c_int32, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
from functools import lru_cache
from pathlib import Path

from .errors import LibraryNotFound

ABI_VERSION = 1

ROLE_SCHEDULER, ROLE_WORKER, ROLE_OBSERVER = 0, 1, 2
ATTENTION_FULL, ATTENTION_SLIDING_WINDOW = 0, 1
REATTACH_NEVER, REATTACH_BACKGROUND = 0, 1
STATE_LOST, STATE_WAITING, STATE_READY, STATE_DRAINING = 0, 1, 2, 3
GRANT_ALREADY_PRESENT, GRANT_FILLING, GRANT_NO_SPACE, GRANT_DRAINING, GRANT_NOT_READY, GRANT_LOST = 1, 2, 3, 4, 5, 6
OP_LOOKUP, OP_LOAD, OP_RESERVE, OP_SEAL, OP_ABORT, OP_RESET, OP_COUNTERS = 1, 2, 3, 4, 5, 6, 7
OP_LOOKUP_PENDING = 8
OP_EVENTS = 9
BACKEND_HOST, BACKEND_CUDA = 0, 1
AFTER_NOTHING, AFTER_STREAM, AFTER_EVENT = 0, 1, 2
PINNING_NONE, PINNING_UNDER_WAY, PINNING_DONE, PINNING_FAILED = 0, 1, 2, 3
COPY_STORE, COPY_LOAD = 0, 1

HASH_BYTES = 32
SLOT_BYTES = 8
TRANSFER_BYTES = 16


class Field(Structure):
    """`kvt_field`"""

    _fields_ = [("tag", c_char_p), ("value", c_char_p), ("value_bytes", c_size_t)]


class GroupSpec(Structure):
    """`kvt_group_spec`"""

    _fields_ = [
        ("kind", c_uint32),
        ("tokens_per_block", c_uint32),
        ("window_tokens", c_uint32),
        ("reserved", c_uint32),
        ("rank_bytes", c_uint64),
    ]


class SessionOptions(Structure):
    """`kvt_session_options`"""

    _fields_ = [
        ("struct_bytes", c_size_t),
        ("socket_path", c_char_p),
        ("tenant", c_char_p),
        ("engine_name", c_char_p),
        ("role", c_uint32),
        ("rank", c_uint32),
        ("rank_count", c_uint32),
        ("reattach", c_uint32),
        ("engine_group", c_uint8 * 16),
        ("fields", POINTER(Field)),
        ("field_count", c_size_t),
        ("rank_fields", POINTER(Field)),
        ("rank_field_count", c_size_t),
        ("groups", POINTER(GroupSpec)),
        ("group_count", c_size_t),
        ("request_ring_bytes", c_uint64),
        ("completion_ring_bytes", c_uint64),
        ("deadline_ms", c_uint32),
        ("reserved", c_uint32),
        ("pod", c_char_p),
        ("model", c_char_p),
    ]


class RawSessionInfo(Structure):
    """`kvt_session_info`"""

    _fields_ = [
        ("struct_bytes", c_size_t),
        ("state", c_uint32),
        ("group_count", c_uint32),
        ("attachment", c_uint64),
        ("boot_epoch", c_uint8 * 16),
        ("namespace_id", c_uint8 * 16),
        ("region_bytes", c_uint64),
    ]


class RawGroupLayout(Structure):
    """`kvt_group_layout`"""

    _fields_ = [("slot_bytes", c_uint64), ("rank_offset", c_uint64), ("rank_bytes", c_uint64)]


class GroupKeys(Structure):
    """`kvt_group_keys`; `hashes` points into a bytes object that the caller keeps alive."""

    _fields_ = [("group", c_uint32), ("reserved", c_uint32), ("hashes", c_char_p), ("hash_count", c_size_t)]


class BlockRun(Structure):
    """`kvt_run`; what it points to is kept alive by whoever made it."""

    _fields_ = [
        ("blocks", c_uint32),
        ("tokens_per_block", c_uint32),
        ("parent", c_char_p),
        ("tokens", c_void_p),
        ("lora_name", c_char_p),
        ("extra_keys", c_char_p),
        ("extra_bytes", c_size_t),
    ]


class RawSpan(Structure):
    """`kvt_span`"""

    _fields_ = [("group", c_uint32), ("first", c_uint32), ("count", c_uint32)]


class RawSlot(Structure):
    """`kvt_slot`"""

    _fields_ = [("page", c_uint32), ("generation", c_uint32)]


class RawTraces(Structure):
    """`kvt_traces`"""

    _fields_ = [
        ("struct_bytes", c_size_t),
        ("recording", c_uint32),
        ("reserved", c_uint32),
        ("sample_below", c_uint64),
    ]


class RawTraceContext(Structure):
    """`kvt_trace_context`"""

    _fields_ = [
        ("trace_id", c_uint8 * 16),
        ("span_id", c_uint8 * 8),
        ("key_count", c_uint32),
        ("reserved", c_uint32),
    ]


class RawTracedRequest(Structure):
    """`kvt_traced_request`"""

    _fields_ = [
        ("struct_bytes", c_size_t),
        ("trace_id", c_uint8 * 16),
        ("span_id", c_uint8 * 8),
        ("parent_span_id", c_uint8 * 8),
        ("start_unix_ns", c_uint64),
        ("end_unix_ns", c_uint64),
        ("prompt_tokens", c_uint64),
        ("hit_tokens", c_uint64),
        ("loaded_tokens", c_uint64),
        ("name", c_char_p),
    ]


class RawCompletion(Structure):
    """`kvt_completion`"""

    _fields_ = [
        ("tag", c_uint64),
        ("op", c_uint32),
        ("status", c_int32),
        ("value", c_uint64),
        ("value2", c_uint64),
        ("value3", c_uint64),
        ("spans", POINTER(RawSpan)),
        ("span_count", c_size_t),
        ("slots", c_void_p),
        ("slot_count", c_size_t),
        ("bytes", c_void_p),
        ("byte_count", c_size_t),
    ]


class PageRun(Structure):
    """`kvt_page_run`"""

    _fields_ = [("base", c_void_p), ("stride_bytes", c_uint64), ("page_bytes", c_uint64), ("page_count", c_uint64)]


class RawCopyResult(Structure):
    """`kvt_copy_result`"""

    _fields_ = [("tag", c_uint64), ("status", c_int32), ("reserved", c_uint32), ("bytes", c_uint64)]


class CopierOptions(Structure):
    """`kvt_copier_options`"""

    _fields_ = [
        ("struct_bytes", c_size_t),
        ("backend", c_uint32),
        ("threads", c_uint32),
        ("device", c_int32),
        ("flags", c_uint32),
        ("driver_path", c_char_p),
        ("pin_piece_bytes", c_uint64),
        ("bounce_bytes", c_uint64),
    ]


class RawCopierInfo(Structure):
    """`kvt_copier_info`"""

    _fields_ = [
        ("struct_bytes", c_size_t),
        ("pinning", c_uint32),
        ("batched", c_uint32),
        ("lost", c_uint32),
        ("reserved", c_uint32),
        ("pinned_bytes", c_uint64),
        ("pinning_us", c_uint64),
        ("device", c_char * 64),
    ]


_S, _C = c_void_p, c_void_p
_SIGNATURES: dict[str, tuple[list[object], object]] = {
    "kvt_status_name": ([c_int32], c_char_p),
    "kvt_status_text": ([c_int32], c_char_p),
    "kvt_abi_version": ([], c_uint32),
    "kvt_library_version": ([], c_char_p),
    "kvt_session_open": ([POINTER(SessionOptions), POINTER(c_void_p), c_char_p, c_size_t], c_int32),
    "kvt_session_close": ([_S], c_int32),
    "kvt_session_info_get": ([_S, POINTER(RawSessionInfo)], c_int32),
    "kvt_session_error": ([_S], c_char_p),
    "kvt_session_group_layout": ([_S, c_uint32, POINTER(RawGroupLayout)], c_int32),
    "kvt_lookup_submit": ([_S, c_uint64, POINTER(GroupKeys), c_size_t, c_uint64], c_int32),
    "kvt_lookup_release": ([_S, c_uint64], c_int32),
    "kvt_load_commit": ([_S, c_uint64, c_uint64, POINTER(RawSpan), c_size_t], c_int32),
    "kvt_lease_release": ([_S, c_uint64], c_int32),
    "kvt_blocks_reserve": ([_S, c_uint64, POINTER(GroupKeys), c_size_t], c_int32),
    "kvt_blocks_reserve_described": (
        [_S, c_uint64, POINTER(GroupKeys), c_size_t, POINTER(BlockRun), c_size_t],
        c_int32,
    ),
    "kvt_blocks_seal": ([_S, c_uint64, c_char_p, c_size_t], c_int32),
    "kvt_blocks_abort": ([_S, c_uint64, c_char_p, c_size_t], c_int32),
    "kvt_namespace_reset": ([_S, c_uint64], c_int32),
    "kvt_counters_request": ([_S, c_uint64], c_int32),
    "kvt_events_request": ([_S, c_uint32], c_int32),
    "kvt_traces_get": ([_S, POINTER(RawTraces)], c_int32),
    "kvt_trace_next": ([_S, c_uint64, POINTER(RawTraceContext), c_size_t], c_int32),
    "kvt_trace_request": ([_S, POINTER(RawTracedRequest)], c_int32),
    "kvt_session_poll": ([_S, POINTER(RawCompletion), POINTER(c_size_t)], c_int32),
    "kvt_session_wait": ([_S, c_uint64], c_int32),
    "kvt_slot_address": ([_S, RawSlot, c_uint32, POINTER(c_void_p), POINTER(c_uint64)], c_int32),
    "kvt_copier_open": ([c_uint32, c_uint32, POINTER(c_void_p)], c_int32),
    "kvt_copier_open_with": ([POINTER(CopierOptions), POINTER(c_void_p), c_char_p, c_size_t], c_int32),
    "kvt_copier_close": ([_C], c_int32),
    "kvt_copier_prepare": ([_C, _S], c_int32),
    "kvt_copier_info_get": ([_C, POINTER(RawCopierInfo)], c_int32),
    "kvt_copier_trouble": ([_C], c_char_p),
    "kvt_copier_error": ([_C], c_char_p),
    "kvt_copier_group_set": ([_C, c_uint32, c_uint32, POINTER(PageRun), c_size_t], c_int32),
    "kvt_copy_submit": ([_C, _S, c_uint64, c_uint32, c_uint32, c_char_p, c_size_t], c_int32),
    "kvt_copy_submit_after": (
        [_C, _S, c_uint64, c_uint32, c_uint32, c_char_p, c_size_t, c_uint32, c_size_t],
        c_int32,
    ),
    "kvt_copy_poll": ([_C, POINTER(RawCopyResult), c_size_t, POINTER(c_size_t)], c_int32),
    "kvt_copy_wait": ([_C, c_uint64], c_int32),
    "kvt_hash_tokens": (
        [c_char_p, c_char_p, c_void_p, c_size_t, c_uint32, c_char_p, c_size_t, c_void_p, c_size_t, POINTER(c_size_t)],
        c_int32,
    ),
}


def library_path() -> Path:
    """Where the library is looked for: `KVTIER_LIBRARY`, else inside this package."""
    override = os.environ.get("KVTIER_LIBRARY")
    return Path(override) if override else Path(__file__).resolve().parent.parent / "_lib" / "libkvtier.so"


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """Loads the library once, checks its ABI version and declares every function."""
    path = library_path()
    try:
        lib = ctypes.CDLL(str(path))
    except OSError as error:
        raise LibraryNotFound(f"cannot load {path}: {error}; set KVTIER_LIBRARY to the path of libkvtier.so") from error
    try:
        for name, (argtypes, restype) in _SIGNATURES.items():
            function = getattr(lib, name)
            function.argtypes, function.restype = argtypes, restype
    except AttributeError as error:
        raise LibraryNotFound(f"{path} is not a libkvtier of ABI {ABI_VERSION}: {error}") from error
    actual = lib.kvt_abi_version()
    if actual != ABI_VERSION:
        raise LibraryNotFound(f"{path} speaks ABI {actual}, this package needs {ABI_VERSION}")
    return lib


def status_text(status: int) -> str:
    """Name and meaning of a status, as the library words them."""
    lib = library()
    return f"{lib.kvt_status_name(status).decode()}: {lib.kvt_status_text(status).decode()}"
