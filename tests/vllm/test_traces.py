"""A request is followed within the trace that it came with, from vLLM's own request to a collector."""

from __future__ import annotations

import http.server
import threading
import time

import pytest
from daemon import Daemon
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

CACHED = 288


class Collector:
    """An OTLP endpoint over HTTP that keeps spans."""

    def __init__(self) -> None:
        self.spans: list = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # noqa: N802 - the name is the library's
                body = self.rfile.read(int(self.headers["content-length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans.extend(scope.spans)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def wait_for(self, name: str, count: int) -> None:
        """Waits until it has so many spans of this name."""
        until = time.monotonic() + 60
        while sum(span.name == name for span in self.spans) < count:
            assert time.monotonic() < until, f"want {count} of {name}, got {[span.name for span in self.spans]}"
            time.sleep(0.02)

    def close(self) -> None:
        """Listens no more."""
        self._server.shutdown()


@pytest.fixture
def collector():
    """A collector that listens."""
    listening = Collector()
    yield listening
    listening.close()


@pytest.fixture
def traced(collector, tmp_path):
    """A daemon that sends traces there, and begins none of its own."""
    settings = {"tracing_exporter": "otlp", "tracing_protocol": "http/protobuf", "tracing_sample_ratio": "0"}
    running = Daemon(tmp_path, tracing_endpoint=collector.endpoint, **settings).start()
    yield running
    running.kill()


def run(engine, name: str, prompt: list[int], traceparent: str | None) -> None:
    headers = None if traceparent is None else {"traceparent": traceparent}
    engine.call("add", name, prompt, 4, headers)
    until = time.monotonic() + 120
    while not engine.call("step", 10):
        assert time.monotonic() < until
    assert engine.call("forget")


def test_a_request_is_followed_within_the_trace_it_came_with(collector, traced, start, prompts):
    engine = start("llama", traced)
    trace, sender = ["0af7651916cd43dd8448eb211c80319c", "1af7651916cd43dd8448eb211c80319c"], "b7ad6b7169203331"
    run(engine, "first", prompts[0], f"00-{trace[0]}-{sender}-01")
    run(engine, "unseen", prompts[0], None)
    run(engine, "unrecorded", prompts[0], f"00-{'9' * 32}-{sender}-00")
    run(engine, "second", prompts[0], f"00-{trace[1]}-{sender}-01")
    collector.wait_for("kvtier.request", 2)
    found = {key: {s.name: s for s in collector.spans if s.trace_id.hex() == key} for key in trace}
    assert {span.trace_id.hex() for span in collector.spans} == set(trace)
    for key, name, names in zip(trace, ("first", "second"), ("kvtier.store", "kvtier.load"), strict=True):
        spans = found[key]
        assert {"kvtier.request", "kvtier.lookup", names} <= set(spans)
        request = spans["kvtier.request"]
        assert request.parent_span_id.hex() == sender
        assert spans["kvtier.lookup"].parent_span_id == spans[names].parent_span_id == request.span_id
        assert request.start_time_unix_nano <= spans["kvtier.lookup"].start_time_unix_nano
        attributes = {a.key: a.value for a in request.attributes}
        assert attributes["kvtier.request.id"].string_value.startswith(name)
        assert attributes["kvtier.prompt.tokens"].int_value == len(prompts[0])
        assert attributes["kvtier.load.tokens"].int_value == (CACHED if name == "second" else 0)
