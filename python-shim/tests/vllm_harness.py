"""vLLM's own scheduler, driven without a model: a "forward pass" writes into each cell the digest of the prefix that
ends there, and checks that every cell it may attend to holds the digest it should."""

from __future__ import annotations

import copy
import json
import tempfile
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vllm.config import CacheConfig, KVTransferConfig, ModelConfig, ParallelConfig, SchedulerConfig, VllmConfig
from vllm.config.load import LoadConfig
from vllm.distributed.kv_transfer.kv_connector.utils import KVOutputAggregator
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    MLAAttentionSpec,
    SlidingWindowSpec,
)
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from kvtier.vllm import KVTierConnector

MASK = (1 << 62) - 1


@lru_cache(maxsize=1)
def model_directory() -> str:
    """A model that exists as a configuration only."""
    path = Path(tempfile.mkdtemp(prefix="kvtier-model-"))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
        "vocab_size": 256, "max_position_embeddings": 4_000_000, "torch_dtype": "bfloat16",
    }
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


def make_config(extra: dict | None = None, *, block_size=16, max_len=4096, seqs=8, batched=256, ranks=1) -> VllmConfig:
    """A vLLM configuration that uses the connector."""
    config = copy.deepcopy(_base_config(block_size, max_len, seqs, batched))
    config.instance_id = str(time.time_ns())
    config.kv_transfer_config.kv_connector_extra_config = extra or {}
    config.parallel_config.world_size = ranks
    return config


@lru_cache(maxsize=8)
def _base_config(block_size: int, max_len: int, seqs: int, batched: int) -> VllmConfig:
    model = ModelConfig(
        model=model_directory(), skip_tokenizer_init=True, dtype="bfloat16", max_model_len=max_len, seed=0
    )
    scheduler = SchedulerConfig(
        max_num_seqs=seqs, max_num_batched_tokens=batched, max_model_len=max_len,
        enable_chunked_prefill=True, is_encoder_decoder=False, async_scheduling=False,
    )
    transfer = KVTransferConfig(
        kv_connector="KVTierConnector", kv_connector_module_path="kvtier.vllm", kv_role="kv_both",
        kv_load_failure_policy="recompute",
    )
    return VllmConfig(
        model_config=model, scheduler_config=scheduler, kv_transfer_config=transfer,
        cache_config=CacheConfig(block_size=block_size, enable_prefix_caching=True),
        parallel_config=ParallelConfig(), load_config=LoadConfig(load_format="dummy"),
    )


def make_groups(windows: tuple[int, ...] = (0,), *, block_size=16, blocks=64, layers=1) -> KVCacheConfig:
    """One group for each window; 0 is full attention, -1 MLA."""
    groups = []
    for index, window in enumerate(windows):
        shape = {"block_size": block_size, "num_kv_heads": 1, "head_size": 4, "dtype": torch.int64}
        if window > 0:
            spec = SlidingWindowSpec(**shape, sliding_window=window)
        else:
            spec = MLAAttentionSpec(**shape) if window < 0 else FullAttentionSpec(**shape)
        groups.append(KVCacheGroupSpec([f"g{index}.l{layer}" for layer in range(layers)], spec))
    return KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=groups)


def make_request(config: VllmConfig, kv: KVCacheConfig, name: str, tokens: list[int], outputs=8, salt=None) -> Request:
    """A request with vLLM's own block hashes."""
    hash_fn = get_hash_fn_by_name(config.cache_config.prefix_caching_hash_algo)
    init_none_hash(hash_fn)
    block = kv.kv_cache_groups[0].kv_cache_spec.block_size
    params = SamplingParams(max_tokens=outputs, ignore_eos=True)
    params.update_from_generation_config({}, eos_token_id=None)
    return Request(
        request_id=name, prompt_token_ids=list(tokens), sampling_params=params, pooling_params=None,
        cache_salt=salt, block_hasher=get_request_block_hasher(block, hash_fn),
    )


@dataclass
class Worker:
    connector: KVTierConnector
    tensors: dict[str, torch.Tensor]


