"""Several models, reloaded while they answer; the queue in front of them; starting and stopping."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from made import film8, png
from serving import Serving, serving, tiny_bundle

from rentgen import bundle as bundles
from rentgen.images.phantom import Finding, draw, to_png
from rentgen.records.studies import Principal, Role
from rentgen.service.problems import MEDIA_TYPE

FILM = to_png(draw(Finding.NORMAL, np.random.default_rng(1)))
SLOW = png(np.kron(film8(50, 50), np.ones((80, 80), np.uint8)))
"""Sixteen megapixels in a small file: a tenth of a second and more to answer."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("models")
    models = [tiny_bundle(folder / "one.rentgen"), tiny_bundle(folder / "two.rentgen", seed=3)]
    broken = folder / "broken.rentgen"
    broken.write_bytes(models[0].read_bytes()[:1000])
    with serving(folder, models=tuple(map(str, (*models, broken)))) as running:
        yield running


def ask(client: httpx.Client, model: str | None = None, data: bytes = FILM) -> httpx.Response:
    return client.post("/v1/predict", params={"model": model} if model else {}, files={"films": ("a", data)})


def probabilities(answer: httpx.Response) -> dict[str, float]:
    assert answer.status_code == 200, answer.text
    found: dict[str, float] = answer.json()["predictions"][0]["probabilities"]
    return found


# -- several -----------------------------------------------------------------------------------------------------------


def test_several_models_answer_by_name_and_the_first_by_default(client: httpx.Client) -> None:
    first, second = ask(client, "one"), ask(client, "two")
    assert probabilities(ask(client)) == pytest.approx(probabilities(first))
    assert probabilities(first) != pytest.approx(probabilities(second))
    assert [answer.json()["model"]["name"] for answer in (first, second)] == ["one", "two"]
    listed = client.get("/v1/models").json()["models"]
    assert [(each["name"], each["state"], each["default"]) for each in listed] == [
        ("one", "ready", True),
        ("two", "ready", False),
        ("broken", "failed", False),
    ]
    assert listed[0]["bundle_id"] == first.json()["model"]["bundle_id"] != listed[1]["bundle_id"]
    assert listed[2]["error"]
    assert client.get("/v1/health").json()["models"] == 2


def test_a_model_that_failed_says_so_and_leaves_the_others_alone(client: httpx.Client) -> None:
    answer = ask(client, "broken")
    assert (answer.status_code, answer.json()["code"]) == (503, "loading")
    assert "could not be loaded" in answer.json()["detail"]
    assert client.get("/ping").status_code == 200
    assert ask(client, "none").status_code == 404


def test_a_study_holds_the_answers_of_both_and_feedback_names_the_one_it_judges(client: httpx.Client) -> None:
    answers = [client.post(f"/v1/studies?model={name}", files={"films": ("a.png", FILM)}) for name in ("one", "two")]
    assert [answer.status_code for answer in answers] == [201, 201]
    (study,) = answers[1].json()["studies"]
    image = study["images"][0]["id"]
    by_model = {each["model"]: each for each in study["predictions"]}
    assert set(by_model) == {"one", "two"}
    maps = {name: client.get(f"/v1/images/{image}/heatmap.png?model={name}&label=NORMAL").content for name in by_model}
    assert maps["one"] != maps["two"]
    for each in by_model.values():
        said = client.post(
            f"/v1/images/{image}/feedback", json={"agree": True, "prediction_id": each["prediction_id"]}
        ).json()
        assert (said["label"], said["prediction_id"]) == (each["label"], each["prediction_id"])


# -- reload ------------------------------------------------------------------------------------------------------------


