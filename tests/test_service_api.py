"""REST through its front door: predictions, studies, films, heat maps, feedback."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from asked import CHEST, PHANTOMS, add, problem
from made import PATIENT_NAME, dicom, film, film8, jpeg, png, tiff
from serving import Serving, serving

from rentgen.engine.predictor import Predictor
from rentgen.images.phantom import Finding, draw, to_dicom
from rentgen.images.read import read
from rentgen.records import DISCLAIMER

FILMS = {
    "image/png": png(film(90, 70, 16)),
    "image/jpeg": jpeg(film8(70, 90)),
    "image/tiff": tiff(film(64, 64, 16, seed=1)),
    "application/dicom": CHEST,
    "application/octet-stream": PHANTOMS[0],
}
BROKEN = FILMS["image/png"][:200]
ORDER = ("urgent", "doubt", "routine")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("api"), max_films=12) as running:
        yield running


@pytest.fixture(scope="module")
def predictor(served: Serving) -> Predictor:
    return served.predictor()


def same(shown: dict[str, Any], data: bytes, predictor: Predictor) -> None:
    """Hold an answer against the engine's own."""
    own = predictor.predict(data)
    assert shown["status"] == own.status
    assert shown["label"] == own.label
    assert shown["content_hash"] == own.content_hash
    assert shown["reasons"] == list(own.reasons)
    assert shown["prediction_set"] == list(own.prediction_set)
    assert shown["distance"] == own.distance
    assert shown["probabilities"] == pytest.approx(dict(own.probabilities), abs=1e-5)
    for point in shown["points"]:
        assert point["positive"] == (shown["probabilities"][point["label"]] >= point["threshold"])


# -- predictions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FILMS)
def test_one_raw_film_is_answered_as_the_engine_does(client: httpx.Client, predictor: Predictor, kind: str) -> None:
    answer = client.post("/v1/predict", content=FILMS[kind], headers={"Content-Type": kind})
    assert answer.status_code == 200
    body = answer.json()
    assert body["model"] == {"name": "tiny", "bundle_id": predictor.bundle.bundle_id}
    assert body["disclaimer"] == DISCLAIMER
    (shown,) = body["predictions"]
    same(shown, FILMS[kind], predictor)
    assert "heatmap" not in shown
    assert answer.headers["cache-control"] == "no-store"


def test_many_films_in_a_form_come_back_in_order(client: httpx.Client, predictor: Predictor) -> None:
    files = [("films", (f"{place}.png", data)) for place, data in enumerate(PHANTOMS)]
    shown = client.post("/v1/predict", files=files).json()["predictions"]
    assert len(shown) == len(PHANTOMS)
    for each, data in zip(shown, PHANTOMS, strict=True):
        same(each, data, predictor)
    assert {each["status"] for each in shown} == {"ok"}
    # Scores span their range: no second sigmoid squeezes them.
    scores = [each["probabilities"]["PNEUMONIA"] for each in shown]
    assert min(scores) < 0.1 < 0.9 < max(scores)


def test_instances_in_json_keep_ids_and_leave_bad_ones_in_their_place(
    client: httpx.Client, predictor: Predictor
) -> None:
    def b64(data: bytes) -> str:
        return base64.b64encode(data).decode()

    instances = [
        {"content": b64(CHEST), "id": "a", "heatmap": True},
        {"content": b64(BROKEN), "id": "b"},
        {"content": "not base64"},
        b64(PHANTOMS[1]),
        {"content": b64(PHANTOMS[2]), "mimeType": "image/gif", "id": "e"},
    ]
    answer = client.post("/v1/predict", json={"instances": instances})
    assert answer.status_code == 200
    shown = answer.json()["predictions"]
    assert [each.get("id") for each in shown] == ["a", "b", None, None, "e"]
    assert [each["status"] == "error" for each in shown] == [False, True, True, False, False]
    assert [each.get("error", {}).get("code") for each in shown] == [
        None,
        "unreadable_film",
        "invalid_request",
        None,
        None,
    ]
    for place, data in ((0, CHEST), (3, PHANTOMS[1]), (4, PHANTOMS[2])):
        same(shown[place], data, predictor)
    assert shown[0]["heatmap"]["label"] == shown[0]["label"]


