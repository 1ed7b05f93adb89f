from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Trained
from made import film8, png

from rentgen import bundle as bundles
from rentgen.bundle import Golden
from rentgen.engine.predictor import Predictor, Source, heat_map, replay, softmax
from rentgen.engine.session import Session
from rentgen.errors import BundleError
from rentgen.images.read import read
from rentgen.records import EngineName, Precision, Preprocessing, Status


@pytest.fixture(scope="module")
def predictor(trained: Trained) -> Predictor:
    return Predictor.load(trained.bundle, precision=Precision.F32)


@pytest.fixture(scope="module")
def paths(trained: Trained) -> list[Path]:
    return sorted(trained.data.glob("*/*_1.png"))[::6]


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bad") / "bad.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    return path


def test_the_order_is_kept_and_one_bad_file_stops_nothing(predictor: Predictor, paths: list[Path], bad: Path) -> None:
    mixed = [paths[0], bad, *paths[1:], bad.with_name("absent.dcm")]
    found = list(predictor.predict_many(mixed))
    assert [item.path for item in found] == [str(path) for path in mixed]
    assert [item.status for item in found] == [Status.OK, Status.ERROR, *[Status.OK] * (len(paths) - 1), Status.ERROR]
    broken = found[1]
    assert (broken.label, broken.probabilities, broken.content_hash) == (None, {}, None)
    assert broken.reasons
    assert "no such file" in found[-1].reasons[0]


def test_a_batch_of_bad_files_only(predictor: Predictor, bad: Path) -> None:
    assert [item.status for item in predictor.predict_many([bad, bad])] == [Status.ERROR] * 2
    assert list(predictor.predict_many([])) == []


def test_batches_agree_with_single_films(trained: Trained, predictor: Predictor, paths: list[Path], bad: Path) -> None:
    by_four = Predictor(trained.training.bundle, precision=Precision.F32, batch_size=4)
    mixed = [*paths[:3], bad, *paths[3:]]
    assert len(mixed) % 4
    for one, other in zip(
        predictor.predict_many(mixed, maps=True), by_four.predict_many(mixed, maps=True), strict=True
    ):
        assert (one.path, one.status, one.label, one.reasons) == (other.path, other.status, other.label, other.reasons)
        assert dict(one.probabilities) == pytest.approx(dict(other.probabilities), abs=1e-5)
        if one.activation_maps is not None and other.activation_maps is not None:
            np.testing.assert_allclose(one.activation_maps, other.activation_maps, rtol=1e-3, atol=1e-6)


def test_the_engines_agree(trained: Trained, predictor: Predictor, paths: list[Path]) -> None:
    other = Predictor.load(trained.bundle, engine=EngineName.ONNXRUNTIME)
    for path in paths[:3]:
        assert dict(predictor.predict(path).probabilities) == pytest.approx(
            dict(other.predict(path).probabilities), abs=1e-4
        )


def test_bytes_and_films_that_were_read_are_answered_alike(predictor: Predictor, paths: list[Path]) -> None:
    by_path = predictor.predict(str(paths[0]))
    by_bytes = predictor.predict(paths[0].read_bytes())
    by_film = predictor.predict_film(read(paths[0]), name="mine")
    assert by_path.probabilities == by_bytes.probabilities == by_film.probabilities
    assert (by_bytes.path, by_film.path) == ("bytes", "mine")
    digest = hashlib.sha256(paths[0].read_bytes()).hexdigest()
    assert {by_path.content_hash, by_bytes.content_hash, by_film.content_hash} == {digest}


def test_probabilities_are_the_softmax_of_the_graphs_logits(predictor: Predictor, paths: list[Path]) -> None:
    for prediction in predictor.predict_many(paths):
        assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-12)
        assert tuple(prediction.probabilities) == predictor.card.classes
        assert prediction.label == max(prediction.probabilities, key=lambda label: prediction.probabilities[label])
    huge = softmax(np.array([[1000.0, 0.0], [-1000.0, -1000.0]], np.float32))
    np.testing.assert_allclose(huge, np.array([[1, 0], [0.5, 0.5]]))


def test_the_json_object_is_the_documented_one(predictor: Predictor, paths: list[Path]) -> None:
    values = predictor.predict(paths[0]).to_dict()
    assert list(values) == ["path", "label", "probabilities", "status", "reasons", "prediction_set", "distance"]
    assert values["status"] == "ok"


@pytest.mark.parametrize("batch_size", [1, 3])
def test_sources_are_drawn_lazily(batch_size: int, trained: Trained) -> None:
    predictor = Predictor(trained.training.bundle, batch_size=batch_size, streams=2)
    drawn = 0

    def sources() -> Iterator[Source]:
        nonlocal drawn
        for number in range(200):
            drawn += 1
            yield png(film8(seed=number))

    for number, _ in enumerate(predictor.predict_many(sources())):
        # Four batches for each stream, the one that is yielded, and the one that is being gathered.
        assert drawn <= number + (4 * 2 + 2) * batch_size
    assert drawn == 200


