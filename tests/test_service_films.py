"""Films and heat maps as a viewer gets them: pixels, pictures, geometry, and what becomes of them."""

from __future__ import annotations

import base64
import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from asked import CHEST, PHANTOMS, add, film_of, picture, problem
from linear import predictor_of, weighing_model
from made import dicom, film, film8, jpeg, png
from PIL import Image
from serving import Serving, serving

from rentgen import bundle as bundles
from rentgen.engine.predictor import Predictor, heat_map
from rentgen.images.read import read


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("api"), max_films=12) as running:
        yield running


@pytest.fixture(scope="module")
def predictor(served: Serving) -> Predictor:
    return served.predictor()


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
        assert client.post("/v1/studies", files={"films": ("a", small[0])}).json()["studies"][0]["images"][0][
            "viewable"
        ]
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