def test_reload_takes_a_good_file_and_keeps_the_old_model_for_a_bad_one(client: httpx.Client, served: Serving) -> None:
    source = served.desk.models.entry("two").source
    before = client.get("/v1/models").json()["models"][1]
    old = probabilities(ask(client, "two"))
    good = source.read_bytes()
    broken = bundles.read(source)
    golden = replace(broken.golden, logits=broken.golden.logits + 1)
    for content in (good[: len(good) // 2], b"", b"no zip"):
        source.write_bytes(content)
        _refuses_to_reload(client, old)
    bundles.write(source, replace(broken, golden=golden))
    _refuses_to_reload(client, old)
    source.unlink()
    _refuses_to_reload(client, old)
    assert client.get("/ping").status_code == 200
    listed = client.get("/v1/models").json()["models"][1]
    assert (listed["state"], listed["bundle_id"]) == ("ready", before["bundle_id"])
    assert listed["error"]
    tiny_bundle(source, seed=4)
    answer = client.post("/v1/models/two/reload")
    assert answer.status_code == 200
    assert answer.json()["error"] is None
    assert answer.json()["bundle_id"] != before["bundle_id"]
    assert probabilities(ask(client, "two")) != pytest.approx(old)
    assert client.post("/v1/models/none/reload").status_code == 404


def _refuses_to_reload(client: httpx.Client, old: dict[str, float]) -> None:
    answer = client.post("/v1/models/two/reload")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert probabilities(ask(client, "two")) == pytest.approx(old)


def test_a_broken_model_comes_back_by_reload(client: httpx.Client, served: Serving) -> None:
    source = served.desk.models.entry("broken").source
    damaged = source.read_bytes()
    shutil.copy(served.desk.models.entry("one").source, source)
    assert client.post("/v1/models/broken/reload").json()["state"] == "ready"
    assert probabilities(ask(client, "broken")) == pytest.approx(probabilities(ask(client, "one")))
    # A model that has answered once goes on, whatever becomes of its file.
    source.write_bytes(damaged)
    assert client.post("/v1/models/broken/reload").status_code == 409
    assert ask(client, "broken").status_code == 200


def test_nobody_waits_while_a_model_is_reloaded(client: httpx.Client, served: Serving) -> None:
    stop = threading.Event()

    def reload() -> int:
        with served.client() as own:
            done = 0
            while not stop.is_set():
                assert own.post("/v1/models/one/reload").status_code == 200
                done += 1
        return done

    expected = probabilities(ask(client, "one"))
    with ThreadPoolExecutor(1) as pool:
        reloading = pool.submit(reload)
        for _ in range(20):
            assert probabilities(ask(client, "one")) == pytest.approx(expected)
        stop.set()
        assert reloading.result() >= 1


# -- the queue ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Run a service of one thread, in front of which two films may wait."""
    with serving(tmp_path_factory.mktemp("narrow"), queue=2, streams=1) as running:
        yield running


def settle(served: Serving, pending: int) -> None:
    """Wait until so many films wait or run."""
    for _ in range(1000):
        if served.desk.queue.pending == pending:
            return
        time.sleep(0.01)
    raise TimeoutError(f"{served.desk.queue.pending} films are pending, not {pending}")


def test_what_does_not_fit_gets_429_and_a_time_to_come_back(narrow: Serving) -> None:
    with narrow.client() as client, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: ask(client, data=SLOW), range(12)))
    codes = sorted({answer.status_code for answer in answers})
    assert codes == [200, 429]
    refused = [answer for answer in answers if answer.status_code == 429]
    for answer in refused:
        assert answer.json()["code"] == "busy"
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    settle(narrow, 0)
    with narrow.client() as client:
        assert ask(client).status_code == 200


def test_a_client_that_leaves_frees_its_place(narrow: Serving) -> None:
    boundary = "leaving"
    part = b'--leaving\r\nContent-Disposition: form-data; name="films"; filename="a"\r\n\r\n' + SLOW + b"\r\n"
    body = part * 40 + b"--leaving--\r\n"
    head = (
        f"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: multipart/form-data; boundary={boundary}\r\n\r\n"
    )
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", int(narrow.url.rpartition(":")[2]))) as connection:
        connection.sendall(head.encode() + body)
        while narrow.desk.queue.pending < 30:
            time.sleep(0.01)
            assert time.monotonic() - began < 20
        with narrow.client() as client:
            assert ask(client).status_code == 429
    left = time.monotonic()
    settle(narrow, 0)
    # One film may have been under way; forty take seconds.
    assert time.monotonic() - left < 2
    with narrow.client() as client:
        assert ask(client).status_code == 200


def test_probes_answer_while_sixteen_films_are_computed(served: Serving) -> None:
    with served.client() as client, ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(ask, client, None, SLOW) for _ in range(16)]
        worst, count = 0.0, 0
        with served.client() as prober:
            while not all(future.done() for future in asked):
                for path in ("/ping", "/livez", "/v1/health"):
                    began = time.monotonic()
                    assert prober.get(path).status_code == 200
                    worst, count = max(worst, time.monotonic() - began), count + 1
                time.sleep(0.005)
        assert [future.result().status_code for future in asked] == [200] * 16
    assert count >= 3
    assert worst < 2


