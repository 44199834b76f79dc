"""A real vLLM in a process of its own, forked from one that has imported vLLM: it starts in seconds and can be killed.

The test side holds an `EngineProcess`; commands and answers travel over a pipe.
"""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass
from typing import Any

PRELOAD = [
    "vllm", "vllm.entrypoints.llm", "vllm.v1.engine.llm_engine", "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor", "vllm.v1.worker.cpu_worker", "vllm.v1.worker.cpu_model_runner",
    "vllm.v1.attention.backends.cpu_attn", "vllm.model_executor.models.llama", "vllm.model_executor.models.gemma2",
    "vllm.model_executor.models.deepseek_v2",
]

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_WORKER_MULTIPROC_METHOD": "fork",
}

TRANSFER = {
    "kv_connector": "KVTierConnector", "kv_connector_module_path": "kvtier.vllm", "kv_role": "kv_both",
    "kv_load_failure_policy": "recompute",
}


@dataclass(frozen=True)
class Answer:
    """What a request got: its tokens, their log probabilities, and how many prompt tokens were cached."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    cached: int
    reason: str | None

    @property
    def content(self) -> tuple:
        """What must be equal with and without kvtier."""
        return self.tokens, self.logprobs


def context() -> Any:
    """The process start method that all engines of a test run share."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    started = multiprocessing.get_context("forkserver")
    started.set_forkserver_preload(PRELOAD)
    return started


class EngineProcess:
    """The test's end of an engine."""

    def __init__(self, model: str, environment: dict[str, str], kvtier: dict | None = None, **options: Any) -> None:
        started = context()
        self._pipe, far = started.Pipe()
        transfer = None if kvtier is None else {**TRANSFER, "kv_connector_extra_config": kvtier}
        arguments = (far, model, environment, transfer, options)
        self._process = started.Process(target=serve, args=arguments, daemon=False)
        self._process.start()
        far.close()
        self.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, command: str, *arguments: Any) -> None:
        """Gives an order without waiting for its answer."""
        self._pipe.send((command, arguments))

    def wait(self, timeout: float = 240.0) -> Any:
        """The answer to the oldest order; an engine that fails or is silent fails the test."""
        assert self._pipe.poll(timeout), f"the engine did not answer within {timeout} s"
        kind, value = self._pipe.recv()
        assert kind == "ok", value
        return value

    def call(self, command: str, *arguments: Any) -> Any:
        """Gives an order and waits."""
        self.send(command, *arguments)
        return self.wait()

    def generate(self, prompts: list[list[int]], **options: Any) -> list[Answer]:
        """Answers to prompts, greedily."""
        return self.call("generate", prompts, options)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.join()

    def close(self) -> None:
        """Ends the engine, cleanly if it still listens."""
        if self._process.is_alive():
            try:
                self.send("shutdown")
                self._process.join(20)
            except OSError:
                pass
        self.kill()


def serve(pipe: Any, model: str, environment: dict[str, str], transfer: dict | None, options: dict) -> None:
    """The engine's end: builds it and obeys orders until the pipe closes."""
    import traceback

    os.environ.update(environment)
    if options.get("tensor_parallel_size", 1) > 1:
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(str(n) for n in range(options["tensor_parallel_size"]))
    try:
        from vllm import LLM

        llm = LLM(
            model=model, skip_tokenizer_init=True, enforce_eager=True, dtype="bfloat16",
            disable_log_stats=False, kv_transfer_config=transfer,
            **{"block_size": 32, "max_model_len": 2048, **options},
        )
        commands = Commands(llm)
        pipe.send(("ok", None))
    except Exception:  # noqa: BLE001 - the test's end shows it
        pipe.send(("failed", traceback.format_exc()))
        return
    while True:
        try:
            command, arguments = pipe.recv()
        except EOFError:
            break
        try:
            pipe.send(("ok", getattr(commands, command)(*arguments)))
        except Exception:  # noqa: BLE001 - the test's end shows it
            pipe.send(("failed", traceback.format_exc()))
        if command == "shutdown":
            break
    os._exit(0)


