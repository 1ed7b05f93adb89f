from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import EmpiricalCovariance
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from rentgen.engine.session import Session
from rentgen.images.corrupt import corrupt
from rentgen.images.phantom import Finding, draw
from rentgen.images.prepare import to_uint8
from rentgen.learn.backbones import Backbone, load
from rentgen.learn.domain import FAR, TYPICAL, Domain, fit_domain, fit_group
from rentgen.learn.export import export_members
from rentgen.learn.members import FittedFilms
from rentgen.records import EngineName, Float64, Int64, UInt8

SIDE = 96
CLASSES = (Finding.NORMAL, Finding.CONSOLIDATION)
NETWORKS = ("test_resnet", "test_efficientnet", "test_mambaout", "test_vit")
NORMALISED = "film"


@cache
def drawn(first: int, count: int) -> FittedFilms:
    """Return `count` drawn films of each class; other numbers are other patients."""
    images = [
        to_uint8(draw(finding, np.random.default_rng([seed, number]), height=SIDE, width=SIDE).pixels)
        for number, finding in enumerate(CLASSES)
        for seed in range(first, first + count)
    ]
    labels = np.repeat(np.arange(len(CLASSES)), count)
    patients = tuple(f"{number}-{seed}" for number in range(len(CLASSES)) for seed in range(first, first + count))
    return FittedFilms(np.stack(images), labels, patients, f"drawn {first} {count}")


@cache
def fitted(name: str) -> tuple[Backbone, Domain]:
    backbone = load(name, weights="random", size=(SIDE, SIDE), normalise=NORMALISED)
    return backbone, fit_domain(backbone, drawn(0, 40), drawn(1000, 30), 0.8)


@pytest.fixture(params=NETWORKS)
def domain(request: pytest.FixtureRequest) -> Domain:
    return fitted(request.param)[1]


def measure(domain: Domain, images: UInt8) -> Float64:
    with torch.inference_mode():
        distances: torch.Tensor = domain(torch.from_numpy(np.ascontiguousarray(images)))
    return np.asarray(distances.numpy(), np.float64)


def numbers(films: int, classes: int = 2, features: int = 6) -> tuple[Float64, Int64]:
    """Return features of classes that differ in place and in shape, of very different sizes."""
    rng = np.random.default_rng(3)
    labels = np.arange(films) % classes
    shapes = np.eye(features) + rng.normal(0, 0.5 / np.sqrt(features), (classes, features, features))
    values = np.einsum("nf,nfg->ng", rng.normal(size=(films, features)), shapes[labels])
    return (values + 3 * labels[:, None]) * np.logspace(-2, 2, features), labels


def raw(values: Float64, labels: Int64, own: float) -> Float64:
    group = fit_group(values, labels, own)
    return group.raw(torch.as_tensor(values, dtype=torch.float32)).numpy().astype(np.float64)


def test_own_covariances_give_the_distance_of_scipy() -> None:
    values, labels = numbers(4000)
    ours = raw(values, labels, 1.0)
    for label in (0, 1):
        fit = EmpiricalCovariance().fit(values[labels == label])
        theirs = [mahalanobis(value, fit.location_, fit.precision_) for value in values[:50]]
        # Ours is per feature, so that groups of other widths compare.
        np.testing.assert_allclose(ours[:50, label] * np.sqrt(values.shape[1]), theirs, rtol=0.01)


def test_the_shared_covariance_is_that_of_linear_discriminant_analysis() -> None:
    values, labels = numbers(4000)
    ours = raw(values, labels, 0.0)
    lda = LinearDiscriminantAnalysis(solver="lsqr", store_covariance=True).fit(values, labels)
    precision = np.linalg.inv(lda.covariance_)
    for label in (0, 1):
        theirs = [mahalanobis(value, lda.means_[label], precision) for value in values[:50]]
        np.testing.assert_allclose(ours[:50, label] * np.sqrt(values.shape[1]), theirs, rtol=0.01)


@pytest.mark.parametrize("own", [0.0, 0.9])
def test_more_features_than_films_still_give_distances(own: float) -> None:
    values, labels = numbers(30, features=40)
    ours = raw(values, labels, own)
    assert np.isfinite(ours).all()
    assert (ours > 0).all()


