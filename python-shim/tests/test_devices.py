"""Copies of device pages, through the real library and a real daemon: CUDA on the stand-in for its driver, and torch."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import logging
import os
import subprocess
import time
from pathlib import Path

import pytest
import torch
from real import Daemon

from kvtier.client import Group, KVTierError, Run, Session, Status, abi
from kvtier.vllm.devices import CudaCopies
from kvtier.vllm.layout import page_runs
from kvtier.vllm.torch_copies import TorchCopies

TWIN = Path(__file__).parents[2] / "connector-abi" / "twin" / "cuda.c"
PAGE, BLOCKS = 4096, 12


@pytest.fixture
def daemon(tmp_path):
    running = Daemon(tmp_path).start()
    yield running
    running.kill()


@pytest.fixture
def engine(daemon):
    """A scheduler and a worker."""
    common = {"engine_group": os.urandom(16), "fields": {"model.id": b"m"}, "socket_path": daemon.socket}
    with (
        Session(role=abi.ROLE_WORKER, groups=[Group(16, 0, PAGE)], **common) as worker,
        Session(role=abi.ROLE_SCHEDULER, groups=[Group(16)], **common) as scheduler,
    ):
        scheduler.wait_ready(20)
        worker.wait_ready(20)
        yield scheduler, worker


class Twin:
    """The stand-in driver, its context current in this thread as an engine's is."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "libcuda.so.1")
        flags = ["-std=gnu11", "-O1", "-shared", "-fPIC"]
        subprocess.run(["cc", *flags, "-o", self.path, str(TWIN), "-lpthread"], check=True)
        self.lib = ctypes.CDLL(self.path)
        context, self.stream = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        self.call("cuCtxPushCurrent_v2", context)
        self.call("cuStreamCreate", ctypes.byref(self.stream), 1)

    def call(self, name: str, *arguments: object) -> None:
        assert getattr(self.lib, name)(*arguments) == 0, name

    def allocate(self, size: int) -> int:
        base = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(base), ctypes.c_size_t(size))
        return base.value

    def fill(self, base: int, value: int, size: int) -> None:
        """Work of the engine's, which may not be over when this returns."""
        self.call("cuMemsetD8Async", ctypes.c_uint64(base), ctypes.c_ubyte(value), ctypes.c_size_t(size), self.stream)

    def read(self, base: int, size: int) -> bytes:
        self.call("cuStreamSynchronize", self.stream)
        target = ctypes.create_string_buffer(size)
        self.call("cuMemcpyDtoH_v2", target, ctypes.c_uint64(base), ctypes.c_size_t(size))
        return target.raw


def lines_of(slots: bytes) -> bytes:
    count = len(slots) // 8
    return b"".join(slots[8 * i : 8 * i + 8] + i.to_bytes(4, "little") + bytes(4) for i in range(count))