@pytest.mark.parametrize("ids", ["\\ud800", "\\u0000\\u001b[31m", "\\u202e"])
def test_an_id_of_any_text_comes_back_or_is_refused(client: httpx.Client, ids: str) -> None:
    body = f'{{"instances": [{{"content": "{base64.b64encode(PHANTOMS[0]).decode()}", "id": "{ids}"}}]}}'
    answer = client.post("/v1/predict", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 422), answer.text


def test_a_bad_film_among_good_ones_is_an_error_in_its_place(client: httpx.Client, predictor: Predictor) -> None:
    files = [("films", (name, data)) for name, data in (("a", CHEST), ("b", BROKEN), ("c", PHANTOMS[1]))]
    shown = client.post("/v1/predict", files=files).json()["predictions"]
    assert [each["status"] for each in shown][1] == "error"
    assert shown[1]["error"]["code"] == "unreadable_film"
    assert shown[1]["probabilities"] == {}
    same(shown[0], CHEST, predictor)
    same(shown[2], PHANTOMS[1], predictor)


def test_what_is_refused_alone(client: httpx.Client) -> None:
    def ask(content: bytes, kind: str) -> httpx.Response:
        return client.post("/v1/predict", content=content, headers={"Content-Type": kind})

    problem(ask(BROKEN, "image/png"), 422, "unreadable_film")
    problem(ask(b"GIF89a" + bytes(90), "application/octet-stream"), 422, "unsupported_film")
    problem(ask(b"", "image/png"), 422, "invalid_request")
    problem(ask(b"{", "application/json"), 422, "invalid_request")
    problem(ask(b'{"instances": [], "parameters": 3}', "application/json"), 422, "invalid_request")
    problem(ask(CHEST, "text/plain"), 415, "unsupported_type")
    problem(client.post("/v1/predict"), 415, "unsupported_type")
    problem(client.post("/v1/predict", files={"other": ("a.png", CHEST)}), 422, "invalid_request")
    problem(client.post("/v1/predict", data={"films": "text"}), 415, "unsupported_type")
    many = [("films", ("a.png", b"x"))] * 13
    assert "12" in problem(client.post("/v1/predict", files=many), 422, "invalid_request")["detail"]
    problem(client.post("/v1/predict?model=other", content=CHEST), 404, "not_found")


def test_a_gate_adds_a_flag_and_removes_no_score(client: httpx.Client) -> None:
    noise = png(np.random.default_rng(0).integers(0, 256, (300, 300), np.uint8))
    for data in (noise, png(np.full((300, 300), 255, np.uint8)), png(np.zeros((300, 300), np.uint8))):
        (shown,) = client.post("/v1/predict", files={"films": ("a", data)}).json()["predictions"]
        assert shown["status"] == "out_of_scope"
        assert shown["reasons"]
        assert shown["urgency"] == "doubt"
        assert set(shown["probabilities"]) == {"NORMAL", "PNEUMONIA"}


# -- studies -----------------------------------------------------------------------------------------------------------


def test_the_same_bytes_again_change_nothing(client: httpx.Client) -> None:
    data = png(film8(seed=71))
    first = client.post("/v1/studies", files={"films": ("one.png", data)})
    again = client.post("/v1/studies", files={"films": ("two.png", data)})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    mixed = client.post("/v1/studies", files=[("films", ("a.png", data)), ("films", ("b.png", png(film8(seed=72))))])
    assert mixed.status_code == 201
    assert mixed.json()["studies"][0] == first.json()["studies"][0]


def test_the_same_bytes_at_the_same_time_are_one_film(served: Serving) -> None:
    made = [png(film8(seed=80 + seed)) for seed in range(3)]

    def send(place: int) -> tuple[int, str]:
        with served.client() as own:
            answer = own.post("/v1/studies", files={"films": (f"{place}.png", made[place % 3])})
            return answer.status_code, answer.json()["studies"][0]["id"]

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(send, range(12)))
    assert {status for status, _ in answers} <= {200, 201}
    assert len({study for _, study in answers}) == 3
    with served.client() as own:
        for study in {study for _, study in answers}:
            found = own.get(f"/v1/studies/{study}").json()
            assert len(found["images"]) == len(found["predictions"]) == 1


