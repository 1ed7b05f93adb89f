from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made import Array
from sklearn.metrics import accuracy_score, f1_score, log_loss, recall_score

from rentgen.errors import DataError
from rentgen.learn import head as heads
from rentgen.learn.head import Features, Head, initial_weights, train_head
from rentgen.learn.objective import OneOfMany
from rentgen.learn.settings import HeadSettings
from rentgen.records import Epoch, Float32, History, Int64

WIDTH = 12
CLASSES = 3
SMALL = HeadSettings(hidden=16, learning_rate=3e-3, batch_size=8, epochs=6, patience=6)
PARTS = ("train", "validation", "test")


def part(films: int, *, views: int = 1, seed: int = 0, classes: int = CLASSES, spread: float = 1.0) -> Features:
    """Return films of unequal classes about centres that all parts share, in float16 as the cache has them."""
    rng = np.random.default_rng(seed)
    share = np.array([0.55, 0.3, 0.15]) if classes == CLASSES else np.full(classes, 1 / classes)
    labels = rng.choice(classes, films, p=share).astype(np.int64)
    labels[:classes] = np.arange(classes)
    centres = np.random.default_rng(99).standard_normal((classes, WIDTH))
    rows = [(centres[labels] + spread * rng.standard_normal((films, WIDTH))).astype(np.float16) for _ in range(views)]
    return Features(tuple(rows), labels)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So small tensors gain nothing by a second thread, and lose much where another process has the processor."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


TRAIN, VALIDATION, TEST = part(45, views=2), part(20, seed=1), part(17, seed=2)


def trained(settings: HeadSettings, train: Features = TRAIN, validation: Features = VALIDATION) -> tuple[Head, History]:
    return train_head(train, validation, settings, classes=CLASSES, test=TEST)


def weights_of(head: Head) -> list[Float32]:
    return [head.hidden_weight, head.hidden_bias, head.class_weight, head.class_bias]


def flat(head: Head) -> Float32:
    return np.concatenate([weights.ravel() for weights in weights_of(head)])


def figures(history: History, name: str) -> Array:
    return np.array([[epoch.loss, epoch.accuracy, epoch.recall, epoch.f1] for epoch in history.parts[name]])


def judge(logits: torch.Tensor, labels: Int64) -> list[float]:
    """Return loss, accuracy, recall and F1 by scikit-learn."""
    scores = logits.double().softmax(1).numpy()
    predicted, present = scores.argmax(1), np.unique(labels)
    macro = {"average": "macro", "labels": present, "zero_division": 0}
    return [
        float(log_loss(labels, scores, labels=range(scores.shape[1]))),
        float(accuracy_score(labels, predicted)),
        float(recall_score(labels, predicted, **macro)),
        float(f1_score(labels, predicted, **macro)),
    ]


class Reference(torch.nn.Module):
    """The head as torch would have it, dropout by a given mask."""

    def __init__(self, settings: HeadSettings, classes: int, start: torch.Tensor) -> None:
        super().__init__()
        self.first = torch.nn.Linear(WIDTH, settings.hidden)
        self.last = torch.nn.Linear(settings.hidden, classes)
        torch.nn.utils.vector_to_parameters(start, self.parameters())

    def forward(self, rows: torch.Tensor, mask: torch.Tensor | float = 1.0) -> torch.Tensor:
        logits: torch.Tensor = self.last(self.first(rows).relu() * mask)
        return logits