def end_of(copies, tag: int):
    """The result of a batch, polled for as a worker does."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for result in copies.poll():
            assert result.tag == tag
            return result
    raise AssertionError("the batch does not end")


def store(engine, copies, slots: bytes) -> None:
    _, worker = engine
    copies.submit(worker, 1, abi.COPY_STORE, 0, lines_of(slots))
    assert end_of(copies, 1) == (1, Status.OK, PAGE * len(slots) // 8)
    worker.seal_now(slots)


def load(engine, copies, keys: bytes) -> None:
    scheduler, worker = engine
    with scheduler.lookup([(0, keys)], tokens_max=1 << 30) as hit, hit.commit() as lease:
        assert hit.hit_tokens == 16 * len(keys) // 32
        copies.submit(worker, 2, abi.COPY_LOAD, 0, lines_of(lease.slots))
        assert end_of(copies, 2).status == Status.OK


def new_keys(count: int) -> bytes:
    return b"".join(os.urandom(32) for _ in range(count))


def test_cuda_pages_go_to_slots_and_back_in_the_engines_order(engine, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    caplog.set_level(logging.INFO)
    twin = Twin(tmp_path)
    base = twin.allocate(PAGE * BLOCKS)
    copies = CudaCopies(0, driver=twin.path, stream=lambda: twin.stream.value)
    copies.group_set(0, 1, [Run(base, PAGE, PAGE, BLOCKS)])
    twin.lib.twin_delay(2000)
    for pinned in (False, True):
        keys = new_keys(4)
        twin.fill(base, 7 + pinned, PAGE * BLOCKS)
        store(engine, copies, engine[0].reserve_now([(0, keys)]))
        twin.fill(base, 0, PAGE * BLOCKS)
        load(engine, copies, keys)
        assert twin.read(base, PAGE * 4) == bytes([7 + pinned]) * PAGE * 4
        assert twin.read(base + PAGE * 4, PAGE) == bytes(PAGE)
        copies.attached(engine[1])
        while copies._copier.info().pinning == abi.PINNING_UNDER_WAY:
            time.sleep(0.01)
    copies.watch()
    copies.watch()
    assert [record.message for record in caplog.records if "are pinned" in record.message] == [
        "kvtier: 64 MiB are pinned for stand-in 0, in 0.0 s"
    ]
    copies.close()
    engine[1].close()
    twin.lib.twin_pinned.restype = ctypes.c_uint64
    assert twin.lib.twin_pinned() == 0, "the region is unpinned before it is unmapped"
    assert twin.lib.twin_violations(ctypes.byref(ctypes.c_char_p())) == 0


def test_a_region_that_cannot_be_pinned_and_a_lost_device_are_said_once(engine, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    twin = Twin(tmp_path)
    base = twin.allocate(PAGE * BLOCKS)
    copies = CudaCopies(0, driver=twin.path, stream=lambda: twin.stream.value)
    copies.group_set(0, 1, [Run(base, PAGE, PAGE, BLOCKS)])
    twin.lib.twin_fail(b"cuMemHostRegister_v2", 0, 2)
    keys = new_keys(4)
    slots = engine[0].reserve_now([(0, keys)])
    store(engine, copies, slots)
    # A thread of its own pins, or fails to; who copies does not wait for it.
    while copies._copier.info().pinning != abi.PINNING_FAILED:
        time.sleep(0.01)
    copies.watch()
    twin.lib.twin_lose(700)
    with pytest.raises(KVTierError, match="ILLEGAL_ADDRESS") as refused:
        copies.submit(engine[1], 3, abi.COPY_LOAD, 0, lines_of(slots))
    assert refused.value.status == Status.DEVICE_LOST
    for _ in range(3):
        copies.poll()
        copies.watch()
    said = [record.message for record in caplog.records]
    assert sum("go through a buffer" in message and "OUT_OF_MEMORY" in message for message in said) == 1
    assert sum("the device is lost" in message and "ILLEGAL_ADDRESS" in message for message in said) == 1


class Late:
    """Streams and events that are done when they have been asked twice."""

    class Stream:
        def wait_stream(self, _other) -> None:
            pass

        def synchronize(self) -> None:
            pass

    class Event:
        def __init__(self) -> None:
            self.asked = itertools.count()

        def record(self, _stream) -> None:
            pass

        def query(self) -> bool:
            return next(self.asked) > 0

    @staticmethod
    def current_stream():
        return None

    @staticmethod
    def stream(_stream):
        return contextlib.nullcontext()


@pytest.mark.parametrize("staging", [PAGE, 3 * PAGE, 1 << 20], ids=["a row", "some rows", "all"])
def test_torch_moves_what_libkvtier_cannot_reach(engine, staging, monkeypatch):
    monkeypatch.setattr("kvtier.vllm.torch_copies.STAGING_BYTES", staging)
    tensors = {name: torch.randint(0, 100, (BLOCKS, 16, 64), dtype=torch.int16) for name in "ab"}
    copies = TorchCopies(tensors, module=Late)
    copies.group_set(0, 1, page_runs(tensors, ["a", "b"], BLOCKS))
    keys, before = new_keys(8), {name: tensor.clone() for name, tensor in tensors.items()}
    store(engine, copies, engine[0].reserve_now([(0, keys)]))
    for tensor in tensors.values():
        tensor.zero_()
    load(engine, copies, keys)
    for name, tensor in tensors.items():
        assert torch.equal(tensor[:8], before[name][:8])
        assert not tensor[8:].any()
    copies.close()


def test_a_copy_that_torch_refuses_fails_alone(engine, monkeypatch):
    tensors = {"a": torch.zeros((BLOCKS, 16, 128), dtype=torch.int16)}
    copies = TorchCopies(tensors, module=Late)
    copies.group_set(0, 1, page_runs(tensors, ["a"], BLOCKS))
    slots = engine[0].reserve_now([(0, new_keys(2))])
    with monkeypatch.context() as context:
        context.setattr(torch, "cat", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("out of memory")))
        copies.submit(engine[1], 5, abi.COPY_STORE, 0, lines_of(slots))
        assert end_of(copies, 5) == (5, Status.DEVICE_ERROR, 0)
    store(engine, copies, slots)
    copies.close()
