"""The messages about failed runs: what they say, when they are sent, and what a wrong URL does."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import dagster as dg
import pytest
from graphs import MODEL, MOLECULES, Graph

from precalc_assets.defs.failure_messages import failure_sensor, post

KEY = f"{MODEL}|02"


@contextmanager
def webhook(status: int = 200) -> Iterator[tuple[str, list[dict]]]:
    """A server at a URL with a secret, and what was posted to it."""
    posted: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/secret", posted
        server.shutdown()


@contextmanager
def failed_run(world, url: str) -> Iterator[tuple[Graph, dg.RunFailureSensorContext]]:
    """A run that failed since a shard of the library is damaged, as the sensor gets it."""
    with dg.DagsterInstance.ephemeral() as instance:
        graph = Graph(world, instance, failure_webhook=url, ui_url="https://dagster.lab.example/")
        graph.change_library(MOLECULES)
        world.write_model()
        instance.add_dynamic_partitions("models", [MODEL])
        world.library_shard("02").write_bytes(b"damaged")
        result = graph.materialize("raw_predictions", first=KEY, last=KEY)
        run = instance.get_run_by_id(result.run_id)
        [event] = [each for each in result.all_events if each.is_run_failure]
        yield (
            graph,
            dg.build_run_status_sensor_context(
                "failure_messages", event, instance, run, resources={"platform": graph.platform}
            ).for_run_failure(),
        )


def test_message_names_model_partition_reason_and_run(world):
    with webhook() as (url, posted), failed_run(world, url) as (graph, context):
        failure_sensor(graph.platform.settings)(context)

        [message] = posted
        head, *why, link = message["text"].splitlines()
        assert head == f"precalc: raw_predictions of {MODEL} ({KEY}) failed"
        assert why[0] == "1 of 1 shards failed:"
        assert why[1].startswith(f"{KEY}: ")
        assert link == f"https://dagster.lab.example/runs/{context.dagster_run.run_id}"


@pytest.mark.parametrize("tags", [{"precalc/parent": "1"}, {"dagster/will_retry": "true"}])
def test_run_of_another_and_retried_run_send_nothing(world, tags: dict[str, str]):
    with webhook() as (url, posted), failed_run(world, url) as (graph, context):
        graph.instance.add_run_tags(context.dagster_run.run_id, tags)
        run = graph.instance.get_run_by_id(context.dagster_run.run_id)
        again = dg.build_run_status_sensor_context(
            "failure_messages", context.dagster_event, graph.instance, run, resources={"platform": graph.platform}
        )
        failure_sensor(graph.platform.settings)(again.for_run_failure())

        assert posted == []


@pytest.mark.parametrize("status", [404, 500])
def test_refused_message_is_told_without_the_secret(status: int):
    with webhook(status) as (url, _):
        told = post(url, "a run failed")
    assert told == f"no message was sent: HTTP {status}; check PRECALC_FAILURE_WEBHOOK"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/secret", "http://nowhere.invalid/secret", "http://[/secret"])
def test_wrong_url_breaks_nothing(url: str):
    assert "secret" not in post(url, "a run failed")


@pytest.mark.parametrize(("url", "status"), [("", "STOPPED"), ("https://hooks.example/secret", "RUNNING")])
def test_sensor_is_on_if_a_webhook_is_set(world, url: str, status: str):
    with dg.DagsterInstance.ephemeral() as instance:
        graph = Graph(world, instance, failure_webhook=url)
        sensor = graph.defs.resolve_sensor_def("failure_messages")
    assert sensor.default_status.value == status
