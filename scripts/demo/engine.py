"""One vLLM engine in a process of its own, fed through a pipe.

Each engine is forked from a server that has imported vLLM, because the imports take five times as long as the engine's
own start. It is a process like any other: it has its own pid, and SIGKILL kills it at whatever it does.
"""

import ctypes
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

CONNECTOR = {
    "kv_connector": "KVTierConnector",
    "kv_connector_module_path": "kvtier.vllm",
    "kv_role": "kv_both",
    "kv_load_failure_policy": "recompute",
}

PRELOAD = [
    "vllm",
    "vllm.entrypoints.llm",
    "vllm.v1.engine.llm_engine",
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.worker.cpu_model_runner",
    "vllm.v1.attention.backends.cpu_attn",
    "vllm.model_executor.models.llama",
]

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

BLOCK_TOKENS = 32
GPU_BLOCKS = 1024
# Long, because a first start on a slow disk is; a failed start is noticed at once, not by this.
START_SECONDS = 600
ANSWER_SECONDS = 180
DRAIN_SECONDS = 30
STOP_SECONDS = 30


@dataclass(frozen=True)
class Job:
    """One request: a name, the prompt's token ids, and how many tokens to generate."""

    name: str
    prompt: list[int]
    answer_tokens: int


@dataclass
class Batch:
    """What an engine did with a list of jobs."""

    answers: dict[str, list[int]] = field(default_factory=dict)
    first_token_seconds: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    gpu_tokens: int = 0
    kvtier_tokens: int = 0

    def __add__(self, other: "Batch") -> "Batch":
        return Batch(
            self.answers | other.answers,
            self.first_token_seconds + other.first_token_seconds,
            self.prompt_tokens + other.prompt_tokens,
            self.gpu_tokens + other.gpu_tokens,
            self.kvtier_tokens + other.kvtier_tokens,
        )


class EngineFailed(RuntimeError):
    """An engine ended, or did not answer in time."""


def preload(log: Path) -> None:
    """Starts the server that engines are forked from. Its output, as its children's until they open their own, goes to the log."""
    os.environ.update(ENVIRONMENT)
    multiprocessing.set_forkserver_preload(PRELOAD)
    kept = os.dup(1), os.dup(2)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        multiprocessing.forkserver.ensure_running()
    finally:
        for place, saved in enumerate(kept, start=1):
            os.dup2(saved, place)
            os.close(saved)
        os.close(descriptor)


class Engine:
    """The demo's end of one engine process."""

    def __init__(self, name: str, model: Path, log: Path, socket: Path | None) -> None:
        self.name = name
        context = multiprocessing.get_context("forkserver")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, str(model), str(log), str(socket) if socket else None)
        self._process = context.Process(target=_engine_main, args=arguments, name=name, daemon=True)
        self._process.start()
        theirs.close()

    def wait_ready(self) -> None:
        """Returns when the engine can take requests."""
        self._receive("ready", START_SECONDS)

    def run(self, jobs: list[Job], together: bool = False) -> Batch:
        """Runs the jobs one after the other, or all at once, and waits until the engine has nothing left to do."""
        self._pipe.send(("run", jobs, together))
        return self._receive("done", ANSWER_SECONDS)

    def start(self, jobs: list[Job]) -> None:
        """Starts all jobs at once and returns when the first of them has produced a token."""
        self._pipe.send(("run", jobs, True))
        self._receive("first", ANSWER_SECONDS)

    def kill(self) -> int:
        """SIGKILL. Returns the pid, when the process is gone."""
        self.end()
        if self._process.exitcode is None:
            raise EngineFailed(f"{self.name} (pid {self._process.pid}) is still there after SIGKILL")
        return self._process.pid

    def stop(self) -> None:
        """Asks the engine to end in good order; kills it if it does not."""
        if self._process.exitcode is not None:
            return
        try:
            self._pipe.send(("stop",))
        except OSError:
            pass
        self._process.join(STOP_SECONDS)
        if self._process.exitcode is None:
            self.end()
            raise EngineFailed(f"{self.name} was still there {STOP_SECONDS} s after it was asked to stop")
        if self._process.exitcode != 0:
            raise EngineFailed(f"{self.name} ended with {self._process.exitcode} when it was asked to stop")

    def end(self) -> None:
        """Kills the process if it runs, and waits for its end."""
        self._process.kill()
        self._process.join(STOP_SECONDS)

    def _receive(self, kind: str, seconds: float) -> Any:
        deadline = time.monotonic() + seconds
        while self._pipe.poll(max(0.0, deadline - time.monotonic())):
            try:
                message = self._pipe.recv()
            except EOFError:
                raise EngineFailed(f"{self.name} ended by itself") from None
            if message[0] == kind:
                return message[1]
        raise EngineFailed(f"{self.name} did not say '{kind}' within {seconds} s")


