"""The loss and the calibration of several findings, against torch and scikit-learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss, recall_score

from rentgen.learn.head import Features, Head, initial_weights, train_head
from rentgen.learn.objective import ManyFindings, objective_of, presence_weights
from rentgen.learn.scaling import fit_temperature, fit_vector
from rentgen.learn.settings import HeadSettings
from rentgen.records import Float64, Int64, Task

WIDTH, FINDINGS = 10, 4
SMALL = HeadSettings(hidden=16, learning_rate=3e-3, batch_size=8, epochs=5, patience=5)


def part(films: int, *, views: int = 1, seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    labels = (rng.random((films, FINDINGS)) < (0.5, 0.3, 0.2, 0.4)).astype(np.int64)
    directions = np.random.default_rng(99).standard_normal((FINDINGS, WIDTH))
    rows = [(labels @ directions + rng.standard_normal((films, WIDTH))).astype(np.float16) for _ in range(views)]
    labels[rng.random(labels.shape) < 0.25] = -1
    return Features(tuple(rows), labels)


TRAIN, VALIDATION = part(45, views=2), part(24, seed=1)


def masked(labels: Int64, weight: torch.Tensor | None = None) -> torch.nn.BCEWithLogitsLoss:
    """Return torch's own loss, summed over the cells of which something is known."""
    known = torch.from_numpy(labels >= 0).float()
    return torch.nn.BCEWithLogitsLoss(weight=known, pos_weight=weight, reduction="sum")


@pytest.mark.parametrize("weigh", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_slope_are_torchs_with_a_mask(weigh: bool, smoothing: float) -> None:
    labels = torch.from_numpy(TRAIN.labels)
    objective = objective_of(labels, FINDINGS, weigh=weigh, smoothing=smoothing)
    logits = torch.randn(len(labels), FINDINGS, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = labels.clamp(min=0).float() * (1 - smoothing) + smoothing / 2
    count = int((TRAIN.labels >= 0).sum())
    expected = masked(TRAIN.labels, presence_weights(labels) if weigh else None)(logits, target) / count
    (slope,) = torch.autograd.grad(expected, logits)
    prepared = objective.prepare(labels)
    torch.testing.assert_close(objective.loss(logits, *prepared), expected)
    torch.testing.assert_close(objective.slope(logits.detach(), *prepared), slope)
    assert (slope[labels < 0] == 0).all()


@pytest.mark.parametrize("settings", [SMALL, replace(SMALL, dropout=0.0, class_weights=True, label_smoothing=0.1)])
def test_head_learns_as_torch_would(settings: HeadSettings) -> None:
    head, history = train_head(TRAIN, VALIDATION, settings, classes=FINDINGS)
    generator = torch.Generator().manual_seed(settings.seed)
    first, last = torch.nn.Linear(WIDTH, settings.hidden), torch.nn.Linear(settings.hidden, FINDINGS)
    parameters = [*first.parameters(), *last.parameters()]
    torch.nn.utils.vector_to_parameters(initial_weights(WIDTH, settings.hidden, FINDINGS, generator), parameters)
    optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate)
    labels, views = torch.from_numpy(TRAIN.labels), torch.from_numpy(np.stack(TRAIN.views)).float()
    weight = presence_weights(labels) if settings.class_weights else None
    losses, best = [], []
    for _ in range(settings.epochs):
        drawn = (
            torch.randperm(len(labels), generator=generator),
            torch.randint(len(views), (len(labels),), generator=generator),
            torch.rand(len(labels), settings.hidden, generator=generator) >= settings.dropout,
        )
        for films, view, mask in zip(*(torch.split(values, settings.batch_size) for values in drawn), strict=True):
            optimizer.zero_grad()
            logits = last(first(views[view, films]).relu() * mask / (1 - settings.dropout))
            chosen = TRAIN.labels[films.numpy()]
            target = labels[films].clamp(min=0).float() * (1 - settings.label_smoothing) + settings.label_smoothing / 2
            (masked(chosen, weight)(logits, target) / max(1, int((chosen >= 0).sum()))).backward()
            optimizer.step()
        with torch.inference_mode():
            told = last(first(torch.from_numpy(VALIDATION.views[0]).float()).relu())
        known = VALIDATION.labels >= 0
        losses.append(log_loss(VALIDATION.labels[known], told.sigmoid().numpy()[known]))
        best.append(Head(*(values.detach().clone().numpy() for values in parameters)))
    assert [epoch.loss for epoch in history.parts["validation"]] == pytest.approx(losses, abs=1e-4)
    expected = best[int(np.argmin(losses))]
    np.testing.assert_allclose(head.class_weight, expected.class_weight, atol=2e-4)
    np.testing.assert_allclose(head.hidden_weight, expected.hidden_weight, atol=2e-4)


def test_figures_are_scikit_learns_over_what_is_known() -> None:
    labels = VALIDATION.labels
    logits = torch.randn(labels.shape, generator=torch.Generator().manual_seed(3))
    found = ManyFindings(torch.ones(FINDINGS), 0.0).figures(logits, torch.from_numpy(labels))
    called, known = logits.numpy() >= 0, labels >= 0
    columns = [(labels[known[:, i], i], called[known[:, i], i]) for i in range(FINDINGS)]
    assert found.loss == pytest.approx(log_loss(labels[known], logits.sigmoid().numpy()[known]))
    assert found.accuracy == pytest.approx(accuracy_score(labels[known] == 1, called[known]))
    assert found.recall == pytest.approx(np.mean([recall_score(*column) for column in columns]))
    assert found.f1 == pytest.approx(np.mean([f1_score(*column) for column in columns]))


def told(n: int = 300) -> tuple[Float64, Int64]:
    rng = np.random.default_rng(4)
    truth = (rng.random((n, 3)) < (0.5, 0.2, 0.1)).astype(np.int64)
    logits = 3 * (rng.standard_normal((n, 3)) + truth - 0.5)
    truth[rng.random((n, 3)) < 0.2] = -1
    return logits, truth


def test_scaling_of_each_finding_is_logistic_regression_on_its_known_films() -> None:
    logits, truth = told()
    weights = np.random.default_rng(0).uniform(0.5, 2.0, len(truth))
    found = fit_vector(logits, truth, weights, ridge=0.0)
    assert found.task is Task.MULTILABEL
    for column in range(3):
        known = truth[:, column] >= 0
        expected = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
            logits[known, column : column + 1], truth[known, column], sample_weight=weights[known]
        )
        assert found.scale[column] == pytest.approx(expected.coef_[0, 0], rel=1e-4)
        assert found.bias[column] == pytest.approx(expected.intercept_[0], rel=1e-3, abs=1e-5)
        probabilities = expected.predict_proba(logits[:, column : column + 1])[:, 1]
        np.testing.assert_allclose(found.probabilities(logits)[:, column], probabilities, atol=1e-5)


def test_temperature_of_findings_is_one_scale_for_all_that_is_known() -> None:
    logits, truth = told()
    known = truth >= 0
    found = fit_temperature(logits, truth, ridge=0.0)
    expected = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(logits[known][:, None], truth[known])
    assert found.scale == pytest.approx(np.full(3, expected.coef_[0, 0]), rel=1e-4)
    assert not found.bias.any()


def test_finding_of_which_nothing_is_known_keeps_the_common_scale() -> None:
    logits, truth = told(60)
    truth[:, 2] = -1
    found = fit_vector(logits, truth)
    assert (found.scale[2], found.bias[2]) == (pytest.approx(fit_temperature(logits, truth).scale[0]), 0.0)