class Engine:
    """One engine: vLLM's scheduler and as many fake workers as it has ranks."""

    def __init__(self, config: VllmConfig, kv: KVCacheConfig) -> None:
        self.config, self.kv = config, kv
        self.windows = [getattr(g.kv_cache_spec, "sliding_window", None) or 0 for g in kv.kv_cache_groups]
        self.block = kv.kv_cache_groups[0].kv_cache_spec.block_size
        ranks = config.parallel_config.world_size
        self.workers = [self._worker(rank) for rank in range(ranks)]
        config.parallel_config.rank = 0
        config.cache_config.num_gpu_blocks = kv.num_blocks
        self.scheduler = Scheduler(
            vllm_config=config, kv_cache_config=kv, block_size=self.block, log_stats=True,
            structured_output_manager=StructuredOutputManager(config),
        )
        self.aggregator = KVOutputAggregator(ranks)
        self.digests: dict[str, list[int]] = {}
        self.wrong: list[str] = []
        self.preemptions = 0
        self.loaded_tokens = 0

    @property
    def connector(self) -> KVTierConnector:
        return self.scheduler.connector

    def _worker(self, rank: int) -> Worker:
        self.config.parallel_config.rank = rank
        connector = KVTierConnector(self.config, KVConnectorRole.WORKER, self.kv)
        tensors = {
            layer: torch.full((self.kv.num_blocks, 1, self.block, 2), -1, dtype=torch.int64)
            for group in self.kv.kv_cache_groups for layer in group.layer_names
        }
        connector.register_kv_caches(tensors)
        return Worker(connector, tensors)

    def add(self, name: str, tokens: list[int], outputs: int = 8, salt: str | None = None) -> None:
        self.scheduler.add_request(make_request(self.config, self.kv, name, tokens, outputs, salt))

    def abort(self, name: str) -> None:
        self.scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)

    @property
    def busy(self) -> bool:
        return self.scheduler.has_requests()

    def step(self, abort_meanwhile: list[str] = ()) -> None:
        """Schedules, computes on every worker, and takes the results in."""
        output = self.scheduler.schedule()
        self.preemptions += len(output.preempted_req_ids or ())
        outputs = [self._execute(worker, rank, output) for rank, worker in enumerate(self.workers)]
        for name in abort_meanwhile:
            self.abort(name)
        merged = self.aggregator.aggregate(outputs)
        self.scheduler.update_from_output(output, merged)

    def run(self, steps: int = 2000) -> None:
        """Steps until there is nothing to do."""
        while self.busy:
            steps -= 1
            assert steps > 0, "the engine does not come to rest"
            self.step()

    def _execute(self, worker: Worker, rank: int, output: Any) -> ModelRunnerOutput:
        connector = worker.connector
        if output.preempted_req_ids:
            connector.handle_preemptions(output.kv_connector_metadata)
        connector.bind_connector_metadata(output.kv_connector_metadata)
        sampled: list[list[int]] = []
        names = list(output.num_scheduled_tokens)
        for name in names:
            sampled.append(self._forward(worker, rank, name, output.num_scheduled_tokens[name]))
        connector.start_load_kv(None)
        connector.wait_for_save()
        results = connector.get_transfer_results(output.finished_req_ids)
        news = KVConnectorOutput(
            finished_sending=results.finished_sending, finished_recving=results.finished_recving,
            failed_recving=results.failed_recving, invalid_block_ids=connector.get_block_ids_with_load_errors(),
            kv_connector_stats=connector.get_kv_connector_stats(),
            kv_connector_worker_meta=connector.build_connector_worker_meta(),
        )
        connector.clear_connector_metadata()
        return ModelRunnerOutput(
            req_ids=names, req_id_to_index={name: i for i, name in enumerate(names)}, sampled_token_ids=sampled,
            logprobs=None, prompt_logprobs_dict={}, pooler_output=[], kv_connector_output=news,
        )

    def _digest(self, request: Request, end: int) -> list[int]:
        digests = self.digests.setdefault(request.request_id, [])
        tokens = request.all_token_ids
        for position in range(len(digests), end):
            before = digests[-1] if digests else hash(request.cache_salt or "") & MASK
            digests.append((before * 6364136223846793005 + tokens[position] * 1442695040888963407 + 97) & MASK)
        return digests

    def _forward(self, worker: Worker, rank: int, name: str, count: int) -> list[int]:
        request = self.scheduler.requests[name]
        # vLLM has advanced the computed tokens already.
        end = request.num_computed_tokens
        start = end - count
        digests = self._digest(request, end)
        tables = self.scheduler.kv_cache_manager.get_block_ids(name)
        for group, window in enumerate(self.windows):
            for layer, layer_name in enumerate(self.kv.kv_cache_groups[group].layer_names):
                cells = worker.tensors[layer_name].numpy()[:, 0, :, 0]
                mark = group * 1000 + layer * 100 + rank
                positions = np.arange(end)
                blocks, places = np.array(tables[group])[positions // self.block], positions % self.block
                expected = np.array(digests[:end]) ^ mark
                cells[blocks[start:], places[start:]] = expected[start:]
                first = max(0, start - window + 1) if window else 0
                bad = (blocks[first:] == 0) | (cells[blocks[first:], places[first:]] != expected[first:])
                if bad.any():
                    self.wrong.append(f"{name}: token {first + int(bad.argmax())} of group {group}, rank {rank}")
        return [] if end < request.num_tokens else [(digests[-1] >> 7) % 250]

    def idle_blocks(self) -> int:
        """Blocks that somebody still holds, the null block aside."""
        pool = self.scheduler.kv_cache_manager.block_pool
        return pool.num_gpu_blocks - pool.get_num_free_blocks() - 1