@pytest.mark.parametrize("own", [0.0, 0.9])
def test_a_class_with_few_films_or_none_has_a_distance(own: float) -> None:
    values, labels = numbers(300)
    labels = np.where(np.arange(300) < 5, 3, labels)  # of classes 0 to 3, 2 has none
    ours = raw(values, labels, own)
    assert ours.shape == (300, 4)
    assert np.isfinite(ours).all()


def test_each_scale_goes_from_the_typical_to_the_far_film_of_its_class(domain: Domain) -> None:
    films = drawn(1000, 30)
    smoothed = torch.from_numpy(films.smoothed(0.8).images)
    with torch.inference_mode():
        features = domain.features(smoothed)
        for group, values in zip(domain.groups, features, strict=True):
            measured = group.raw(values).numpy()  # type: ignore[operator]
            scale = group.scale.numpy()  # type: ignore[operator]
            for label in range(len(CLASSES)):
                mine = (measured[films.labels == label, label] - scale[label, 0]) / scale[label, 1]
                np.testing.assert_allclose(np.percentile(mine, (TYPICAL, FAR)), (0, 1), atol=1e-4)


def test_new_films_of_the_same_kind_are_near_and_other_pictures_far() -> None:
    _, domain = fitted("test_resnet")
    limit = np.quantile(measure(domain, drawn(1000, 30).smoothed(0.8).images), 0.97)
    new = drawn(2000, 30).smoothed(0.8).images
    assert (measure(domain, new) > limit).mean() < 0.2
    noise = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE), np.uint8)
    board = np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((SIDE // 8, SIDE // 8))).astype(np.uint8) * 255
    # Not negatives or films on their side: a network that was never trained pools those into much the same.
    for other in (noise, board[None], np.zeros((1, SIDE, SIDE), np.uint8)):
        assert (measure(domain, other) > limit).all()


def test_the_archive_has_little_say() -> None:
    _, domain = fitted("test_resnet")
    limit = np.quantile(measure(domain, drawn(1000, 30).smoothed(0.8).images), 0.97)
    films = drawn(2000, 30)
    for change in ("JPEG 20", "half the pixels"):
        packed = np.stack([corrupt(film, change, np.random.default_rng(0)) for film in films.images])
        again = FittedFilms(packed, films.labels, films.patients, change)
        assert (measure(domain, again.smoothed(0.8).images) > limit).mean() < 0.25


def test_brightness_has_no_say(domain: Domain) -> None:
    images = (drawn(2000, 3).images // 2).astype(np.uint8)
    np.testing.assert_allclose(measure(domain, images + np.uint8(60)), measure(domain, images), rtol=1e-3, atol=1e-3)


def test_the_seed_decides_all() -> None:
    backbone, domain = fitted("test_resnet")
    images = drawn(2000, 3).images

    def again(seed: int) -> Float64:
        return measure(fit_domain(backbone, drawn(0, 40), drawn(1000, 30), 0.8, seed=seed), images)

    np.testing.assert_array_equal(again(0), measure(domain, images))
    assert not np.array_equal(again(1), measure(domain, images))


def test_progress_counts_each_film_it_reads() -> None:
    seen: list[tuple[str, int, int]] = []

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        seen.append((stage, done, total))

    fit_domain(fitted("test_resnet")[0], drawn(0, 40), drawn(1000, 30), 0.8, progress=progress)
    assert {(stage, total) for stage, _, total in seen} == {("domain", 2 * 80 + 60)}
    assert seen[-1][1] == 220


@pytest.mark.parametrize("engine", list(EngineName))
@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_measures_as_torch_does(name: str, engine: EngineName) -> None:
    domain = fitted(name)[1]
    images = np.concatenate([drawn(2000, 3).images, 255 - drawn(2000, 1).images])
    for batch_size in (1, 3):
        ours = Session(graph(name), engine=engine, batch_size=batch_size, streams=1).run(images, ("distance",))
        assert ours["distance"].shape == (8,)
        np.testing.assert_allclose(ours["distance"], measure(domain, images), rtol=2e-3, atol=2e-3)


@cache
def graph(name: str) -> bytes:
    backbone, domain = fitted(name)
    return export_members([backbone], (SIDE, SIDE), domain)
