"""The OpenAPI description and the service hold each other's word: schemathesis asks, in both directions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest
import schemathesis
from hypothesis import strategies as st
from made import dicom, film, film8, jpeg, png, tiff
from openapi_spec_validator import validate
from schemathesis.config import (
    ChecksConfig,
    GenerationConfig,
    PhasesConfig,
    PositiveDataAcceptanceConfig,
    ProjectConfig,
    ProjectsConfig,
    SchemathesisConfig,
    StatefulPhaseConfig,
)
from schemathesis.engine import events, from_schema
from serving import Serving, serving, tiny_bundle

from rentgen.records.studies import Principal, Role
from rentgen.service.problems import CODES, MEDIA_TYPE

EXAMPLES = 10
METHODS = ("get", "put", "post", "delete")
KINDS = {
    "image/png": st.sampled_from([png(film8(seed=0)), png(film(seed=1))]),
    "image/jpeg": st.sampled_from([jpeg(film8(seed=2))]),
    "image/tiff": st.sampled_from([tiff(film(seed=3))]),
    "application/dicom": st.sampled_from([dicom(), dicom(film8(), bits=8)]),
    "application/octet-stream": st.sampled_from([png(film8(seed=4)), dicom()]),
}
for _kind, _films in KINDS.items():
    schemathesis.openapi.media_type(_kind, _films)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("openapi")
    models = (str(tiny_bundle(folder / "tiny.rentgen")), str(tiny_bundle(folder / "other.rentgen", seed=1)))
    with serving(folder, models=models, sets=(f"films={folder}",), queue=1000, auth="keys") as running:
        yield running


@pytest.fixture(scope="module")
def headers(served: Serving) -> dict[str, str]:
    """Return those that say who asks: an admin."""
    assert served.desk.store is not None
    key = served.desk.store.add_key("tester", Role.ADMIN, days=1, actor=Principal("test", Role.ADMIN))
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def document(served: Serving) -> dict[str, Any]:
    with served.client() as client:
        found: dict[str, Any] = client.get("/openapi.json").json()
    return found


@pytest.fixture(scope="module")
def api(served: Serving, document: dict[str, Any], headers: dict[str, str]) -> Any:  # noqa: ANN401
    """Return the description with names of studies and films that are there, one a route: one of them deletes."""
    alive = json.loads(json.dumps(document))
    with served.client(headers=headers) as client:
        for place, (path, item) in enumerate(alive["paths"].items()):
            for method, operation in item.items():
                for parameter in operation.get("parameters", ()):
                    if parameter["name"] in ("study_id", "image_id"):
                        parameter["examples"] = {
                            "there": {"value": _fresh(client, (place, METHODS.index(method)), path)}
                        }
                    elif parameter["in"] == "path" and path.startswith("/v1/models"):
                        parameter["examples"] = {"there": {"value": "other"}}
    # A file may be anything; only the films above are sent where a result is expected.
    checks = ChecksConfig(
        positive_data_acceptance=PositiveDataAcceptanceConfig(
            expected_statuses=["2xx", "401", "403", "404", "409", "410", "422", "429"]
        )
    )
    config = SchemathesisConfig(
        seed=1,
        projects=ProjectsConfig(
            default=ProjectConfig(
                base_url=served.url,
                checks=checks,
                generation=GenerationConfig(max_examples=EXAMPLES, deterministic=True, no_shrink=True),
                phases=PhasesConfig(stateful=StatefulPhaseConfig(enabled=False)),
                request_timeout=20,
                headers=headers,
            )
        ),
    )
    return schemathesis.openapi.from_dict(alive, config=config)


def _fresh(client: httpx.Client, seed: tuple[int, int], path: str) -> str:
    made = png(film8(seed=100 + 10 * seed[0] + seed[1]))
    study = client.post("/v1/studies", files={"films": ("a.png", made)}).json()["studies"][0]
    name: str = study["id"] if "study_id" in path else study["images"][0]["id"]
    return name


def test_the_service_does_what_its_description_says(api: Any, document: dict[str, Any]) -> None:  # noqa: ANN401
    asked: Counter[str] = Counter()
    faults: dict[str, str] = {}
    for event in from_schema(api).execute():
        assert not isinstance(event, events.FatalError | events.Interrupted), event
        if isinstance(event, events.NonFatalError):
            faults[f"{event.label} {event.value}"] = ""
        if isinstance(event, events.ScenarioFinished):
            asked[event.label or ""] += len(event.recorder.cases)
            for checks in event.recorder.checks.values():
                for check in checks:
                    if check.failure_info is not None:
                        failure = check.failure_info.failure
                        words = f"{event.recorder.label}: {check.name}: {failure.message}"
                        faults.setdefault(words, check.failure_info.code_sample[:2000])
    assert not faults, "\n\n".join(f"{words}\n{sample}" for words, sample in faults.items())
    assert len(asked) == sum(map(len, document["paths"].values()))
    assert min(asked.values()) >= 1


def test_the_description_is_valid_and_names_every_route(served: Serving, document: dict[str, Any]) -> None:
    validate(document)
    operations = [
        (path, method, operation) for path, item in document["paths"].items() for method, operation in item.items()
    ]
    assert len({operation["operationId"] for _, _, operation in operations}) == len(operations)
    for path, method, operation in operations:
        assert operation["summary"], f"{method} {path} has no summary"
        assert operation["tags"], f"{method} {path} has no tag"


def test_every_error_is_a_problem_with_documented_codes(document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            for status, answer in operation["responses"].items():
                if int(status) < 400:
                    continue
                content = answer["content"][MEDIA_TYPE]
                assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
                assert content["examples"], f"{method} {path}: {status} has no example"
                for code, example in content["examples"].items():
                    assert example["value"]["code"] == code
                    assert CODES[code].status == int(status)


def _examples(node: Any, schema: Any = None) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401
    """Yield each example with its schema: of media types, parameters and schemas themselves."""
    if isinstance(node, dict):
        own = node.get("schema", node if {"type", "properties", "anyOf"} & node.keys() else None)
        if isinstance(node.get("examples"), dict) and "schema" in node:
            yield from ((example["value"], own) for example in node["examples"].values() if "value" in example)
        elif isinstance(node.get("examples"), list) and own is not None:
            yield from ((example, own) for example in node["examples"])
        if "example" in node and own is not None:
            yield node["example"], own
        for value in node.values():
            yield from _examples(value)
    elif isinstance(node, list):
        for value in node:
            yield from _examples(value)


def test_examples_are_valid(document: dict[str, Any]) -> None:
    found = list(_examples({"paths": document["paths"], "schemas": document["components"]["schemas"]}))
    assert len(found) > 100
    for example, own in found:
        validator = jsonschema.Draft202012Validator({"components": document["components"], **own})
        faults = [error.message for error in validator.iter_errors(example)]
        assert not faults, f"{example}: {faults}"


def test_an_address_lists_all_its_methods(served: Serving, document: dict[str, Any]) -> None:
    with served.client() as client:
        for path, item in document["paths"].items():
            answer = client.request("PATCH", path.replace("{", "").replace("}", ""))
            assert answer.status_code == 405, path
            assert answer.headers["content-type"] == MEDIA_TYPE
            allowed = {method.strip().lower() for method in answer.headers["allow"].split(",")}
            assert allowed >= set(item), f"{path}: {allowed}"


def test_the_description_is_also_at_azures_address(served: Serving, document: dict[str, Any]) -> None:
    with served.client() as client:
        assert client.get("/swagger.json").json() == document


def test_the_service_is_what_it_was(served: Serving, headers: dict[str, str]) -> None:
    """After all of that it still answers."""
    with served.client(headers=headers) as client:
        assert client.post("/v1/predict", files={"films": ("a.png", png(film8()))}).status_code == 200
        assert client.get("/v1/health").json()["status"] == "ready"