def train_reference(train: Features, settings: HeadSettings, classes: int) -> tuple[list[Head], Mapping[str, Array]]:
    """Return the head after each epoch and the figures, by autograd and torch's own loss and optimizer.

    What is drawn, and in which order, is the definition of a seed: weights, then per epoch order, views and masks.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    model = Reference(settings, classes, initial_weights(WIDTH, settings.hidden, classes, generator))
    labels, views = torch.from_numpy(train.labels), torch.from_numpy(np.stack(train.views)).float()
    counts = np.bincount(train.labels, minlength=classes)
    balance = torch.tensor(len(labels) / (classes * counts), dtype=torch.float32) if settings.class_weights else None
    criterion = torch.nn.CrossEntropyLoss(weight=balance, label_smoothing=settings.label_smoothing)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    after: list[Head] = []
    history: dict[str, list[list[float]]] = {name: [] for name in PARTS}
    for _ in range(settings.epochs):
        order = torch.randperm(len(labels), generator=generator)
        view = torch.randint(len(views), (len(labels),), generator=generator)
        kept = torch.rand(len(labels), settings.hidden, generator=generator) >= settings.dropout
        seen = []
        batches = (torch.split(drawn, settings.batch_size) for drawn in (order, view, kept))
        for films, chosen, mask in zip(*batches, strict=True):
            optimizer.zero_grad()
            logits = model(views[chosen, films], mask / (1 - settings.dropout))
            criterion(logits, labels[films]).backward()
            optimizer.step()
            seen.append(logits.detach())
        history["train"].append(judge(torch.cat(seen), train.labels[order.numpy()]))
        with torch.inference_mode():
            for name, measured in (("validation", VALIDATION), ("test", TEST)):
                if classes == CLASSES:
                    history[name].append(judge(model(torch.from_numpy(measured.views[0]).float()), measured.labels))
            after.append(Head(*(value.detach().numpy().copy() for value in model.parameters())))
    return after, {name: np.array(rows) for name, rows in history.items()}


@pytest.mark.parametrize(
    "settings",
    [
        SMALL,
        replace(SMALL, dropout=0.0),
        replace(SMALL, class_weights=True),
        replace(SMALL, label_smoothing=0.2),
        replace(SMALL, class_weights=True, label_smoothing=0.2),
        replace(SMALL, batch_size=64),
        replace(SMALL, hidden=1, seed=5),
    ],
    ids=["plain", "no-dropout", "weights", "smoothing", "weights-and-smoothing", "one-batch", "one-unit"],
)
def test_training_is_what_torch_does_with_autograd(settings: HeadSettings) -> None:
    head, history = trained(settings)
    after, expected = train_reference(TRAIN, settings, CLASSES)
    for name in PARTS:
        np.testing.assert_allclose(figures(history, name), expected[name], atol=1e-4, err_msg=name)
    assert history.best_epoch == int(expected["validation"][:, 0].argmin())
    for ours, theirs in zip(weights_of(head), weights_of(after[history.best_epoch]), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_returned_head_gives_the_logits_that_were_scored() -> None:
    head, history = trained(SMALL)
    for name, measured in (("validation", VALIDATION), ("test", TEST)):
        logits = torch.from_numpy(head.logits(measured.views[0].astype(np.float32)))
        scored = figures(history, name)[history.best_epoch]
        np.testing.assert_allclose(judge(logits, measured.labels), scored, atol=1e-5)


def test_two_classes_and_classes_that_do_not_occur() -> None:
    two = train_head(part(30, classes=2), part(12, classes=2, seed=1), SMALL, classes=2)[0]
    assert two.class_bias.shape == (2,)
    absent = replace(SMALL, class_weights=True)
    head, history = train_head(part(30, classes=2), part(12, classes=2, seed=1), absent, classes=4)
    assert head.class_bias.shape == (4,)
    assert np.isfinite(flat(head)).all()
    assert np.isfinite(figures(history, "validation")).all()


def test_figures_average_over_the_classes_that_occur() -> None:
    labels = np.array([0, 0, 1, 1, 1], np.int64)
    logits = torch.tensor([[2.0, 1, 0], [0, 1, 0], [0, 3, 1], [0, 1, 4], [5, 1, 0]])
    epoch = OneOfMany(torch.ones(CLASSES), 0.0).figures(logits, torch.from_numpy(labels))
    assert [epoch.loss, epoch.accuracy, epoch.recall, epoch.f1] == pytest.approx(judge(logits, labels))


def test_the_seed_decides_everything() -> None:
    once, again, other = (trained(replace(SMALL, seed=seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(flat(once[0]), flat(again[0]))
    assert once[1].parts == again[1].parts
    assert not np.allclose(flat(once[0]), flat(other[0]))


def test_the_number_of_threads_decides_nothing() -> None:
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(trained(SMALL))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(flat(found[0][0]), flat(found[1][0]))
    assert found[0][1].parts == found[1][1].parts


def test_global_randomness_is_neither_used_nor_touched() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = trained(SMALL)[0]
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    np.testing.assert_array_equal(flat(one), flat(trained(SMALL)[0]))


# Noise that is learnt by heart: the validation loss falls, then rises.
OVERFITTING = replace(SMALL, learning_rate=2e-2, epochs=120, patience=5, dropout=0.2)
NOISE, UNSEEN_NOISE = part(45, spread=3.0), part(20, seed=1, spread=3.0)


@pytest.mark.parametrize("patience", [1, 5])
def test_training_stops_after_its_patience_and_keeps_the_best_epoch(patience: int) -> None:
    head, history = train_head(NOISE, UNSEEN_NOISE, replace(OVERFITTING, patience=patience), classes=CLASSES)
    losses = [epoch.loss for epoch in history.parts["validation"]]
    assert history.best_epoch == int(np.argmin(losses))
    assert len(losses) == history.best_epoch + 1 + patience < OVERFITTING.epochs
    logits = torch.from_numpy(head.logits(UNSEEN_NOISE.views[0].astype(np.float32)))
    assert judge(logits, UNSEEN_NOISE.labels)[0] == pytest.approx(min(losses), abs=1e-5)


def test_the_number_of_epochs_is_a_limit() -> None:
    history = trained(replace(SMALL, epochs=2))[1]
    assert [len(history.parts[name]) for name in PARTS] == [2, 2, 2]
    assert history.seconds > 0


CHANGED: dict[str, object] = {
    "hidden": 17,
    "dropout": 0.1,
    "learning_rate": 1e-2,
    "batch_size": 9,
    "epochs": 3,
    "patience": 7,
    "class_weights": True,
    "label_smoothing": 0.1,
    "seed": 1,
}


@pytest.mark.parametrize("name", [item.name for item in fields(HeadSettings)])
def test_each_setting_changes_the_result(name: str) -> None:
    base = train_head(NOISE, UNSEEN_NOISE, OVERFITTING, classes=CLASSES)
    other = train_head(NOISE, UNSEEN_NOISE, replace(OVERFITTING, **{name: CHANGED[name]}), classes=CLASSES)  # type: ignore[arg-type]
    assert base[1].parts != other[1].parts
    if name != "patience":  # which epoch is best does not change by waiting a little longer
        assert not np.array_equal(flat(base[0]), flat(other[0]))


def test_the_test_part_changes_nothing() -> None:
    with_test, without = trained(SMALL), train_head(TRAIN, VALIDATION, SMALL, classes=CLASSES)
    turned = Features(tuple(-view for view in TEST.views), (TEST.labels + 1) % CLASSES)
    other = train_head(TRAIN, VALIDATION, SMALL, classes=CLASSES, test=turned)
    assert with_test[1].parts["test"] != other[1].parts["test"]
    assert "test" not in without[1].parts
    for head, history in (without, other):
        np.testing.assert_array_equal(flat(head), flat(with_test[0]))
        assert history.best_epoch == with_test[1].best_epoch
        for name in ("train", "validation"):
            assert history.parts[name] == with_test[1].parts[name]


@pytest.mark.parametrize("preload", [True, False], ids=["resident", "mapped"])
def test_every_view_of_training_is_used_and_only_the_film_itself_elsewhere(
    preload: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not preload:
        monkeypatch.setattr(heads, "PRELOAD_BYTES", 0)
    base = flat(trained(SMALL)[0])
    for number in range(2):
        views = tuple(view + np.float16(number == i) for i, view in enumerate(TRAIN.views))
        assert not np.allclose(flat(trained(SMALL, Features(views, TRAIN.labels))[0]), base)
    seen = Features((*VALIDATION.views, VALIDATION.views[0] + np.float16(1)), VALIDATION.labels)
    np.testing.assert_array_equal(flat(trained(SMALL, validation=seen)[0]), base)


def on_disk(features: Features, folder: Path, name: str) -> Features:
    views = []
    for number, view in enumerate(features.views):
        path = folder / f"{name}{number}.npy"
        np.save(path, view)
        views.append(np.load(path, mmap_mode="r"))
    return Features(tuple(views), features.labels)


@pytest.mark.parametrize("views", [1, 3])
def test_features_too_large_for_memory_give_the_same_head(
    views: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = part(45, views=views)
    head, history = trained(SMALL, train)
    monkeypatch.setattr(heads, "PRELOAD_BYTES", 4 * 45 * WIDTH * views - 1)  # training does not fit, the others do
    monkeypatch.setattr(heads, "SCORING_BATCH", 7)
    for limit in (heads.PRELOAD_BYTES, 0):
        monkeypatch.setattr(heads, "PRELOAD_BYTES", limit)
        mapped, same = trained(SMALL, on_disk(train, tmp_path, "t"), on_disk(VALIDATION, tmp_path, "v"))
        np.testing.assert_allclose(flat(mapped), flat(head), atol=1e-6)
        np.testing.assert_allclose(figures(same, "validation"), figures(history, "validation"), atol=1e-6)


def test_features_are_not_changed() -> None:
    train = Features(tuple(view.astype(np.float32) for view in TRAIN.views), TRAIN.labels.copy())
    before = [array.tobytes() for array in (*train.views, train.labels)]
    trained(SMALL, train)
    assert [array.tobytes() for array in (*train.views, train.labels)] == before


def test_progress_is_told_each_epoch() -> None:
    told: list[tuple[int, Mapping[str, Epoch]]] = []
    _, history = train_head(
        TRAIN, VALIDATION, SMALL, classes=CLASSES, progress=lambda epoch, now: told.append((epoch, now))
    )
    assert [epoch for epoch, _ in told] == list(range(SMALL.epochs))
    assert [now["validation"] for _, now in told] == list(history.parts["validation"])
    assert set(told[0][1]) == {"train", "validation"}


def test_initial_weights_are_glorots() -> None:
    flat_weights = initial_weights(400, 300, 5, torch.Generator().manual_seed(0))
    w1, b1, w2, b2 = torch.split(flat_weights, [400 * 300, 300, 5 * 300, 5])
    for weights, fans in ((w1, 700), (w2, 305)):
        limit = (6 / fans) ** 0.5
        assert 0.98 * limit < float(weights.abs().max()) <= limit
        assert float(weights.std()) == pytest.approx(limit / 3**0.5, rel=0.05)
    assert not b1.any()
    assert not b2.any()


@pytest.mark.parametrize("name", ["training", "validation", "test"])
def test_an_empty_part_is_refused(name: str) -> None:
    empty = Features((np.empty((0, WIDTH), np.float16),), np.empty(0, np.int64))
    given = {"training": TRAIN, "validation": VALIDATION, "test": TEST} | {name: empty}
    with pytest.raises(DataError, match=f"Expected films in the {name} part, but it is empty"):
        train_head(given["training"], given["validation"], SMALL, classes=CLASSES, test=given["test"])


def test_numbers_below_the_smallest_normal_one_are_zero_while_it_trains() -> None:
    seen = []

    def note(epoch: int, figures: Mapping[str, Epoch]) -> None:
        seen.append(float(torch.tensor(1e-39) * 1))

    train_head(TRAIN, VALIDATION, SMALL, classes=CLASSES, progress=note)
    assert set(seen) == {0.0}
    # And as they were before, where somebody else computes.
    assert float(torch.tensor(1e-39) * 1) > 0
