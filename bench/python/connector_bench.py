"""What the connector costs vLLM's scheduler thread, driven by vLLM's own classes without a model.

`kvtier-bench connector` runs this against a daemon and reads one JSON object a line: `name`, `value`, `unit`, `params`.

- `connector_us_per_key`: thread time of every scheduler hook for one prompt of `keys` blocks, for each key. Path `load`: the prompt
  is found whole and loaded (look-up, poll, commit, orders, news). Path `store`: nothing is found and every block is stored (look-up,
  reserve, pins, orders, news).
- `connector_wait_us_per_step`: thread time of `get_num_new_matched_tokens` plus `build_connector_meta` for a step in which the
  look-up's answer is not there yet.
- `batched_copy_us_per_key`: the reference, the least that any connector must do: joining the hashes into one buffer.

Time that the thread sleeps waiting for the daemon is not its cost and is told in `params` as `waited_us`.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

BLOCK_TOKENS = 16
PAGE_BYTES = 64


def main() -> int:
    """Parses the arguments and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--blocks-per-chunk", type=int, default=1)
    options = parser.parse_args()
    for keys in options.keys:
        for figure in measure(keys, options.rounds, options.blocks_per_chunk):
            print(json.dumps(figure), flush=True)
    return 0


def measure(keys: int, rounds: int, per_chunk: int) -> list[dict[str, Any]]:
    """All figures for one length of prompt; medians of the rounds."""
    bench = Bench(keys, per_chunk)
    params = {"keys": keys, "blocks_per_chunk": per_chunk, "rounds": rounds}
    stores, loads, waits, joins = [], [], [], []
    # One prompt is loaded in every round, before others are stored: so the host tier need not hold more than two prompts.
    for round_ in range(rounds):
        if round_ == 0:
            stores.append(bench.store(round_))
        loads.append(bench.load(round_))
        waits.append(bench.wait(round_))
        joins.append(bench.join(round_))
    stores.extend(bench.store(round_) for round_ in range(1, rounds))
    bench.close()

    def figure(name: str, values: list[float], unit: str, **more: Any) -> dict[str, Any]:
        value = round(statistics.median(values), 4)
        extremes = {"min": round(min(values), 4), "max": round(max(values), 4)}
        return {"name": name, "value": value, "unit": unit, "params": {**params, **more}, **extremes}

    waited = {path: round(statistics.median(w for _, w in runs)) for path, runs in (("load", loads), ("store", stores))}
    reference = round(statistics.median(joins) / keys, 4)
    figures = [
        figure("connector_us_per_key", [t / keys for t, _ in runs], "us", path=path, waited_us=waited[path])
        for path, runs in (("load", loads), ("store", stores))
    ]
    for entry in figures:
        entry["reference"] = {"name": "join_us_per_key", "value": reference}
    return [*figures, figure("connector_wait_us_per_step", waits, "us")]