def test_a_study_says_what_the_engine_says(client: httpx.Client, predictor: Predictor) -> None:
    data = to_dicom(draw(Finding.NODULE, np.random.default_rng(3)), patient_id="MADE-0003")
    study = add(client, data, "/in/folder/chest.dcm")
    assert client.get(f"/v1/studies/{study['id']}").json() == study
    (image,), (shown,) = study["images"], study["predictions"]
    same(shown, data, predictor)
    own = read(data)
    assert (image["rows"], image["columns"]) == own.pixels.shape
    assert (image["name"], image["source_format"], image["modality"]) == ("chest.dcm", "dicom", own.modality)
    assert image["viewable"]
    assert shown["image_id"] == image["id"]
    assert shown["heatmap_url"] == f"/v1/images/{image['id']}/heatmap.png"


def test_films_of_one_dicom_study_are_together(client: httpx.Client) -> None:
    uid = "1.2.826.0.1.3680043.10.1.77"
    made = [dicom(film(seed=seed), StudyInstanceUID=uid, SOPInstanceUID=f"{uid}.{seed}") for seed in (1, 2)]
    answer = client.post("/v1/studies", files=[("films", (f"{place}.dcm", data)) for place, data in enumerate(made)])
    (study,) = answer.json()["studies"]
    assert len(study["images"]) == len(study["predictions"]) == 2
    assert uid not in answer.text
    assert PATIENT_NAME not in answer.text


def test_files_that_are_no_films_are_listed(client: httpx.Client) -> None:
    files = [
        ("films", ("good.png", png(film8(seed=73)))),
        ("films", ("bad.png", BROKEN)),
        ("films", ("c.pdf", b"%PDF")),
    ]
    answer = client.post("/v1/studies", files=files)
    assert answer.status_code == 201
    assert len(answer.json()["studies"]) == 1
    failed = answer.json()["failed"]
    assert [(each["name"], each["code"]) for each in failed] == [
        ("bad.png", "unreadable_film"),
        ("c.pdf", "unreadable_film"),
    ]
    problem(client.post("/v1/studies", files={"films": ("bad.png", BROKEN)}), 422, "unreadable_film")


