"""The demo's own logic, without vLLM: what it asks, what it accepts, what it prints."""

import json
from pathlib import Path

import pytest
from engine import Batch, Job
from main import Demo, DemoFailed
from model import make_model
from report import Row, json_failed, json_ok, table
from workload import make_conversations


class FakeEngine:
    """Answers every job with the same tokens and the given sources."""

    name = "engine-X"

    def __init__(self, answer: list[int], gpu: int, kvtier: int) -> None:
        self.answer, self.gpu, self.kvtier = answer, gpu, kvtier

    def run(self, jobs: list[Job]) -> Batch:
        answers = {job.name: self.answer for job in jobs}
        return Batch(answers, [0.5] * len(jobs), sum(len(job.prompt) for job in jobs), self.gpu, self.kvtier)


def demo_with_reference(tmp_path: Path) -> Demo:
    demo = Demo(tmp_path, tmp_path / "kvtierd")
    for talk in demo.conversations:
        talk.answers.append([1, 2, 3])
    return demo


def test_each_turn_repeats_the_whole_conversation_before_it() -> None:
    talk = make_conversations(turns=3)[0]
    talk.answers += [[5, 6], [7, 8]]
    first, second = talk.job(1).prompt, talk.job(2).prompt
    assert second[: len(first)] == first
    assert second[len(first) : len(first) + 2] == [5, 6]
    assert talk.job(3).prompt[: len(second)] == second


def test_conversations_are_the_same_in_every_run_and_share_the_system_prompt() -> None:
    one, other = make_conversations(2), make_conversations(2)
    assert [talk.said for talk in one] == [talk.said for talk in other]
    assert all(talk.system == one[0].system for talk in one)
    assert one[0].said != one[1].said


def test_a_different_answer_fails_the_demo(tmp_path: Path) -> None:
    demo = demo_with_reference(tmp_path)
    with pytest.raises(DemoFailed, match="answers differ"):
        demo._measure("phase", FakeEngine([1, 2, 4], 0, 0), demo.conversations, 1)
    assert demo.rows[-1].equal is False


@pytest.mark.parametrize(("gpu", "kvtier"), [(13000, 0), (0, 5000)])
def test_a_phase_that_kvtier_should_serve_fails_without_its_tokens(tmp_path: Path, gpu: int, kvtier: int) -> None:
    demo = demo_with_reference(tmp_path)
    engine = FakeEngine([1, 2, 3], gpu, kvtier)
    demo._measure("not served", engine, demo.conversations, 1)
    with pytest.raises(DemoFailed, match="prompt tokens came from kvtier"):
        demo._measure("served", engine, demo.conversations, 1, served=True)


def test_the_json_line_counts_only_engines_that_used_kvtier() -> None:
    rows = [
        Row("without", Batch({}, [1.0], 100, 50, 0), None, connected=False),
        Row("killed"),
        Row("with", Batch({}, [1.0], 1000, 100, 800), True),
    ]
    line = json.loads(json_ok(rows, seconds=3))
    assert line == {"demo": "ok", "answers_equal": True, "prompt_tokens": 1000, "kvtier_tokens": 800, "seconds": 3}


def test_a_failure_is_a_json_line_with_its_reason() -> None:
    assert json.loads(json_failed('it said "no"')) == {"demo": "failed", "reason": 'it said "no"'}


def test_the_table_shows_sources_time_and_answers() -> None:
    text = table([Row("a phase", Batch({}, [0.1, 0.2, 0.3], 1000, 100, 800), True), Row("a phase without figures")])
    row = text.splitlines()[3]
    assert row.split() == ["a", "phase", "1,000", "100", "800", "100", "200", "ms", "equal"]
    assert text.splitlines()[4] == "a phase without figures"


def test_the_model_is_written_with_all_its_bytes(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    data = (tmp_path / "model" / "model.safetensors").read_bytes()
    header_bytes = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + header_bytes])
    assert max(entry["data_offsets"][1] for entry in header.values()) == len(data) - 8 - header_bytes
    assert len(json.loads((tmp_path / "model" / "config.json").read_text())["architectures"]) == 1
