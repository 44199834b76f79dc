"""Engines and daemons of the end-to-end tests. Whatever a test starts is ended after it."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from daemon import Daemon  # noqa: E402
from engine import EngineProcess  # noqa: E402
from models import MODELS, write_model  # noqa: E402


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Paths of the models by name."""
    directory = tmp_path_factory.mktemp("models")
    return {name: write_model(directory, name) for name in MODELS}


@pytest.fixture
def daemon(tmp_path):
    """A daemon that serves."""
    running = Daemon(tmp_path).start()
    yield running
    running.kill()


@pytest.fixture
def start(models):
    """Starts engines: `start("llama", daemon, blocks_per_chunk=4)`; without a daemon kvtier is not configured."""
    engines: list[EngineProcess] = []

    def start_engine(model: str, daemon: Daemon | None, kvtier: dict | None = None, **options) -> EngineProcess:
        environment = {} if daemon is None else daemon.environment
        extra = None if daemon is None else kvtier or {}
        engine = EngineProcess(models[model], environment, extra, **options)
        engines.append(engine)
        return engine

    yield start_engine
    for engine in engines:
        engine.kill()


@pytest.fixture(scope="session")
def prompts():
    """Three prompts of 300 tokens that share nothing."""
    rng = random.Random(20)
    return [[rng.randrange(500) for _ in range(300)] for _ in range(3)]


@pytest.fixture(scope="session")
def expected(models, prompts):
    """Answers of engines without kvtier, by model."""
    answers = {}

    def answers_of(model: str, inputs: list[list[int]] | None = None, **options) -> list:
        asked = inputs or prompts
        key = (model, str(asked), str(options))
        if key not in answers:
            generation = {k: options.pop(k) for k in ("max_tokens", "lora", "salt") if k in options}
            engine = EngineProcess(models[model], {}, None, **options)
            answers[key] = [answer.content for answer in engine.generate(asked, **generation)]
            engine.kill()
        return answers[key]

    return answers_of


def contents(answers) -> list:
    """What must be equal with and without kvtier."""
    return [answer.content for answer in answers]


def cached(answers) -> list[int]:
    """How many prompt tokens each request did not have to compute."""
    return [answer.cached for answer in answers]
