"""What one training is chosen by over another."""

from __future__ import annotations

import numpy as np

from rentgen.evaluate.prevalence import balance_weights
from rentgen.evaluate.several import mean_cell_loss
from rentgen.evaluate.weighted import log_losses
from rentgen.learn.scaling import fit_vector
from rentgen.records import Float32, Int64


def calibrated_loss(logits: Float32, labels: Int64) -> float:
    """Return the mean cross-entropy over equally frequent classes, or over findings, that a calibration could reach.

    A calibration follows the training, so an epoch is not to be blamed for what that will mend: thresholds that class
    weights moved, or too much confidence.
    """
    if labels.ndim == 2:
        return mean_cell_loss(fit_vector(logits, labels).probabilities(logits), labels)
    weights = balance_weights(labels, np.full(logits.shape[1], 1 / logits.shape[1]))
    scaling = fit_vector(logits, labels, weights)
    return float(np.average(log_losses(scaling.probabilities(logits), labels), weights=weights))
