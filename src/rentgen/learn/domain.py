"""How far a film lies from those that taught the model, as one number that the graph gives.

Two groups of features of the pretrained network, at half the input's size so that scanners and archives have little
say: texture (means, spreads and covariances of an early stage's channels) and layout (means and spreads of the middle
stages). In each group a film has a Mahalanobis distance to every class (Lee et al., A simple unified framework for
detecting out-of-distribution samples, NeurIPS 2018); the nearest class counts, and of the groups the farther one. The
statistics are those of the training films and of mildly changed copies of them, so that another exposure or another
JPEG is at home.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rentgen.errors import MissingExtraError
from rentgen.images.prepare import smooth
from rentgen.learn.backbones import Backbone
from rentgen.learn.members import FittedFilms
from rentgen.learn.settings import ShiftSettings
from rentgen.learn.shift import film_sources, shift_batch, smooth_batch
from rentgen.records import Float64, Int64, Progress

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
except ImportError as error:
    raise MissingExtraError(error.name or "torch", "train", "training") from error

BATCH = 64
MILD = ShiftSettings(
    flip=False, rotation_degrees=4.0, shift=0.03, zoom=0.05, aspect=0.03, shear=0.02, borders=0.04, borders_share=0.1,
    markers=0.15, window=0.03, gamma=0.25, contrast=0.2, brightness=0.05, blur_px=0.6, sharpen=0.5, noise=0.01,
    jpeg=0.4, jpeg_quality=50,
)  # fmt: skip
"""What the same machine may do to the next film."""
MAX_COVARIANCE_CHANNELS = 64
"""A stage with more has no covariances among its texture features: they would outnumber the films."""
TYPICAL, FAR = 50.0, 97.0
"""Percentiles of the validation films that become 0 and 1 of each group's scale."""
OWN_COVARIANCE = 0.9
"""How much of a class's layout covariance is its own; the rest is that of all films."""
LEAST_FILMS = 20