def test_the_worklist_is_ordered_and_turns_its_pages(client: httpx.Client) -> None:
    for data in (*PHANTOMS, CHEST):
        add(client, data)
    whole = client.get("/v1/studies", params={"limit": 200}).json()
    assert whole["next"] is None
    keys = [(ORDER.index(each["urgency"]), -each["score"], each["received_at"]) for each in whole["studies"]]
    assert keys == sorted(keys)
    assert {key[0] for key in keys} == {0, 1, 2}
    turned, cursor = [], None
    while True:
        page = client.get("/v1/studies", params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        turned += page["studies"]
        cursor = page["next"]
        if cursor is None:
            break
        assert len(page["studies"]) == 3
    assert turned == whole["studies"]
    everything = client.get("/v1/studies?state=all&limit=200").json()["studies"]
    read_ids = {each["id"] for each in client.get("/v1/studies?state=read&limit=200").json()["studies"]}
    assert {each["id"] for each in everything} == {each["id"] for each in turned} | read_ids


@pytest.mark.parametrize(
    "cursor",
    ["x", "é", "a" * 500, *(base64.urlsafe_b64encode(text).decode().rstrip("=") for text in (
        b"[0,0,0,0,0]", b'[0,0,0,0,"\\ud800"]', b'[0,0,0,0,"\\u0000"]', b'[0,0,0,1e400,"a"]', b"[" * 120,
        b'[0,0,NaN,0,"a"]', b'[0,0,0,99999999999999999999,"a"]', b'[true,null,0,0,"a"]',
    ))],
)  # fmt: skip
def test_a_cursor_that_nobody_gave_is_refused_or_an_empty_page(client: httpx.Client, cursor: str) -> None:
    answer = client.get("/v1/studies", params={"cursor": cursor})
    assert answer.status_code in (200, 422), answer.text


def test_read_and_waiting_again(client: httpx.Client) -> None:
    study = add(client, png(film8(seed=74)))

    def listed(state: str) -> bool:
        found = client.get("/v1/studies", params={"state": state, "limit": 200}).json()["studies"]
        return study["id"] in [each["id"] for each in found]

    assert (listed("waiting"), listed("read")) == (True, False)
    answer = client.put(f"/v1/studies/{study['id']}/read", json={"read": True})
    assert answer.json()["read_at"] is not None
    assert (listed("waiting"), listed("read"), listed("all")) == (False, True, True)
    assert client.put(f"/v1/studies/{study['id']}/read", json={"read": False}).json()["read_at"] is None
    assert (listed("waiting"), listed("read")) == (True, False)
    problem(client.put(f"/v1/studies/{study['id']}/read", json={"read": "yes"}), 422, "invalid_request")
    problem(client.put("/v1/studies/AAAAAAAAAAAAAAAAAAAAAA/read", json={"read": True}), 404, "not_found")


def test_delete_takes_the_film_out_of_memory_too(client: httpx.Client, served: Serving) -> None:
    study = add(client, png(film8(seed=75)))
    image = study["images"][0]["id"]
    assert served.desk.films.has(image)
    assert client.delete(f"/v1/studies/{study['id']}").status_code == 204
    assert not served.desk.films.has(image)
    for path in (f"/v1/studies/{study['id']}", f"/v1/images/{image}/pixels", f"/v1/images/{image}/heatmap.png"):
        problem(client.get(path), 404, "not_found")
    problem(client.delete(f"/v1/studies/{study['id']}"), 404, "not_found")
    assert client.post("/v1/studies", files={"films": ("a.png", png(film8(seed=75)))}).status_code == 201


def test_names_that_are_no_ids(client: httpx.Client) -> None:
    for name in ("short", "a" * 65, "..%2f..%2fetc%2fpasswd", "%00" * 10, "1.2.826.0.1"):
        assert client.get(f"/v1/studies/{name}").status_code in (404, 422)
        assert client.get(f"/v1/images/{name}/pixels").status_code in (404, 422)


# -- feedback ----------------------------------------------------------------------------------------------------------


def test_feedback_agrees_or_corrects(client: httpx.Client) -> None:
    study = add(client, png(film8(seed=76)))
    image, shown = study["images"][0]["id"], study["predictions"][0]
    other = next(label for label in shown["probabilities"] if label != shown["label"])

    def say(**body: object) -> httpx.Response:
        return client.post(f"/v1/images/{image}/feedback", json=body)

    agreed = say(agree=True)
    assert agreed.status_code == 201
    assert agreed.json()["label"] == shown["label"]
    assert agreed.json()["prediction_id"] == shown["prediction_id"]
    assert agreed.json()["actor"] == "local"
    assert say(agree=True, label=shown["label"], prediction_id=shown["prediction_id"]).status_code == 201
    corrected = say(agree=False, label=other, comment="rotated").json()
    assert (corrected["label"], corrected["comment"]) == (other, "rotated")
    assert say(agree=False).json()["label"] is None
    found = client.get(f"/v1/studies/{study['id']}").json()
    assert found["read_at"] is not None
    assert [each["agree"] for each in found["feedback"]] == [False, False, True, True]
    for body in (
        {},
        {"agree": "yes"},
        {"agree": 1},
        {"agree": True, "label": other},
        {"agree": False, "label": ""},
        {"agree": False, "comment": "x" * 2001},
        {"agree": False, "more": 1},
        {"agree": False, "prediction_id": "of-another-film"},
    ):
        problem(say(**body), 422, "invalid_request")
    surrogate = b'{"agree": false, "comment": "\\ud800"}'
    answer = client.post(
        f"/v1/images/{image}/feedback", content=surrogate, headers={"Content-Type": "application/json"}
    )
    problem(answer, 422, "invalid_request")
    problem(client.post("/v1/images/AAAAAAAAAAAAAAAAAAAAAA/feedback", json={"agree": True}), 404, "not_found")


def test_a_service_that_keeps_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, store=False) as running, running.client() as client:
        assert client.post("/v1/predict", files={"films": ("a", CHEST)}).status_code == 200
        for path in ("/v1/studies", "/v1/studies/AAAAAAAAAAAAAAAAAAAAAA", "/v1/feedback/export"):
            problem(client.get(path), 404, "not_found")
        problem(client.post("/v1/studies", files={"films": ("a", CHEST)}), 404, "not_found")
        assert client.get("/v1/health").json()["store"] == "off"
        assert not (tmp_path / "store.db").exists()


def test_what_the_service_says_of_itself(client: httpx.Client, predictor: Predictor) -> None:
    health = client.get("/v1/health").json()
    assert (health["status"], health["models"], health["store"]) == ("ready", 1, "ok")
    assert health["queue"] == {"waiting": 0, "limit": 64}
    assert client.get("/v1/models/tiny").json()["card"] == json.loads(json.dumps(predictor.card.to_dict()))
    assert client.get("/v1/whoami").json()["role"] == "admin"
    assert client.get("/livez").content == client.get("/ping").content == client.get("/readyz").content == b""
