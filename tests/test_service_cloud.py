"""The routes that Vertex AI, SageMaker and Azure Machine Learning call, as each of them calls."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from made import film, png
from PIL import Image
from serving import Serving, serving

from rentgen.images.phantom import Finding, draw, to_dicom, to_png
from rentgen.records.studies import Principal, Role
from rentgen.service.cloud import CloudRoutes
from rentgen.service.problems import MEDIA_TYPE

FILMS = [to_png(draw(list(Finding)[seed % 4], np.random.default_rng(seed))) for seed in range(4)]
CHEST = to_dicom(draw(Finding.EFFUSION, np.random.default_rng(2)), patient_id="MADE-0002")
VERTEX = "/v1/endpoints/1234/deployedModels/5678"
ROUTES = CloudRoutes(health="/health/vertex", predict="/predict/vertex", batch=4, max_payload_mb=5)
PREDICT = ("/invocations", "/score", ROUTES.predict or "", VERTEX, f"{VERTEX}:predict")
READY = ("/ping", "/readyz", ROUTES.health or "", VERTEX)
SAGEMAKER = {
    "X-Amzn-SageMaker-Custom-Attributes": "a=b",
    "X-Amzn-SageMaker-Inference-Id": "1",
    "X-Unheard-Of": "x" * 500,
    "X-B3-TraceId": "463ac35c9f6413ad48485a3926d8c2aa",
    "Host": "model.some-cloud.example",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("cloud"), routes=ROUTES, auth="platform") as running:
        yield running


@pytest.fixture(scope="module")
def reader(served: Serving) -> Iterator[httpx.Client]:
    """Return a client with a key, for what a platform does not open."""
    assert served.desk.store is not None
    key = served.desk.store.add_key("reader", Role.READER, days=1, actor=Principal("test", Role.ADMIN))
    with served.client(headers={"X-API-Key": key}) as found:
        yield found


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def instances(*items: object, **parameters: object) -> dict[str, object]:
    return {"instances": list(items)} | ({"parameters": parameters} if parameters else {})


@pytest.mark.parametrize("path", READY)
def test_ready_probes_are_empty(client: httpx.Client, path: str) -> None:
    answer = client.get(path, headers=SAGEMAKER)
    assert (answer.status_code, answer.content) == (200, b"")


def test_alive_at_once(client: httpx.Client) -> None:
    assert (client.get("/livez").status_code, client.get("/livez").content) == (200, b"")
    assert client.get("/", headers={"User-Agent": "kube-probe/1.30"}).status_code == 200


@pytest.mark.parametrize("path", PREDICT)
def test_as_many_predictions_as_instances_in_order(client: httpx.Client, reader: httpx.Client, path: str) -> None:
    items = [b64(FILMS[0]), {"b64": b64(FILMS[1])}, {"content": "?"}, {"image_bytes": {"b64": b64(FILMS[2])}}, 7]
    answer = client.post(path, json=instances(*items, {"content": b64(CHEST), "id": "last"}))
    assert answer.status_code == 200
    predictions = answer.json()["predictions"]
    assert len(predictions) == 6
    assert ["error" in each for each in predictions] == [False, False, True, False, True, False]
    assert predictions[5]["id"] == "last"
    files = [("films", ("a", data)) for data in (*FILMS[:3], CHEST)]
    own = reader.post("/v1/predict", files=files).json()["predictions"]
    good = [predictions[place] for place in (0, 1, 3, 5)]
    assert [each["content_hash"] for each in good] == [each["content_hash"] for each in own]
    for each, expected in zip(good, own, strict=True):
        assert each["probabilities"] == pytest.approx(expected["probabilities"])
        assert each["label"] == expected["label"]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (CHEST, "application/dicom"),
        (FILMS[0], "image/png"),
        (FILMS[0], "image/jpeg"),
        (FILMS[0], "application/octet-stream"),
    ],
)
def test_a_raw_film_by_its_content_type(client: httpx.Client, data: bytes, kind: str) -> None:
    headers = {"Content-Type": kind, "Accept": "application/json", **SAGEMAKER}
    answer = client.post("/invocations", content=data, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    (shown,) = answer.json()["predictions"]
    assert shown["status"] == "ok"
    broken = client.post("/invocations", content=data[:300], headers=headers)
    assert (broken.status_code, broken.headers["content-type"]) == (422, MEDIA_TYPE)
    assert broken.json()["code"] == "unreadable_film"


@pytest.mark.parametrize("kind", ["application/jsonlines", "application/x-ndjson", "application/jsonl; charset=utf-8"])
def test_json_lines_in_and_out(client: httpx.Client, kind: str) -> None:
    lines = [json.dumps({"content": b64(FILMS[0]), "id": "a"}), "broken", "", json.dumps(b64(FILMS[1]))]
    body = "\n".join(lines)
    headers = {"Content-Type": kind, "Accept": "application/jsonlines"}
    answer = client.post("/invocations", content=body, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/jsonlines")
    found = [json.loads(line) for line in answer.text.splitlines()]
    assert [each.get("status", "error") for each in found] == ["ok", "error", "ok"]
    assert found[0]["id"] == "a"
    assert found[1]["error"]["code"] == "invalid_request"
    plain = client.post("/invocations", content=body, headers={"Content-Type": kind})
    assert plain.json()["predictions"] == found
    # One JSON document in, lines out.
    other = client.post("/invocations", json=instances(b64(FILMS[0])), headers={"Accept": "application/jsonlines"})
    assert json.loads(other.text)["label"] == found[0]["label"]


def test_the_shape_of_automl(client: httpx.Client) -> None:
    body = instances({"content": b64(FILMS[0])}, {"content": "?"}, format="vertex-automl")
    answer = client.post(VERTEX + ":predict", json=body).json()["predictions"]
    assert set(answer[0]) == {"ids", "displayNames", "confidences"}
    assert answer[0]["ids"] == answer[0]["displayNames"]
    assert answer[0]["confidences"] == sorted(answer[0]["confidences"], reverse=True)
    assert sum(answer[0]["confidences"]) == pytest.approx(1)
    assert answer[1]["error"]["code"] == "invalid_request"
    parameters = {"format": "vertex-automl", "confidenceThreshold": 0.5, "maxPredictions": 1}
    (one,) = client.post("/score", json=instances(b64(FILMS[0]), **parameters)).json()["predictions"]
    assert one["ids"] == answer[0]["ids"][:1]
    (same,) = client.post("/score", json=instances(b64(FILMS[0]), **parameters | {"maxPredictions": 1.0})).json()[
        "predictions"
    ]
    assert same == one
    for wrong in (
        {"confidenceThreshold": 2},
        {"confidenceThreshold": "0.5"},
        {"maxPredictions": 0},
        {"maxPredictions": 1.5},
        {"maxPredictions": True},
        {"confidenceThreshold": True},
    ):
        refused = client.post("/score", json=instances(b64(FILMS[0]), format="vertex-automl", **wrong))
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request"), wrong


def test_parameters_ask_for_heat_maps_that_lead_to_native_pixels(client: httpx.Client) -> None:
    large = png(np.asarray(film(2500, 2000, 8), np.uint8))
    body = instances(*[{"content": b64(data)} for data in (large, CHEST)], heatmap=True)
    answer = client.post("/invocations", json=body)
    assert len(answer.content) < 50_000
    for shown, shape in zip(answer.json()["predictions"], ((2500, 2000), (517, 614)), strict=True):
        own = shown["heatmap"]
        grid = np.asarray(Image.open(io.BytesIO(base64.b64decode(own["content"]))))
        assert grid.dtype == np.uint8
        assert grid.shape == (own["rows"], own["columns"])
        (xx, xy, x0), (yx, yy, y0) = own["affine"]
        assert xy == yx == 0
        # The grid covers the whole film: its outer edges lie on, or outside of, the film's.
        assert x0 <= 1
        assert y0 <= 1
        assert x0 + xx * own["columns"] >= shape[1] - 1
        assert y0 + yy * own["rows"] >= shape[0] - 1
    assert "heatmap" not in client.post("/invocations", json=instances(b64(CHEST))).json()["predictions"][0]


def test_payloads_at_the_platforms_limits(client: httpx.Client) -> None:
    """Vertex AI takes 1.5 MB a request and an answer, SageMaker 6 MB."""
    noise = np.random.default_rng(0).integers(0, 65536, (700, 800), np.uint16)
    body = json.dumps(instances(b64(png(noise)), heatmap=True))
    assert len(body) > 1_490_000
    answer = client.post(f"{VERTEX}:predict", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    assert len(answer.content) < 1_500_000
    many = client.post("/score", json=instances(*[b64(FILMS[0])] * 20, heatmap=True))
    assert len(many.json()["predictions"]) == 20
    assert len(many.content) < 1_500_000


@pytest.mark.parametrize("path", PREDICT)
def test_what_asks_nothing_is_a_problem(client: httpx.Client, path: str) -> None:
    for content, kind, status in (
        (b"", "application/json", 422),
        (b"[]", "application/json", 422),
        (b'{"instances": []}', "application/json", 422),
        (b"{" * 10_000, "application/json", 422),
        (b"\xff\xfe", "application/json", 422),
        (b"", "application/jsonlines", 422),
        (b"", "image/png", 422),
        (b"a,b", "text/csv", 415),
        (b"a,b", "", 415),
    ):
        answer = client.post(path, content=content, headers={"Content-Type": kind} if kind else {})
        assert (answer.status_code, answer.headers["content-type"]) == (status, MEDIA_TYPE), (content[:20], kind)


def test_a_batch_transform_is_told_how_to_ask(client: httpx.Client) -> None:
    assert client.get("/execution-parameters").json() == {
        "MaxConcurrentTransforms": 4,
        "BatchStrategy": "MULTI_RECORD",
        "MaxPayloadInMB": 5,
    }


def test_a_platform_opens_the_cloud_routes_only(client: httpx.Client, reader: httpx.Client) -> None:
    film_form = {"films": ("a", FILMS[0])}
    for path in ("/v1/studies", "/v1/models", "/v1/whoami", "/metrics", "/v1/feedback/export", "/v1/reports"):
        assert client.get(path).status_code == 401, path
    assert client.post("/v1/predict", files=film_form).status_code == 401
    assert client.post("/v1/studies", files=film_form).status_code == 401
    assert client.post("/v1/models/tiny/reload").status_code == 401
    assert reader.post("/v1/predict", files=film_form).status_code == 200
    assert reader.post("/v1/studies", files=film_form).status_code == 403
    assert reader.get("/metrics").status_code == 200
    # A credential of the platform's own is not ours to judge.
    foreign = {"Authorization": "Bearer of-the-platform", "Host": "model.some-cloud.example"}
    assert client.post("/invocations", json=instances(b64(FILMS[0])), headers=foreign).status_code == 200
    assert client.get("/model-card").json()["name"] == "tiny"
    described = client.get("/swagger.json").json()
    assert {"/ping", "/invocations", "/score", ROUTES.health, ROUTES.predict} <= set(described["paths"])


def test_with_keys_the_cloud_routes_ask_for_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    with serving(tmp_path_factory.mktemp("keys"), auth="keys") as running, running.client() as client:
        assert client.get("/ping").status_code == 200
        for path in ("/invocations", "/score", VERTEX, f"{VERTEX}:predict"):
            assert client.post(path, json=instances(b64(FILMS[0]))).status_code == 401


def test_what_a_form_sends_to_a_cloud_route(client: httpx.Client) -> None:
    answer = client.post("/invocations", files=[("films", ("a", FILMS[0])), ("films", ("b", b"x"))])
    assert ["error" in each for each in answer.json()["predictions"]] == [False, True]
