"""What the connector says of the chunks it stores is what vLLM's own events would say."""

from __future__ import annotations

import ctypes
import random
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from fake_daemon import FakeCopier, FakeDaemon, FakeSession
from vllm.lora.request import LoRARequest
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
from vllm.v1.core.kv_cache_utils import generate_block_hash_extra_keys, to_event_extra_keys
from vllm_harness import Engine, make_config, make_groups, make_request

import kvtier.vllm.scheduler
import kvtier.vllm.worker
from kvtier.client import block_run
from kvtier.vllm import compat
from kvtier.vllm.config import ConfigError, parse_config
from kvtier.vllm.describe import Describer
from kvtier.vllm.groups import GroupPlan, Plan
from kvtier.vllm.request import RequestState
from kvtier.vllm.scheduler import pod_name

BLOCK = 16


@dataclass
class Said:
    parent: bytes | None
    tokens: list[int]
    lora_name: str | None
    extra_keys: Any


def read(runs, hashes: list[bytes]) -> list[Said]:
    """One entry for each chunk; an undescribed chunk has none."""
    said: list[Said | None] = []
    for run in runs:
        parent = run.parent and ctypes.string_at(ctypes.cast(address_of(run, "parent"), ctypes.c_void_p).value, 32)
        for index in range(run.blocks):
            if not run.tokens_per_block:
                said.append(None)
                continue
            size = run.tokens_per_block
            tokens = (ctypes.c_uint32 * size).from_address(run.tokens + 4 * index * size)
            extra = ctypes.string_at(address_of(run, "extra_keys"), run.extra_bytes) if run.extra_bytes else b""
            name = run.lora_name.decode() if run.lora_name is not None else None
            said.append(Said(parent, list(tokens), name, msgspec.msgpack.decode(extra) if extra else None))
            parent = hashes[len(said) - 1]
    return said


def plain(keys: Any) -> Any:
    """As it arrives: MessagePack has no tuples."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(keys))


def vllms_extra_keys(request, start: int) -> Any:
    """What vLLM's event says of the block that begins there, but for the adapter: routers know it by its name alone."""
    extra, _ = generate_block_hash_extra_keys(request, start, start + BLOCK, 0)
    said = to_event_extra_keys([extra])[0]
    return (said[1:] or None) if request.lora_request and said else said


def address_of(run, field: str) -> int:
    at = ctypes.addressof(run) + getattr(type(run), field).offset
    return ctypes.c_void_p.from_address(at).value


def plan(per_chunk: int) -> tuple[Plan, GroupPlan]:
    group = GroupPlan(0, BLOCK, per_chunk, 0)
    return Plan((group,), BLOCK, BLOCK), group


def image(name: str, offset: int, length: int) -> MultiModalFeatureSpec:
    position = PlaceholderRange(offset=offset, length=length)
    return MultiModalFeatureSpec(data=None, modality="image", identifier=name, mm_position=position)


REQUESTS = {
    "plain": {},
    "salt": {"salt": "s"},
    "lora": {"lora": LoRARequest("sql", 1, "/adapters/sql")},
    "images": {"images": [image("a", 20, 30), image("b", 50, 4), image("c", 150, 40)]},
    "everything": {"salt": "s", "lora": LoRARequest("sql", 1, "/a"), "images": [image("a", 0, 100)]},
}


def request_of(kind: dict, tokens: list[int]):
    request = make_request(make_config(), make_groups(), "r", tokens, salt=kind.get("salt"))
    request.lora_request = kind.get("lora")
    request.mm_features = kind.get("images", [])
    return request


@pytest.mark.parametrize("per_chunk", [1, 2, 3])
@pytest.mark.parametrize("kind", REQUESTS.values(), ids=REQUESTS.keys())
def test_each_chunk_is_described_as_vllm_would(kind, per_chunk):
    tokens = [random.Random(7).randrange(200) for _ in range(20 * BLOCK)]
    request = request_of(kind, tokens)
    (whole, group), state = plan(per_chunk), RequestState(request, "r")
    chunks, size = len(tokens) // group.chunk_tokens, group.chunk_tokens
    keys = [request.block_hashes[(chunk + 1) * per_chunk - 1] for chunk in range(chunks)]
    for first, count in [(0, chunks), (0, 1), (1, 3), (chunks - 1, 1)]:
        runs = Describer(whole, True).runs(state, group, first, count)
        assert sum(run.blocks for run in runs) == count
        for chunk, said in enumerate(read(runs, keys[first:]), first):
            start, end = chunk * size, (chunk + 1) * size
            expected = [vllms_extra_keys(request, at) for at in range(start, end, BLOCK)]
            assert said.parent == (keys[chunk - 1] if chunk else None)
            assert said.tokens == tokens[start:end]
            assert said.lora_name == ("sql" if "lora" in kind else None)
            assert said.extra_keys == (plain(expected) if any(expected) else None), chunk


class OldLora:
    """The adapter as vLLM 0.26 puts it into a block's hash: by its name."""

    lora_name = "sql"


