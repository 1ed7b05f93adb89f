"""REST through its front door: predictions, studies, films, heat maps, feedback."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from linear import predictor_of, weighing_model
from made import PATIENT_NAME, dicom, film, film8, jpeg, png, tiff
from PIL import Image
from serving import Serving, serving, tiny_bundle

from rentgen import bundle as bundles
from rentgen.engine.predictor import Predictor, heat_map
from rentgen.images.phantom import Finding, draw, to_dicom, to_png
from rentgen.images.read import read
from rentgen.records import DISCLAIMER
from rentgen.service.problems import MEDIA_TYPE

PHANTOMS = [
    to_png(draw(list(Finding)[seed % 4], np.random.default_rng(seed)), bits=16 if seed % 2 else 8) for seed in range(6)
]
CHEST = to_dicom(draw(Finding.EFFUSION, np.random.default_rng(2)), patient_id="MADE-0002")
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
def client(served: Serving) -> Iterator[httpx.Client]:
    with served.client() as found:
        yield found


@pytest.fixture(scope="module")
def predictor(served: Serving) -> Predictor:
    found = served.desk.models.entry(None).predictor
    assert found is not None
    # Another object than the one that answers: read from the file, as a program without the service would.
    return Predictor.load(served.desk.models.entry(None).source)


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Return the problem document that an answer is."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    document: dict[str, Any] = answer.json()
    assert (document["status"], document["code"]) == (status, code)
    return document


def add(client: httpx.Client, data: bytes, name: str = "film.png") -> dict[str, Any]:
    """Return the study that a film makes."""
    answer = client.post("/v1/studies", files={"films": (name, data)})
    assert answer.status_code in (200, 201), answer.text
    study: dict[str, Any] = answer.json()["studies"][0]
    return study


def film_of(client: httpx.Client, data: bytes) -> dict[str, Any]:
    """Return a film as it was added; its study may have others."""
    study = add(client, data)
    wanted = hashlib.sha256(data).hexdigest()
    (image_id,) = {each["image_id"] for each in study["predictions"] if each["content_hash"] == wanted}
    return next(image for image in study["images"] if image["id"] == image_id)


def picture(answer: httpx.Response) -> np.ndarray[Any, Any]:
    """Return the pixels of a PNG that came."""
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    return np.asarray(Image.open(io.BytesIO(answer.content)))


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


# -- heat maps ---------------------------------------------------------------------------------------------------------


def test_a_heat_map_is_small_and_its_affine_leads_to_native_pixels(client: httpx.Client) -> None:
    answer = client.post("/v1/predict?heatmap=true", files={"films": ("a.dcm", CHEST)})
    (shown,) = answer.json()["predictions"]
    own = shown["heatmap"]
    grid = np.asarray(Image.open(io.BytesIO(base64.b64decode(own["content"]))))
    assert grid.dtype == np.uint8
    assert grid.shape == (own["rows"], own["columns"]) == (12, 12)
    assert len(own["content"]) < 10_000


@pytest.fixture(scope="module")
def bright(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Return a client of a service whose model lights up where a film is bright, and nowhere else."""
    folder = tmp_path_factory.mktemp("bright")
    weights = np.stack([np.full((12, 12), -1.0), np.full((12, 12), 1.0)])
    made = predictor_of(weighing_model(weights, np.full((12, 12), 0.1)), ("NORMAL", "PNEUMONIA")).bundle
    bundles.write(folder / "bright.rentgen", made)
    with serving(folder, models=(str(folder / "bright.rentgen"),)) as running, running.client() as found:
        yield found


@pytest.mark.parametrize("shape", [(400, 400), (300, 700), (900, 250)])
@pytest.mark.parametrize("place", [(0.2, 0.3), (0.7, 0.8)])
def test_a_bright_square_is_found_again_in_native_pixels(
    bright: httpx.Client, shape: tuple[int, int], place: tuple[float, float]
) -> None:
    side = max(shape) // 12
    row, column = (round(part * (length - side)) for part, length in zip(place, shape, strict=True))
    pixels = np.full(shape, 10, np.uint8)
    pixels[row : row + side, column : column + side] = 250
    middle = np.array([row + side / 2, column + side / 2])
    study = add(bright, png(pixels))
    image = study["images"][0]["id"]
    native = picture(bright.get(f"/v1/images/{image}/heatmap.png", params={"label": "PNEUMONIA"}))
    assert native.shape == shape
    assert native.max() == 255
    peak = np.mean(np.argwhere(native >= 250), axis=0)
    assert np.abs(peak - middle).max() <= max(shape) / 12
    instance = {"content": base64.b64encode(png(pixels)).decode(), "heatmap": True}
    (shown,) = bright.post("/v1/predict", json={"instances": [instance]}).json()["predictions"]
    if shown["label"] == "PNEUMONIA":
        grid = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown["heatmap"]["content"]))))
        (xx, xy, x0), (yx, yy, y0) = shown["heatmap"]["affine"]
        y, x = np.unravel_index(int(grid.argmax()), grid.shape)
        back = np.array([yx * (x + 0.5) + yy * (y + 0.5) + y0, xx * (x + 0.5) + xy * (y + 0.5) + x0])
        assert np.abs(back - middle).max() <= max(shape) / 12