def test_a_source_that_fails_is_not_swallowed(predictor: Predictor, paths: list[Path]) -> None:
    def sources() -> Iterator[Source]:
        yield paths[0]
        raise OSError("the list ended early")

    with pytest.raises(OSError, match="the list ended early"):
        list(predictor.predict_many(sources()))


def test_stopping_early_leaves_the_predictor_usable(predictor: Predictor, paths: list[Path]) -> None:
    stream = iter(predictor.predict_many(paths * 20))
    first = next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert predictor.predict(paths[0]).probabilities == first.probabilities


def test_eight_threads_share_a_predictor(predictor: Predictor, paths: list[Path]) -> None:
    expected = {path: predictor.predict(path).probabilities for path in paths}
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(predictor.predict, paths * 8))
    assert all(item.probabilities == expected[Path(item.path)] for item in found)


def test_a_heat_map_has_the_films_shape(predictor: Predictor, paths: list[Path]) -> None:
    prediction = predictor.predict(paths[0], maps=True)
    for label in (None, *predictor.card.classes):
        heat = heat_map(prediction, label)
        assert heat.shape == read(paths[0]).pixels.shape
        assert heat.min() >= 0
    np.testing.assert_array_equal(heat_map(prediction), heat_map(prediction, prediction.label))


def test_a_heat_map_that_cannot_be_had_is_refused(predictor: Predictor, paths: list[Path], bad: Path) -> None:
    with pytest.raises(ValueError, match="a prediction with activation maps, but it was made without"):
        heat_map(predictor.predict(paths[0]))
    with pytest.raises(ValueError, match="a prediction with activation maps"):
        heat_map(predictor.predict(bad, maps=True))
    with pytest.raises(ValueError, match="one of the classes consolidation, effusion, normal, but got 'fracture'"):
        heat_map(predictor.predict(paths[0], maps=True), "fracture")


@pytest.mark.parametrize("engine", EngineName)
def test_the_golden_vectors_replay(engine: EngineName, trained: Trained) -> None:
    bundle = bundles.read(trained.bundle)
    differences = replay(bundle, Session(bundle.model, engine=engine))
    assert set(differences) == {"logits", "embedding", "activation_maps"}
    assert max(differences.values()) < 1e-4


def _golden(trained: Trained, **changes: Any) -> Golden:  # noqa: ANN401
    return replace(trained.training.bundle.golden, **changes)


@pytest.mark.parametrize("name", ["logits", "embedding", "activation_maps"])
@pytest.mark.parametrize("value", [0.5, np.nan])
def test_tampered_golden_vectors_do_not_replay(name: str, value: float, trained: Trained, tmp_path: Path) -> None:
    """Written anew, so that every hash is right."""
    changed = getattr(trained.training.bundle.golden, name).copy()
    changed.flat[0] += np.float32(value) * max(1.0, float(np.abs(changed).max()))
    path = tmp_path / "tampered.rentgen"
    bundles.write(path, replace(trained.training.bundle, golden=_golden(trained, **{name: changed})))
    with pytest.raises(BundleError, match=f"The golden vectors do not replay: {name} differs by"):
        Predictor.load(path)


def test_golden_films_that_are_prepared_otherwise_are_refused(trained: Trained) -> None:
    changed = 255 - trained.training.bundle.golden.prepared
    with pytest.raises(BundleError, match="golden films are prepared otherwise here"):
        Predictor(replace(trained.training.bundle, golden=_golden(trained, prepared=changed)))
    card = replace(trained.training.bundle.card, preprocessing=Preprocessing(96, 96, crop_borders=True))
    with pytest.raises(BundleError, match="golden films are prepared otherwise here"):
        Predictor(replace(trained.training.bundle, card=card))


def test_a_card_that_does_not_fit_the_graph_is_refused(trained: Trained) -> None:
    bundle = trained.training.bundle
    for changed in (
        replace(bundle, card=replace(bundle.card, classes=("normal", "effusion"))),
        replace(bundle, card=replace(bundle.card, preprocessing=Preprocessing(64, 64))),
        replace(bundle, golden=_golden(trained, logits=bundle.golden.logits[:, :1])),
        replace(bundle, golden=_golden(trained, films=(), prepared=bundle.golden.prepared[:0])),
        replace(bundle, golden=_golden(trained, films=(np.zeros((0, 3), np.uint8),) * len(bundle.golden.films))),
    ):
        with pytest.raises(BundleError, match="The card, the graph and the golden vectors do not fit each other"):
            Predictor(changed)
