"""The benchmark's script of the connector drives the connector as it is: every figure comes out, none of them is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from real import Daemon

SCRIPT = Path(__file__).parents[2] / "bench/python/connector_bench.py"


def test_the_script_of_the_benchmark_prints_every_figure(tmp_path):
    daemon = Daemon(tmp_path).start()
    try:
        environment = {**os.environ, "KVTIER_SOCKET": daemon.socket}
        command = [sys.executable, str(SCRIPT), "--keys", "64", "--rounds", "2"]
        printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=300).stdout
    finally:
        daemon.kill()
    figures = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    names = [(figure["name"], figure["params"].get("path")) for figure in figures]
    assert names == [
        ("connector_us_per_key", "load"), ("connector_us_per_key", "store"), ("connector_wait_us_per_step", None)
    ]
    assert all(figure["value"] > 0 for figure in figures)
