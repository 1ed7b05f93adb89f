"""What training makes small: cross-entropy over classes, or over each finding of which something is known.

Both are given by the same five functions, so that the head's loop and fine-tuning do not ask which of the two it is.
Targets are prepared once for all films; a batch takes their rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid

from rentgen.records import Epoch

MOST_WEIGHT = 30.0
"""A film with a rare finding weighs at most so many times what it would; more makes steps wild."""


class Objective(Protocol):
    """A loss over logits (B, classes)."""

    def prepare(self, labels: Tensor) -> tuple[Tensor, ...]:
        """Return what the other functions need of films, one row a film."""

    def divisor(self, *prepared: Tensor) -> Tensor:
        """Return what the loss's sum over the films is divided by."""

    def slope(self, logits: Tensor, *prepared: Tensor) -> Tensor:
        """Return the gradient of the loss with respect to the logits (B, classes)."""

    def loss(self, logits: Tensor, *prepared: Tensor) -> Tensor:
        """Return the loss."""

    def figures(self, logits: Tensor, labels: Tensor) -> Epoch:
        """Return the unweighted loss, and how the answers compare with the labels."""


def objective_of(labels: Tensor, classes: int, *, weigh: bool, smoothing: float) -> Objective:
    """Return the loss for labels: over classes for (n,), over findings for (n, k).

    Args:
        labels: of the training part; they decide the weights.
        classes: or findings, how many.
        weigh: classes inversely to their number; a finding's presence by its rarity.
        smoothing: share of the target that is spread, in [0, 0.5].
    """
    if labels.ndim == 1:
        return OneOfMany(class_weights(labels, classes) if weigh else torch.ones(classes), smoothing)
    return ManyFindings(presence_weights(labels) if weigh else torch.ones(classes), smoothing)


@dataclass(frozen=True, slots=True, eq=False)
class OneOfMany:
    """torch.nn.CrossEntropyLoss with class weights and label smoothing.

    Attributes:
        weight: (classes,).
        smoothing: in [0, 0.5].
    """

    weight: Tensor
    smoothing: float

    def prepare(self, labels: Tensor) -> tuple[Tensor, ...]:
        """Return weighted targets (n, classes), and the weight of each film's own class (n,)."""
        weight = self.weight.to(labels.device)
        return smooth_labels(labels, len(weight), self.smoothing) * weight, weight[labels]

    def divisor(self, *prepared: Tensor) -> Tensor:
        """Return the weights of the films' own classes, all together."""
        return prepared[1].sum()

    def slope(self, logits: Tensor, *prepared: Tensor) -> Tensor:
        """Return the gradient (B, classes).

        As torch.nn.CrossEntropyLoss has it: each class's share of a smoothed target has that class's weight, and the
        mean is over the weights of the films' own classes.
        """
        target, _ = prepared
        return (logits.softmax(1) * target.sum(1, keepdim=True) - target) / self.divisor(*prepared)

    def loss(self, logits: Tensor, *prepared: Tensor) -> Tensor:
        """Return the loss."""
        target, _ = prepared
        return -(target * logits.log_softmax(1)).sum() / self.divisor(*prepared)

    def figures(self, logits: Tensor, labels: Tensor) -> Epoch:
        """Return unweighted mean loss, accuracy, and macro recall and F1 over the classes that occur."""
        classes = logits.shape[1]
        loss = cross_entropy(logits, labels).item()
        cells = torch.bincount(labels * classes + logits.argmax(1), minlength=classes * classes)
        confusion = cells.view(classes, classes)
        right = confusion.diagonal().double()
        actual, predicted = confusion.sum(1).double(), confusion.sum(0).double()
        present = actual > 0
        recall = (right / actual)[present].mean().item()
        f1 = (2 * right / (actual + predicted))[present].mean().item()
        return Epoch(loss, (right.sum() / actual.sum()).item(), recall, f1)


@dataclass(frozen=True, slots=True, eq=False)
class ManyFindings:
    """torch.nn.BCEWithLogitsLoss, its mean over the cells of which something is known.

    Attributes:
        weight: (findings,) of presence.
        smoothing: in [0, 0.5].
    """

    weight: Tensor
    smoothing: float

    def prepare(self, labels: Tensor) -> tuple[Tensor, ...]:
        """Return what speaks for presence and for absence, and what is known, each (n, findings); unknown is 0."""
        known = (labels >= 0).float()
        target = labels.clamp(min=0).float() * (1 - self.smoothing) + self.smoothing / 2
        return target * self.weight.to(labels.device) * known, (1 - target) * known, known

    def divisor(self, *prepared: Tensor) -> Tensor:
        """Return how many cells are known, and at least one."""
        return prepared[2].sum().clamp(min=1)

    def slope(self, logits: Tensor, *prepared: Tensor) -> Tensor:
        """Return the gradient (B, findings); 0 where nothing is known."""
        present, absent, _ = prepared
        return (logits.sigmoid() * (present + absent) - present) / self.divisor(*prepared)

    def loss(self, logits: Tensor, *prepared: Tensor) -> Tensor:
        """Return the loss."""
        present, absent, _ = prepared
        return -(present * logsigmoid(logits) + absent * logsigmoid(-logits)).sum() / self.divisor(*prepared)

    def figures(self, logits: Tensor, labels: Tensor) -> Epoch:
        """Return loss and accuracy over the known cells, and macro recall and F1 at one half over the findings met."""
        known = labels >= 0
        truth = labels == 1
        called = (logits >= 0) & known
        loss = binary_cross_entropy_with_logits(logits[known], truth[known].float()).item()
        right = (called & truth).sum(0).double()
        actual, predicted = truth.sum(0).double(), called.sum(0).double()
        present = actual > 0
        recall = (right / actual)[present].mean().item()
        f1 = (2 * right / (actual + predicted))[present].mean().item()
        return Epoch(loss, (called == truth)[known].double().mean().item(), recall, f1)


def smooth_labels(labels: Tensor, classes: int, amount: float) -> Tensor:
    """Return (films, classes) targets that keep `1 - amount` for the label and share the rest evenly."""
    return torch.nn.functional.one_hot(labels, classes).float() * (1 - amount) + amount / classes


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """Return weights inverse to the classes' numbers, their mean over the films being one."""
    counts = torch.bincount(labels, minlength=classes).clamp(min=1).float()
    return counts.sum() / (classes * counts)


def presence_weights(labels: Tensor) -> Tensor:
    """Return (findings,) how often each finding is absent for each time that it is present, within bounds."""
    present, absent = ((labels == value).sum(0).float() for value in (1, 0))
    return (absent / present.clamp(min=1)).clamp(1 / MOST_WEIGHT, MOST_WEIGHT)