class Domain(nn.Module):
    """From uint8 films (N, H, W) to distances (N,): about 0 for a typical film, 1 for one farther than 97 in 100.

    Attributes:
        places: which stages are read, texture first.
        halved: whether films are read at half their size; some networks take one size only.
    """

    def __init__(self, backbone: Backbone) -> None:
        """Take the pretrained network; `fit_domain` gives the statistics."""
        super().__init__()
        self.backbone = backbone
        network = backbone.network
        count = len(network.feature_info)  # type: ignore[arg-type]
        quarters = (count // 4, count // 2, 3 * count // 4)
        self.places: tuple[int, ...] = (1, 2, 3) if 4 <= count <= 6 else tuple(sorted(set(quarters)))
        self.halved = not bool(network.pretrained_cfg.get("fixed_input_size"))  # type: ignore[union-attr, operator]
        self.groups = nn.ModuleList()

    def forward(self, image: Tensor) -> Tensor:
        """Return (N,) distances of (N, H, W) films: uint8, or float32 grey levels."""
        measured = [group(features) for group, features in zip(self.groups, self.features(image), strict=True)]
        return torch.stack(measured).amax(0)

    def features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return texture and layout features, (N, t) and (N, l)."""
        grey = image.unsqueeze(1).to(torch.float32)  # (N, 1, H, W)
        if self.halved:
            grey = functional.avg_pool2d(grey, 2)
        grey = (grey - grey.mean((2, 3), keepdim=True)) / self.backbone.std.mean()
        # Not `expand`: see Backbone.forward.
        maps: list[Tensor] = self.backbone.network.forward_intermediates(  # type: ignore[operator]
            torch.cat([grey] * self.backbone.channels, 1),
            indices=list(self.places),
            stop_early=True,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        first, *others = maps
        return self._texture(first), torch.cat([part for one in others or [first] for part in _moments(one)], 1)

    def _texture(self, stage: Tensor) -> Tensor:
        mean, spread = _moments(stage)
        channels = stage.shape[1]
        if channels > MAX_COVARIANCE_CHANNELS:
            return torch.cat([mean, spread], 1)
        flat = stage.flatten(2) - mean.unsqueeze(2)  # (N, C, places)
        products = flat @ flat.transpose(1, 2) / flat.shape[2]  # (N, C, C)
        rows, columns = torch.triu_indices(channels, channels, 1)
        return torch.cat([mean, spread, products[:, rows, columns]], 1)


class _Group(nn.Module):
    """Mahalanobis distances to the classes, on one scale, of which the smallest counts."""

    centre: Tensor
    scale: Tensor

    def __init__(self, centre: Float64, whitening: Sequence[Float64], shifts: Sequence[Float64]) -> None:
        """Take the statistics.

        Args:
            centre: (f,) subtracted from the features.
            whitening: for each class (f, f).
            shifts: for each class (f,), its whitened mean.
        """
        super().__init__()
        self.register_buffer("centre", torch.as_tensor(centre, dtype=torch.float32))
        for number, (matrix, shift) in enumerate(zip(whitening, shifts, strict=True)):
            self.register_buffer(f"whitening_{number}", torch.as_tensor(matrix, dtype=torch.float32))
            self.register_buffer(f"shift_{number}", torch.as_tensor(shift, dtype=torch.float32))
        self.classes = len(whitening)
        self.register_buffer("scale", torch.tensor([[0.0, 1.0]] * self.classes))

    def raw(self, features: Tensor) -> Tensor:
        """Return (N, classes) distances, each on its own scale."""
        moved = features - self.centre
        return torch.stack(
            [
                (moved @ self.get_buffer(f"whitening_{number}") - self.get_buffer(f"shift_{number}"))
                .square()
                .mean(1)
                .sqrt()
                for number in range(self.classes)
            ],
            1,
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return (N,)."""
        return ((self.raw(features) - self.scale[:, 0]) / self.scale[:, 1]).amin(1)


def fit_domain(
    backbone: Backbone,
    train: FittedFilms,
    validation: FittedFilms,
    smooth_px: float,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Domain:
    """Return the distance from the training films.

    Args:
        backbone: with its pretrained weights: a network that was tuned to the classes forgets what else films show.
        train: films that taught, not smoothed.
        validation: films that set the scale.
        smooth_px: of the preprocessing.
        seed: of the mild changes.
        progress: stage `domain`.
    """
    domain = Domain(backbone).eval()
    total = 2 * len(train.labels) + len(validation.labels)
    done = 0

    def features(films: FittedFilms, change: bool) -> tuple[Float64, Float64]:
        nonlocal done
        found: tuple[list[Tensor], list[Tensor]] = ([], [])
        with torch.inference_mode():
            for start in range(0, len(films.labels), BATCH):
                images = np.ascontiguousarray(films.images[start : start + BATCH])
                if change:
                    sources = film_sources(seed, start, range(len(images)))
                    batch = smooth_batch(shift_batch(torch.from_numpy(images), MILD, sources), smooth_px).round()
                else:
                    batch = torch.from_numpy(np.stack([smooth(image, smooth_px) for image in images]))
                for group, values in zip(found, domain.features(batch), strict=True):
                    group.append(values)
                done += len(images)
                if progress is not None:
                    progress("domain", done, total)
        texture, layout = (torch.cat(group).numpy().astype(np.float64) for group in found)
        return texture, layout

    taught = [np.concatenate(pair) for pair in zip(features(train, False), features(train, True), strict=True)]
    # Findings mix freely: there are no groups of films to stand near to, but all of them together.
    own_labels, held_labels = (
        films.labels if films.labels.ndim == 1 else np.zeros(len(films.labels), np.int64)
        for films in (train, validation)
    )
    labels = np.concatenate([own_labels, own_labels])
    held = features(validation, False)
    for values, own, seen in zip(taught, (0.0, OWN_COVARIANCE), held, strict=True):
        group = fit_group(values, labels, own)
        _set_scale(group, seen, held_labels)
        domain.groups.append(group)
    return domain


def fit_group(values: Float64, labels: Int64, own: float) -> _Group:
    """Return the Mahalanobis distances of one group of features.

    Args:
        values: (n, f).
        labels: (n,).
        own: how much of each class's covariance is its own, in [0, 1]; the rest is that of all films.
    """
    n, width = values.shape
    centre, spread = values.mean(0), values.std(0) + 1e-4
    whole = (values - centre) / spread
    # Few films for many features: towards independent features, the fewer the more.
    doubt = min(1.0, 1e-4 + (width / n) ** 2)
    of_all = np.cov(whole.T)
    matrices, shifts = [], []
    for label in range(int(labels.max()) + 1):
        part = whole[labels == label]
        mean = part.mean(0) if len(part) else np.zeros(width)
        covariance = of_all
        if own and len(part) >= LEAST_FILMS:
            covariance = own * np.cov(part.T) + (1 - own) * of_all
        elif not own:
            means = np.stack([whole[labels == each].mean(0) for each in np.unique(labels)])[
                np.searchsorted(np.unique(labels), labels)
            ]
            covariance = np.cov((whole - means).T)
        covariance = (1 - doubt) * covariance + doubt * np.diag(np.diag(covariance)) + 1e-4 * np.eye(width)
        root = np.linalg.cholesky(np.linalg.inv(covariance))
        matrices.append(root / spread[:, None])
        shifts.append(mean @ root)
    return _Group(centre, matrices, shifts)


def _set_scale(group: _Group, values: Float64, labels: Int64) -> None:
    with torch.inference_mode():
        raw = group.raw(torch.as_tensor(values, dtype=torch.float32)).numpy()
    for label in range(group.classes):
        mine = raw[labels == label, label] if (labels == label).any() else raw[:, label]
        typical, far = np.percentile(mine, (TYPICAL, FAR))
        group.scale[label] = torch.tensor([typical, max(far - typical, 1e-6)])


def _moments(stage: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (N, C) of each channel of (N, C, h, w)."""
    mean = stage.mean((2, 3), keepdim=True)
    return mean.flatten(1), (stage - mean).square().mean((2, 3)).clamp(min=1e-12).sqrt()