@pytest.mark.parametrize("adapter", [("lora", "sql", "/adapters/sql"), "sql"], ids=["0.32", "0.26"])
@pytest.mark.parametrize("rest", [(), (("cache_salt", "sql"),)], ids=["alone", "with a salt of the same name"])
def test_an_adapter_is_said_by_its_name_only(adapter, rest, monkeypatch):
    found = (adapter, *rest)
    monkeypatch.setattr("vllm.v1.core.kv_cache_utils.generate_block_hash_extra_keys", lambda *_: (found, 0))
    if adapter == "sql":
        found = (adapter, *(key for _, key in rest))
        monkeypatch.delattr("vllm.v1.core.kv_cache_utils.to_event_extra_keys")
    request = request_of({}, list(range(64)))
    request.lora_request = OldLora()
    assert compat.block_extra_keys()(request, 0, 16) == (("sql",) if rest else None)


def test_a_plain_prompt_is_one_run_whatever_its_length():
    whole, group = plan(1)
    request = request_of({}, list(range(100)) * 20)
    state = RequestState(request, "r")
    assert len(Describer(whole, True).runs(state, group, 0, 125)) == 1
    salted = request_of({"salt": "s"}, list(range(100)) * 20)
    assert len(Describer(whole, True).runs(RequestState(salted, "r"), group, 0, 125)) == 2


def test_generated_tokens_are_described_like_the_prompt():
    whole, group = plan(1)
    request = request_of({}, list(range(40)))
    state = RequestState(request, "r")
    request.append_output_token_ids(list(range(100, 124)))
    (run,) = Describer(whole, True).runs(state, group, 2, 2)
    assert [said.tokens[0] for said in read([run], [b"", b""])] == [32, 108]


def test_what_cannot_be_described_is_stored_all_the_same():
    whole, group = plan(1)
    request = request_of({}, list(range(64)))
    request.prompt_token_ids = [-1] * 64
    describer = Describer(whole, True)
    for _ in range(2):
        (run,) = describer.runs(RequestState(request, "r"), group, 0, 4)
        assert (run.blocks, run.tokens_per_block) == (4, 0)


def test_embeddings_and_a_switch_that_is_off_say_nothing():
    whole, group = plan(1)
    request = request_of({}, list(range(64)))
    for describer, embeds in [(Describer(whole, False), None), (Describer(whole, True), object())]:
        request.prompt_embeds = embeds
        (run,) = describer.runs(RequestState(request, "r"), group, 0, 4)
        assert (run.blocks, run.tokens_per_block) == (4, 0)


@pytest.mark.parametrize("windows", [(0,), (0, 40)], ids=["full", "hybrid"])
def test_every_stored_chunk_is_described_once_and_for_all(windows, monkeypatch):
    monkeypatch.setattr(kvtier.vllm.scheduler, "Session", FakeSession)
    monkeypatch.setattr(kvtier.vllm.worker, "Session", FakeSession)
    monkeypatch.setattr(kvtier.vllm.worker, "open_copies", FakeCopier)
    rng = random.Random(3)
    FakeDaemon.current = daemon = FakeDaemon(rng, capacity=400)
    daemon.lost_chance = daemon.ring_full_chance = 0.0
    config = make_config({"store_decode": True}, max_len=640, seqs=4, batched=96)
    engine = Engine(config, make_groups(windows, blocks=90))
    prompt = [rng.randrange(250) for _ in range(300)]
    engine.add("first", prompt, 40, "salt")
    engine.add("second", prompt[:200] + [1] * 50, 40)
    engine.run()
    assert not daemon.violations
    assert daemon.blocks and set(daemon.blocks) <= set(daemon.said)
    roots = [said for said in daemon.said.values() if said[0] is None]
    assert {said[1] for said in roots} == {tuple(prompt[:16])}
    assert {said[3] for said in roots} == {b"", msgspec.msgpack.encode([("salt",)])}


def test_a_run_that_goes_beyond_its_tokens_is_refused():
    from array import array

    with pytest.raises(ValueError, match="want 2 x 16 tokens"):
        block_run(2, 16, array("I", range(31)))
    with pytest.raises(ValueError, match="parent: want 32 bytes"):
        block_run(1, 16, array("I", range(16)), 0, b"short")


def test_where_routers_find_the_engine(monkeypatch):
    monkeypatch.delenv("POD_IP", raising=False)
    assert pod_name(parse_config({"pod": "10.0.0.9:80"})) == "10.0.0.9:80"
    monkeypatch.setattr("sys.argv", ["vllm", "serve", "m"])
    assert pod_name(parse_config({})) == ""
    monkeypatch.setenv("POD_IP", "10.0.0.1")
    assert pod_name(parse_config({})) == "10.0.0.1:8000"
    assert pod_name(parse_config({"pod": ""})) == ""
    monkeypatch.setenv("POD_IP", "fd00::1")
    for arguments, expected in [
        (["vllm", "serve", "m", "--port", "81"], "[fd00::1]:81"),
        (["/x/vllm/entrypoints/openai/api_server.py", "--port=82"], "[fd00::1]:82"),
        (["vllm", "serve", "--config", "file.yaml"], ""),
        (["vllm", "serve", "m", "--port"], ""),
        (["pytest", "tests"], ""),
    ]:
        monkeypatch.setattr("sys.argv", arguments)
        assert pod_name(parse_config({})) == expected, arguments
    with pytest.raises(ConfigError, match="pod: want a string of at most 256 bytes without @"):
        parse_config({"pod": "a@b"})


def test_the_served_name_is_the_models():
    config = make_config()
    config.model_config.served_model_name = ["red", "blue"]
    assert compat.served_model_name(config) == "red"
    config.model_config.served_model_name = None
    assert compat.served_model_name(config) == ""