@pytest.mark.parametrize("data", [CHEST, PHANTOMS[1], png(film8(300, 120)), png(film8(120, 300))])
def test_the_heat_map_is_the_engines_own(client: httpx.Client, predictor: Predictor, data: bytes) -> None:
    image = film_of(client, data)
    own = predictor.predict(data, maps=True)
    for label in (None, *own.probabilities):
        answer = client.get(f"/v1/images/{image['id']}/heatmap.png", params={"label": label} if label else {})
        native = picture(answer)
        assert native.shape == (image["rows"], image["columns"])
        expected = heat_map(own, label)
        if expected.max() > 0:
            assert np.abs(native / 255 - expected / expected.max()).max() < 0.02
        assert len(answer.content) < 200_000
    problem(client.get(f"/v1/images/{image['id']}/heatmap.png?label=other"), 404, "not_found")
    problem(client.get(f"/v1/images/{image['id']}/heatmap.png?model=other"), 404, "not_found")


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
    files = [("films", ("good.png", png(film8(seed=73)))), ("films", ("bad.png", BROKEN)), ("films", ("c.pdf", b"%PDF"))]
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


# -- films -------------------------------------------------------------------------------------------------------------

SHOWN = {
    "8 bits": png(film8(60, 44)),
    "16 bits": png(film(60, 44, 16)),
    "JPEG": jpeg(film8(33, 57)),
    "DICOM, 12 bits": dicom(film(31, 47)),
    "DICOM, MONOCHROME1": dicom(film(31, 47, seed=5), PhotometricInterpretation="MONOCHROME1"),
    "DICOM, 8 bits, MONOCHROME1": dicom(film8(40, 31), bits=8, PhotometricInterpretation="MONOCHROME1"),
    "phantom": CHEST,
}


@pytest.mark.parametrize("kind", SHOWN)
def test_pixels_are_the_films_own(client: httpx.Client, kind: str) -> None:
    own = read(SHOWN[kind]).pixels
    image = film_of(client, SHOWN[kind])["id"]
    plain = client.get(f"/v1/images/{image}/pixels", headers={"Accept-Encoding": "identity"})
    assert plain.headers["content-type"] == "application/octet-stream"
    shape = int(plain.headers["x-rows"]), int(plain.headers["x-columns"])
    kept = {"8": "u1", "16": "<u2"}[plain.headers["x-bits-allocated"]]
    assert np.array_equal(np.frombuffer(plain.content, kept).reshape(shape), own)
    assert int(plain.headers["x-bits-stored"]) <= int(plain.headers["x-bits-allocated"])
    with client.stream("GET", f"/v1/images/{image}/pixels", headers={"Accept-Encoding": "gzip"}) as packed:
        assert packed.headers["content-encoding"] == "gzip"
        assert gzip.decompress(b"".join(packed.iter_raw())) == plain.content
    refused = client.get(f"/v1/images/{image}/pixels", headers={"Accept-Encoding": "gzip;q=0, br"})
    assert "content-encoding" not in refused.headers
    assert np.array_equal(picture(client.get(f"/v1/images/{image}/film.png")), own)


def test_a_thumbnail_is_small_and_keeps_the_aspect(client: httpx.Client) -> None:
    image = add(client, png(film8(400, 200, seed=8)))["images"][0]["id"]
    assert picture(client.get(f"/v1/images/{image}/thumbnail.png")).shape == (160, 80)
    assert picture(client.get(f"/v1/images/{image}/thumbnail.png?side=20")).shape == (20, 10)
    problem(client.get(f"/v1/images/{image}/thumbnail.png?side=5000"), 422, "invalid_request")


def test_films_leave_memory_and_are_gone_but_for_their_results(tmp_path: Path) -> None:
    data, small = png(film(100, 100, 16)), [png(film8(60, 60, seed=seed)) for seed in range(3)]
    # 10 kB hold two films of 3,600 bytes, and none of 20,000.
    with serving(tmp_path, film_memory_mb=0.01) as running, running.client() as client:
        study = add(client, data)
        assert not study["images"][0]["viewable"]
        image = study["images"][0]["id"]
        for what in ("pixels", "film.png", "thumbnail.png"):
            problem(client.get(f"/v1/images/{image}/{what}"), 410, "film_gone")
        assert client.get(f"/v1/images/{image}/heatmap.png").status_code == 200
        ids = [add(client, each)["images"][0]["id"] for each in small]
        assert [client.get(f"/v1/images/{each}/pixels").status_code for each in ids] == [410, 200, 200]
        assert client.post("/v1/studies", files={"films": ("a", small[0])}).json()["studies"][0]["images"][0]["viewable"]
        assert client.get(f"/v1/images/{ids[0]}/pixels").status_code == 200


def test_kept_films_are_there_after_a_restart_and_sealed_on_disk(tmp_path: Path) -> None:
    given: dict[str, Any] = {"keep_files": True, "key": base64.b64encode(bytes(range(32))).decode()}
    with serving(tmp_path, **given) as running, running.client() as client:
        before = add(client, CHEST, "DOE_JANE.dcm")
        image = before["images"][0]["id"]
        pixels = client.get(f"/v1/images/{image}/pixels").content
    on_disk = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.name.startswith("store.db"))
    assert CHEST[2000:3000] not in on_disk
    assert b"DOE_JANE" not in on_disk
    with serving(tmp_path, **given) as running, running.client() as client:
        assert client.get(f"/v1/studies/{before['id']}").json() == before
        assert client.get(f"/v1/images/{image}/pixels").content == pixels
        assert client.post("/v1/studies", files={"films": ("other.dcm", CHEST)}).status_code == 200


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
