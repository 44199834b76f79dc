"""Shows kvtier at work: real vLLM engines, one killed, its successor and a neighbour served from what it computed.

The phases, each with the same conversations and with answers that must not differ:

1. an engine without kvtier answers turns 1 to 4: the reference;
2. it is killed, and its successor, without kvtier, answers turn 3: what a restart costs;
3. engine A, with kvtier, answers turns 1 and 2, and is SIGKILLed in the middle of turn 3;
4. its successor, engine B, answers turn 3 with what A has left;
5. engine C joins: B computes turn 4 of half of the conversations and C reads it, then the other way round.
"""

import argparse
import multiprocessing.forkserver
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daemon import Daemon, DaemonFailed
from engine import Batch, Engine, EngineFailed, preload
from model import make_model
from report import Row, json_failed, json_ok, milliseconds, table
from workload import Conversation, make_conversations

TURNS = 4
LOG_LINES_SHOWN = 25
RESTART_WITHOUT = "no kvtier, engine restarted: turn 3"
RESTART_WITH = "kvtier, engine B, just started: turn 3"
# Where kvtier should serve, all but the last question and its block is there to be read.
CACHED_SHARE_LEAST = 0.85


class DemoFailed(RuntimeError):
    """The demo ran, and did not show what it should."""


class Demo:
    """Owns every process and the scratch directory, and the rows of the table so far."""

    def __init__(self, scratch: Path, kvtierd: Path) -> None:
        self.scratch = scratch
        self.kvtierd = kvtierd
        self.model = scratch / "model"
        self.rows: list[Row] = []
        self.engines: list[Engine] = []
        self.daemon: Daemon | None = None
        self.conversations = make_conversations(TURNS)
        self.began = time.monotonic()

    def say(self, text: str) -> None:
        """Tells people what is going on."""
        print(f"[{time.monotonic() - self.began:5.0f} s] {text}", file=sys.stderr, flush=True)

    def run(self) -> None:
        """All phases."""
        self.say("making a small llama with random weights; importing vLLM (20 to 60 s, once for all engines)")
        preload(self.scratch / "vllm.log")
        make_model(self.model)
        self._run_without_kvtier()
        self._start_daemon()
        self._run_and_kill_a()
        b = self._run_b()
        self._run_side_by_side(b)
        self._stop_all()

    def _run_without_kvtier(self) -> None:
        engine = self._start_engine("without-kvtier", connected=False)
        self.say("the reference: four conversations of four turns, without kvtier")
        total = Batch()
        for turn in range(1, TURNS + 1):
            batch = engine.run([talk.job(turn) for talk in self.conversations])
            for talk in self.conversations:
                talk.answers.append(batch.answers[talk.job(turn).name])
            total = total + batch
        self.rows.append(Row("no kvtier: turns 1-4", total, None, connected=False))
        engine.kill()
        engine = self._start_engine("without-kvtier-2", connected=False)
        self.say("turn 3 again in a new engine, without kvtier: everything is computed again")
        self._measure(RESTART_WITHOUT, engine, self.conversations, 3, connected=False)
        engine.stop()

    def _start_daemon(self) -> None:
        self.say("starting kvtierd with its defaults")
        self.daemon = Daemon(self.kvtierd, self.scratch / "kvtier.sock", self.scratch / "kvtierd.log")
        self.daemon.wait_ready()

    def _run_and_kill_a(self) -> None:
        a = self._start_engine("engine-A")
        self.say("engine A, with kvtier: turns 1 and 2")
        for turn in (1, 2):
            self._measure(f"kvtier, engine A: turn {turn}", a, self.conversations, turn)
        self.say("engine A: turn 3 of all conversations at once, and SIGKILL in the middle")
        a.start([talk.job(3) for talk in self.conversations])
        pid = a.kill()
        self.rows.append(Row(f"kvtier, engine A (pid {pid}): SIGKILL during turn 3"))

    def _run_b(self) -> Engine:
        b = self._start_engine("engine-B")
        self.say("engine B, a new process: turn 3, from what A left in kvtier")
        self._measure(RESTART_WITH, b, self.conversations, 3, served=True)
        return b

    def _run_side_by_side(self, b: Engine) -> None:
        c = self._start_engine("engine-C")
        half = len(self.conversations) // 2
        for writer, reader, talks in ((b, c, self.conversations[:half]), (c, b, self.conversations[half:])):
            one, other = writer.name[-1], reader.name[-1]
            self.say(f"side by side: {one} computes turn 4 of {len(talks)} conversations, then {other} reads it")
            self._measure(f"kvtier, B and C side by side: {one} computes turn 4", writer, talks, 4)
            self._measure(f"kvtier, B and C side by side: {other} reads it", reader, talks, 4, served=True)

    def _start_engine(self, name: str, connected: bool = True) -> Engine:
        self.say(f"starting vLLM ({name})")
        socket = self.daemon.path if connected and self.daemon else None
        engine = Engine(name, self.model, self.scratch / f"{name}.log", socket)
        self.engines.append(engine)
        engine.wait_ready()
        return engine

    def _measure(
        self,
        phase: str,
        engine: Engine,
        talks: list[Conversation],
        turn: int,
        connected: bool = True,
        served: bool = False,
    ) -> None:
        """Runs a turn, compares the answers, and insists on hits from kvtier where `served` says so."""
        jobs = [talk.job(turn) for talk in talks]
        batch = engine.run(jobs)
        equal = all(batch.answers[job.name] == talk.answers[turn - 1] for job, talk in zip(jobs, talks))
        self.rows.append(Row(phase, batch, equal, connected))
        if self.daemon:
            self.daemon.check_alive()
        if not equal:
            raise DemoFailed(f"answers differ from the reference in: {phase}")
        cached = batch.gpu_tokens + batch.kvtier_tokens
        if served and (batch.kvtier_tokens == 0 or cached < CACHED_SHARE_LEAST * batch.prompt_tokens):
            raise DemoFailed(f"only {batch.kvtier_tokens} prompt tokens came from kvtier in: {phase}")

    def _stop_all(self) -> None:
        self.say("stopping the engines and the daemon")
        for engine in self.engines:
            engine.stop()
        self.daemon.stop()

    def result(self) -> str:
        """The last two lines of a demo that went well: one for people, one for programs."""
        by_phase = {row.phase: row.batch for row in self.rows}
        without = milliseconds(by_phase[RESTART_WITHOUT])
        with_kvtier = milliseconds(by_phase[RESTART_WITH])
        line = json_ok(
            self.rows,
            restart_first_token_ms=round(with_kvtier, 1),
            restart_first_token_ms_without=round(without, 1),
            seconds=round(time.monotonic() - self.began),
        )
        return (
            f"After a restart the first token of turn 3 comes after {with_kvtier:,.0f} ms with kvtier, "
            f"{without:,.0f} ms without.\n{line}"
        )

    def clean_up(self) -> None:
        """Ends whatever still runs, in any state."""
        for engine in self.engines:
            engine.end()
        if self.daemon:
            self.daemon.kill()
        # The server that engines are forked from would end by itself when we do; this waits for it.
        multiprocessing.forkserver._forkserver._stop()

    def show_logs(self) -> None:
        """Prints the ends of all logs, for a demo that failed."""
        for log in sorted(self.scratch.glob("*.log"), key=os.path.getmtime):
            lines = log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
            print(f"\n--- the end of {log.name}", *lines, sep="\n", file=sys.stderr)


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory that is removed in any case."""
    path = Path(tempfile.mkdtemp(prefix="kvtier-demo-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _end(number: int, _frame: object) -> None:
    raise DemoFailed(f"ended by {signal.Signals(number).name}")


def main() -> int:
    """Runs the demo. The last line on stdout is JSON, whatever happens."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kvtierd", type=Path, required=True, help="the daemon's program")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)

    with scratch_directory() as scratch:
        demo = Demo(scratch, arguments.kvtierd)
        try:
            demo.run()
            reason = None
        except (DemoFailed, EngineFailed, DaemonFailed, OSError) as error:
            demo.show_logs()
            reason = str(error)
        finally:
            demo.clean_up()
    print(f"\n{table(demo.rows)}\n")
    print(json_failed(reason) if reason else demo.result(), flush=True)
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