class Commands:
    """What a test may ask of an engine."""

    def __init__(self, llm: Any) -> None:
        self.llm = llm

    def generate(self, prompts: list[list[int]], options: dict) -> list[Answer]:
        """Runs prompts to their end."""
        salt, lora = options.get("salt"), options.get("lora")
        inputs = [{"prompt_token_ids": p, **({"cache_salt": salt} if salt else {})} for p in prompts]
        request = None
        if lora:
            from vllm.lora.request import LoRARequest

            request = LoRARequest(lora_name=os.path.basename(lora), lora_int_id=1 + hash(lora) % 1000, lora_path=lora)
        outputs = self.llm.generate(
            inputs, self._params(options.get("max_tokens", 8)), use_tqdm=False, lora_request=request
        )
        return [_answer(output) for output in outputs]

    def _params(self, max_tokens: int) -> Any:
        from vllm import SamplingParams

        return SamplingParams(max_tokens=max_tokens, temperature=0, detokenize=False, ignore_eos=True, logprobs=1)

    def add(self, name: str, prompt: list[int], max_tokens: int, trace_headers: dict[str, str] | None = None) -> None:
        """Adds a request without running it."""
        inputs, params = {"prompt_token_ids": prompt}, self._params(max_tokens)
        self.llm.llm_engine.add_request(name, inputs, params, trace_headers=trace_headers)

    def step(self, count: int) -> dict[str, Answer]:
        """Runs some steps; requests that came to their end."""
        done = {}
        for _ in range(count):
            for output in self.llm.llm_engine.step():
                if output.finished:
                    done[output.request_id] = _answer(output)
        return done

    def core_step(self, count: int) -> None:
        """Steps the engine core itself, also when no request is left."""
        core = self.llm.llm_engine.engine_core.engine_core
        for _ in range(count):
            core.step_fn()

    def abort(self, name: str) -> None:
        """Aborts a request."""
        self.llm.llm_engine.abort_request([name])

    def statuses(self) -> dict[str, str]:
        """What vLLM's scheduler says of its requests."""
        return {name.split("-")[0]: str(r.status) for name, r in self._scheduler().requests.items()}

    def held_blocks(self) -> int:
        """Blocks of the GPU cache that somebody holds, the null block aside."""
        pool = self._scheduler().kv_cache_manager.block_pool
        return pool.num_gpu_blocks - pool.get_num_free_blocks() - 1

    def settle(self) -> bool:
        """Steps until the connector has nothing under way; whether it came to that."""
        core = self.llm.llm_engine.engine_core.engine_core
        for _ in range(5000):
            if not core.scheduler.has_requests():
                return True
            core.step_fn()
        return False

    def _scheduler(self) -> Any:
        return self.llm.llm_engine.engine_core.engine_core.scheduler

    def forget(self) -> bool:
        """Empties the GPU's prefix cache and leaves the connector alone."""
        self.settle()
        return self.llm.reset_prefix_cache()

    def reset(self) -> bool:
        """Resets the prefix cache and the connector."""
        self.settle()
        return self.llm.reset_prefix_cache(reset_connector=True)

    def counters(self) -> dict[str, float]:
        """The connector's counters by `metric|label`, and hits by source."""
        found = {}
        for metric in self.llm.get_metrics():
            labels = {k: v for k, v in metric.labels.items() if k not in ("model_name", "engine")}
            if "kvtier" in metric.name or "by_source" in metric.name:
                found["|".join([metric.name.removeprefix("vllm:"), *labels.values()])] = metric.value
        return found

    def preemptions(self) -> float:
        """How often vLLM preempted a request."""
        return sum(m.value for m in self.llm.get_metrics() if m.name == "vllm:num_preemptions")

    def groups(self) -> list[str]:
        """The kinds of KV cache groups vLLM made."""
        return [type(g.kv_cache_spec).__name__ for g in self._scheduler().kv_cache_config.kv_cache_groups]

    def attached(self) -> int:
        """State of the connector's session: 2 is ready."""
        core = self.llm.llm_engine.engine_core.engine_core
        core.step_fn() if core.scheduler.has_requests() else None
        return core.scheduler.connector._scheduler._link.session.state()[0]

    def shutdown(self) -> None:
        """Ends the engine."""
        self.llm.llm_engine.engine_core.shutdown()


def _answer(output: Any) -> Answer:
    completion = output.outputs[0]
    logprobs = tuple(next(iter(entry.values())).logprob for entry in completion.logprobs or ())
    return Answer(tuple(completion.token_ids), logprobs, output.num_cached_tokens or 0, completion.finish_reason)