class Meter:
    """Thread time spent in hooks, and wall time beyond it."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    def __call__(self, hook: Any, *arguments: Any) -> Any:
        cpu, wall = time.thread_time(), time.perf_counter()
        result = hook(*arguments)
        self.cpu += time.thread_time() - cpu
        self.wall += time.perf_counter() - wall
        return result

    @property
    def result(self) -> tuple[float, float]:
        """(us of thread time, us waited)."""
        return self.cpu * 1e6, max(0.0, self.wall - self.cpu) * 1e6


class Bench:
    """One connector pair over a real session; the worker's copies are real and tiny, and are not counted."""

    def __init__(self, keys: int, per_chunk: int) -> None:
        import torch
        from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
        from vllm.v1.core.block_pool import BlockPool
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

        from kvtier.vllm import KVTierConnector

        self.keys, self.blocks = keys * per_chunk, keys * per_chunk + 2
        self.config = _config(per_chunk, (self.blocks + 8) * BLOCK_TOKENS)
        spec = FullAttentionSpec(block_size=BLOCK_TOKENS, num_kv_heads=1, head_size=1, dtype=torch.float16)
        group = KVCacheGroupSpec(["layer"], spec)
        self.kv = KVCacheConfig(num_blocks=self.blocks, kv_cache_tensors=[], kv_cache_groups=[group])
        self.pool = BlockPool(self.blocks, True, BLOCK_TOKENS)
        self.worker = KVTierConnector(self.config, KVConnectorRole.WORKER, self.kv)
        # The engine owns its cache and keeps it; the connector only knows where it lies.
        self.cache = torch.zeros((self.blocks, PAGE_BYTES), dtype=torch.uint8)
        self.worker.register_kv_caches({"layer": self.cache})
        self.scheduler = KVTierConnector(self.config, KVConnectorRole.SCHEDULER, self.kv)
        self.scheduler.bind_gpu_block_pool(self.pool)
        if self.scheduler._scheduler is None:
            sys.exit("the connector is off; see the log above")
        self.scheduler._scheduler._link.session.wait_ready()

    def close(self) -> None:
        """Ends both halves."""
        self.worker.shutdown()
        self.scheduler.shutdown()

    def store(self, round_: int) -> tuple[float, float]:
        """A prompt that nobody has seen, stored whole."""
        return self._run(self._request(f"prompt {round_}", round_), 0)

    def load(self, round_: int) -> tuple[float, float]:
        """The first prompt again, found and loaded whole."""
        return self._run(self._request(f"again {round_}", 0), (self.keys - 1) * BLOCK_TOKENS)

    def _run(self, request: Any, at_least: int) -> tuple[float, float]:
        meter, connector = Meter(), self.scheduler
        blocks = self.pool.get_new_blocks(self.keys)
        meter(connector.on_new_request, request)
        while (found := meter(connector.get_num_new_matched_tokens, request, 0)[0]) is None:
            self._idle()
        assert found >= at_least, f"found {found} of {at_least} tokens: is the daemon's host tier too small?"
        table = SimpleNamespace(blocks=(blocks,), get_block_ids=lambda: ([b.block_id for b in blocks],))
        meter(connector.update_state_after_alloc, request, table, found)
        step = _output(request, [] if found else [block.block_id for block in blocks], 0 if found else self.keys)
        while True:
            orders = meter(connector.build_connector_meta, step)
            news = self._work(orders)
            if news is not None:
                meter(connector.update_connector_output, SimpleNamespace(kv_connector_worker_meta=news))
            if not connector.has_pending_push_work():
                break
            step = _output(request, [], 0)
        meter(connector.request_finished_all_groups, request, ([],))
        self.pool.free_blocks(reversed(blocks))
        return meter.result

    def _idle(self) -> None:
        self.scheduler._scheduler._link.session.wait(100_000)

    def _work(self, orders: Any) -> Any:
        """The worker's half of a step, which is not the scheduler's cost."""
        worker = self.worker
        worker.bind_connector_metadata(orders)
        worker.start_load_kv(None)
        worker.wait_for_save()
        worker.get_transfer_results(set())
        news = worker.build_connector_worker_meta()
        worker.clear_connector_metadata()
        if orders.is_empty():
            self._idle()
        return news

    def wait(self, round_: int) -> float:
        """A step in which the answer is not there yet: the daemon's answers are held back for 200 steps."""
        side, request = self.scheduler._scheduler, self._request(f"waiting {round_}", 1000 + round_)
        poll, wait = side._link.session.poll, side._link.session.wait

        def held_back() -> None:
            side._link.session._lib.kvt_session_info_get(side._link.session._handle, side._link.session._info_ref)

        side._link.session.poll = held_back
        side._link.session.wait = lambda _: None
        self.scheduler.on_new_request(request)
        meter, steps, nothing = Meter(), 200, _output(request, [], 0)
        for _ in range(steps):
            assert meter(self.scheduler.get_num_new_matched_tokens, request, 0) == (None, False)
            meter(self.scheduler.build_connector_meta, nothing)
        side._link.session.poll, side._link.session.wait = poll, wait
        self.scheduler.request_finished_all_groups(request, ([],))
        wait(1_000_000)
        side._drain()
        return meter.result[0] / steps

    def join(self, round_: int) -> float:
        """The reference: joining the hashes, in us."""
        request = self._request(f"join {round_}", round_)
        started = time.thread_time()
        b"".join(request.block_hashes)
        return (time.thread_time() - started) * 1e6

    def _request(self, name: str, seed: int) -> Any:
        """A request as far as the connector looks at it, with hashes as vLLM's are: one bytes object for each block."""
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        request = Request(
            request_id=name, prompt_token_ids=[0] * (self.keys * BLOCK_TOKENS + 1),
            sampling_params=SamplingParams(max_tokens=1), pooling_params=None, block_hasher=None,
        )
        request.block_hashes.extend(
            sha256(b"%d %d" % (seed, index)).digest() for index in range(self.keys)
        )
        return request


def _output(request: Any, blocks: list[int], scheduled: int) -> Any:
    """A scheduler output with one new request, or with nothing."""
    new = SimpleNamespace(req_id=request.request_id, block_ids=(blocks,), num_computed_tokens=0)
    cached = SimpleNamespace(req_ids=[], new_block_ids=[], num_computed_tokens=[], resumed_req_ids=set())
    tokens = scheduled * BLOCK_TOKENS if blocks else 0
    return SimpleNamespace(
        scheduled_new_reqs=[new] if blocks else [], scheduled_cached_reqs=cached, preempted_req_ids=set(),
        num_scheduled_tokens={request.request_id: tokens} if blocks else {}, total_num_scheduled_tokens=tokens,
    )


def _config(per_chunk: int, max_len: int) -> Any:
    from vllm.config import CacheConfig, KVTransferConfig, ModelConfig, SchedulerConfig, VllmConfig
    from vllm.config.load import LoadConfig

    path = Path(tempfile.mkdtemp(prefix="kvtier-bench-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    model = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 256,
        "max_position_embeddings": max_len, "torch_dtype": "bfloat16",
    }
    (path / "config.json").write_text(json.dumps(model))
    return VllmConfig(
        model_config=ModelConfig(
            model=str(path), skip_tokenizer_init=True, dtype="bfloat16", max_model_len=max_len, seed=0
        ),
        scheduler_config=SchedulerConfig(
            max_num_seqs=8, max_num_batched_tokens=8192, max_model_len=max_len, enable_chunked_prefill=True,
            is_encoder_decoder=False, async_scheduling=False,
        ),
        cache_config=CacheConfig(block_size=BLOCK_TOKENS, enable_prefix_caching=True),
        load_config=LoadConfig(load_format="dummy"),
        kv_transfer_config=KVTransferConfig(
            kv_connector="KVTierConnector", kv_connector_module_path="kvtier.vllm", kv_role="kv_both",
            kv_load_failure_policy="recompute",
            kv_connector_extra_config={
                "blocks_per_chunk": per_chunk, "lookup_deadline_ms": 60_000, "commit_deadline_ms": 60_000,
            },
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