def _engine_main(pipe: Connection, model: str, log: str, socket: str | None) -> None:
    """Runs in the engine's process."""
    die_with_parent()
    # The server ends when nobody holds this descriptor, so an engine must not hold it: if the demo is killed, the server
    # ends at once, and the kernel ends the engines with it.
    os.close(multiprocessing.forkserver._forkserver._forkserver_alive_fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if socket:
        os.environ["KVTIER_SOCKET"] = socket

    engine = _make_engine(model, connected=socket is not None)
    pipe.send(("ready", None))
    while True:
        try:
            message = pipe.recv()
        except EOFError:
            break
        if message[0] == "stop":
            break
        _, jobs, together = message
        pipe.send(("done", _run(engine, pipe, jobs, together)))
    engine.engine_core.shutdown()


def die_with_parent() -> None:
    """Has the kernel kill this process when its parent ends, so that nothing stays behind in any case."""
    set_parent_death_signal = 1
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL)


def _make_engine(model: str, connected: bool) -> Any:
    from vllm import LLM
    from vllm.config import KVTransferConfig

    llm = LLM(
        model=model,
        skip_tokenizer_init=True,
        enforce_eager=True,
        dtype="float32",
        seed=0,
        block_size=BLOCK_TOKENS,
        num_gpu_blocks_override=GPU_BLOCKS,
        enable_prefix_caching=True,
        prefix_caching_hash_algo="sha256_cbor",
        disable_log_stats=False,
        kv_transfer_config=KVTransferConfig(**CONNECTOR) if connected else None,
    )
    return llm.llm_engine


def _run(engine: Any, pipe: Connection, jobs: list[Job], together: bool) -> Batch:
    batch = Batch(prompt_tokens=sum(len(job.prompt) for job in jobs))
    before = _prompt_tokens_by_source()
    for group in [jobs] if together else [[job] for job in jobs]:
        _run_group(engine, pipe, group, batch)
    after = _prompt_tokens_by_source()
    batch.gpu_tokens = after["local_cache_hit"] - before["local_cache_hit"]
    batch.kvtier_tokens = after["external_kv_transfer"] - before["external_kv_transfer"]
    return batch


def _run_group(engine: Any, pipe: Connection, jobs: list[Job], batch: Batch) -> None:
    from vllm import SamplingParams

    started = time.monotonic()
    for job in jobs:
        sampling = SamplingParams(temperature=0, max_tokens=job.answer_tokens, ignore_eos=True, detokenize=False)
        engine.add_request(job.name, {"prompt_token_ids": job.prompt}, sampling)
    seen = set()
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.request_id not in seen:
                seen.add(output.request_id)
                batch.first_token_seconds.append(time.monotonic() - started)
                pipe.send(("first", output.request_id))
            if output.finished:
                batch.answers[output.request_id] = list(output.outputs[0].token_ids)
    # A server goes on stepping while its connector has stores under way; so do we.
    deadline = time.monotonic() + DRAIN_SECONDS
    scheduler = engine.engine_core.engine_core.scheduler
    while scheduler.has_requests():
        if time.monotonic() > deadline:
            raise EngineFailed(f"the connector still has work {DRAIN_SECONDS} s after the last answer")
        engine.step()


def _prompt_tokens_by_source() -> dict[str, int]:
    from vllm.v1.metrics.reader import get_metrics_snapshot

    return {
        metric.labels["source"]: int(metric.value)
        for metric in get_metrics_snapshot()
        if metric.name == "vllm:prompt_tokens_by_source"
    }