# -- starting and stopping ---------------------------------------------------------------------------------------------


@contextmanager
def process(*arguments: str | Path, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `rentgen serve`, and give it and its address once it listens."""
    command = [sys.executable, "-m", "rentgen", "serve", "--port", "0", *map(str, arguments)]
    running = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200", **environment}
    )
    assert running.stderr is not None
    try:
        for line in running.stderr:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                yield running, found[0]
                return
        raise RuntimeError("the service did not start")
    finally:
        running.kill()
        running.wait()
        running.stderr.close()


def test_a_model_that_loads_keeps_callers_waiting_but_not_the_platform(tmp_path: Path) -> None:
    """The process listens before any model is there, and says by 503 when to come again."""
    last = tmp_path / "last.rentgen"
    last.symlink_to(bundles.find("pneumonia"))
    models = ("--model", "pneumonia", "--model", last)
    with process(*models, "--database", f"sqlite:///{tmp_path}/s.db") as (_, url), httpx.Client(
        base_url=url, timeout=30, trust_env=False
    ) as client:  # fmt: skip
        assert client.get("/livez").status_code == 200
        waiting, asked = client.get("/ping"), ask(client, "last")
        assert client.get("/").status_code == 200
        for answer in (waiting, asked):
            assert (answer.status_code, answer.json()["code"]) == (503, "loading")
            assert int(answer.headers["retry-after"]) >= 1
        for _ in range(400):
            if client.get("/readyz").status_code == 200:
                break
            time.sleep(0.05)
        assert client.get("/ping").status_code == 200
        # What is no radiograph is said to be none; black, white and noise are no pneumonia of 0.5 and more.
        noise = np.random.default_rng(0).integers(0, 256, (400, 400), np.uint8)
        for picture in (noise, np.zeros_like(noise), np.full_like(noise, 255)):
            (shown,) = ask(client, data=png(picture)).json()["predictions"]
            assert shown["status"] == "out_of_scope" or shown["probabilities"]["PNEUMONIA"] < 0.1
            assert sum(shown["probabilities"].values()) == pytest.approx(1)


def test_sigterm_answers_what_was_accepted_and_takes_no_more(tmp_path: Path) -> None:
    model = tiny_bundle(tmp_path / "tiny.rentgen")
    with process("--model", model, "--database", f"sqlite:///{tmp_path}/s.db") as (running, url), httpx.Client(
        base_url=url, timeout=60, trust_env=False
    ) as client, ThreadPoolExecutor(16) as pool:  # fmt: skip
        while client.get("/ping").status_code != 200:
            time.sleep(0.02)
        asked = [pool.submit(ask, client, None, SLOW) for _ in range(16)]
        with httpx.Client(base_url=url, trust_env=False) as watcher:
            while watcher.get("/v1/health").json()["queue"]["waiting"] < 10 and not all(one.done() for one in asked):
                time.sleep(0.005)
        assert not all(one.done() for one in asked)
        running.send_signal(signal.SIGTERM)
        assert [one.result().status_code for one in asked] == [200] * 16
        running.wait(timeout=20)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/livez", trust_env=False)
    assert running.returncode in (0, -signal.SIGTERM)


def test_draining_says_so(tmp_path: Path) -> None:
    with serving(tmp_path) as running, running.client() as client:
        assert ask(client).status_code == 200
        asyncio.run(running.desk.queue.drain(0.0))
        answer = ask(client)
        assert (answer.status_code, answer.json()["code"]) == (503, "draining")
        assert int(answer.headers["retry-after"]) >= 1


def test_reload_is_for_admins(tmp_path: Path) -> None:
    with serving(tmp_path, auth="keys") as running:
        assert running.desk.store is not None
        admin = Principal("test", Role.ADMIN)
        keys = {role: running.desk.store.add_key(role, role, days=1, actor=admin) for role in Role}
        with running.client() as client:
            codes = {
                role: client.post("/v1/models/tiny/reload", headers={"X-API-Key": key}).status_code
                for role, key in keys.items()
            }
    assert codes == {Role.READER: 403, Role.PHYSICIAN: 403, Role.ADMIN: 200}
