"""The operator's routes of the gateway: what is there, who may see it, and what can be done about dead letters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from queued import REFUSED, fill
from serving import Serving, serving

from rentgen.records.studies import Principal, Role
from rentgen.service.gateway import MOST_LETTERS
from rentgen.store.gateway import Queue

ADMIN = Principal("test", Role.ADMIN)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path, ready=False, auth="keys") as running:
        yield running


@pytest.fixture
def client(served: Serving) -> Iterator[httpx.Client]:
    with served.client(headers=key(served, Role.ADMIN)) as found:
        yield found


@pytest.fixture
def queue(tmp_path: Path, served: Serving) -> Iterator[Queue]:
    """Return the queue as the gateway has it: another process, with the service's database."""
    opened = Queue.open(f"sqlite:///{tmp_path / 'store.db'}")
    yield opened
    opened.close()


def key(served: Serving, role: Role) -> dict[str, str]:
    assert served.desk.store is not None
    return {"X-API-Key": served.desk.store.add_key(role, role, days=1, actor=ADMIN)}


def overview(client: httpx.Client) -> dict[str, Any]:
    answer = client.get("/v1/gateway")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def counted(found: dict[str, Any]) -> dict[tuple[str, str, str], int]:
    return {(one["step"], one["destination"], one["state"]): one["count"] for one in found["steps"]}


def actions(served: Serving) -> list[tuple[str, str]]:
    assert served.desk.store is not None
    return [(entry.action, entry.actor) for entry in served.desk.store.audit_entries() if "gateway" in entry.action]


def test_an_empty_queue_says_so(client: httpx.Client) -> None:
    assert overview(client) == {
        "objects": 0,
        "conflicts": 0,
        "open_batches": 0,
        "oldest_s": None,
        "steps": [],
        "dead_letters": [],
    }


def test_what_is_in_hand_is_counted_and_what_is_stuck_is_named(client: httpx.Client, queue: Queue) -> None:
    fill(queue, ago_s=300)
    found = overview(client)
    assert (found["objects"], found["conflicts"], found["open_batches"]) == (12, 1, 1)
    assert 300 <= found["oldest_s"] < 360
    assert counted(found) == {
        ("analyse", "", "done"): 11,
        ("encode", "", "done"): 10,
        ("encode", "", "dead"): 1,
        ("deliver", "pacs", "done"): 6,
        ("deliver", "pacs", "leased"): 1,
        ("deliver", "pacs", "waiting"): 3,
        ("deliver", "ris", "done"): 8,
        ("deliver", "ris", "dead"): 2,
    }
    letters = found["dead_letters"]
    assert [(one["step"], one["destination"], one["attempts"]) for one in letters] == [
        ("encode", "", 1),
        ("deliver", "ris", 1),
        ("deliver", "ris", 1),
    ]
    assert letters[1]["reason"] == REFUSED
    # Nothing of a study goes out: not its UID, nor what is in its documents.
    assert "1.2.3" not in client.get("/v1/gateway").text


def test_one_or_a_destination_or_all_are_tried_again(served: Serving, client: httpx.Client, queue: Queue) -> None:
    fill(queue)
    first = overview(client)["dead_letters"][0]["job_id"]
    assert client.post("/v1/gateway/retry", json={"job_id": first}).json() == {"retried": 1}
    assert counted(overview(client))["encode", "", "waiting"] == 1
    again = client.post("/v1/gateway/retry", json={"job_id": first})
    assert (again.status_code, again.json()["code"]) == (404, "not_found")
    assert client.post("/v1/gateway/retry", json={"destination": "pacs"}).json() == {"retried": 0}
    assert client.post("/v1/gateway/retry", json={"destination": "ris"}).json() == {"retried": 2}
    assert overview(client)["dead_letters"] == []
    assert client.post("/v1/gateway/retry", json={}).json() == {"retried": 0}
    assert {actor for action, actor in actions(served) if action == "gateway.retry"} == {"admin"}


def test_one_is_given_up_for_good(served: Serving, client: httpx.Client, queue: Queue) -> None:
    fill(queue)
    job = overview(client)["dead_letters"][1]["job_id"]
    assert client.post("/v1/gateway/discard", json={"job_id": job}).json() == {"discarded": 1}
    left = overview(client)["dead_letters"]
    assert len(left) == 2
    assert job not in [one["job_id"] for one in left]
    again = client.post("/v1/gateway/discard", json={"job_id": job})
    assert (again.status_code, again.json()["code"]) == (404, "not_found")
    assert client.post("/v1/gateway/retry", json={"job_id": job}).status_code == 404
    assert [actor for action, actor in actions(served) if action == "gateway.discard"] == ["admin"]


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("retry", {"job_id": "1"}),
        ("retry", {"job_id": 0}),
        ("retry", {"job_id": 2**40}),
        ("retry", {"destination": ""}),
        ("retry", {"destination": "a\0b"}),
        ("retry", {"everything": True}),
        ("discard", {}),
        ("discard", {"job_id": None}),
        ("discard", {"job_id": True}),
    ],
)
def test_what_is_not_of_the_form_is_refused(route: str, body: dict[str, object], client: httpx.Client) -> None:
    answer = client.post(f"/v1/gateway/{route}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/retry"), ("POST", "/discard")])
def test_it_is_for_admins(method: str, path: str, served: Serving) -> None:
    with served.client() as client:
        assert client.request(method, f"/v1/gateway{path}", json={"job_id": 1}).status_code == 401
        for role in (Role.READER, Role.PHYSICIAN):
            answer = client.request(method, f"/v1/gateway{path}", json={"job_id": 1}, headers=key(served, role))
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_the_page_s_session_needs_its_token(served: Serving, queue: Queue) -> None:
    fill(queue)
    with served.client() as client:
        given = key(served, Role.ADMIN)["X-API-Key"]
        token = client.post("/v1/session", json={"key": given}).json()["csrf"]
        job = overview(client)["dead_letters"][0]["job_id"]
        for path in ("retry", "discard"):
            assert client.post(f"/v1/gateway/{path}", json={"job_id": job}).status_code == 403
        done = client.post("/v1/gateway/retry", json={"job_id": job}, headers={"X-CSRF-Token": token})
        assert done.json() == {"retried": 1}


def test_without_a_store_there_is_no_queue(tmp_path: Path) -> None:
    with serving(tmp_path, ready=False, store=False) as running, running.client() as client:
        for method, path in (("GET", ""), ("POST", "/retry"), ("POST", "/discard")):
            answer = client.request(method, f"/v1/gateway{path}", json={"job_id": 1})
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
            assert "keeps nothing" in answer.json()["detail"]


def test_a_long_list_is_cut(client: httpx.Client, monkeypatch: pytest.MonkeyPatch, queue: Queue) -> None:
    assert MOST_LETTERS == 200
    monkeypatch.setattr("rentgen.service.gateway.MOST_LETTERS", 2)
    fill(queue)
    found = overview(client)
    assert len(found["dead_letters"]) == 2
    assert sum(one["count"] for one in found["steps"] if one["state"] == "dead") == 3


def test_the_description_names_it(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path, method in (("/v1/gateway", "get"), ("/v1/gateway/retry", "post"), ("/v1/gateway/discard", "post")):
        answers = paths[path][method]["responses"]
        assert {"200", "401", "403", "404", "422", "503"} <= set(answers)
        assert "$ref" in answers["200"]["content"]["application/json"]["schema"]
