"""The tables of a recipe, each setting with its range."""

from __future__ import annotations

from dataclasses import dataclass

from rentgen.errors import SettingError
from rentgen.records import Scope


@dataclass(frozen=True, slots=True)
class DataSettings:
    """How the films are shared out.

    Attributes:
        validation: share of the patients, in [0.01, 0.5].
        test: share of the patients, in [0, 0.5].
        seed: of the split.
    """

    validation: float = 0.15
    test: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        _between("data.validation", self.validation, 0.01, 0.5)
        _between("data.test", self.test, 0.0, 0.5)
        _between("data.seed", self.seed, 0, 2**32 - 1)


MOST_ALSO = 7


@dataclass(frozen=True, slots=True)
class BackboneSettings:
    """Which network gives the features, and how.

    Attributes:
        name: a timm model, or `auto`.
        also: further networks that see the same films; each learns its own head, and their logits are averaged.
        normalise: `fixed` takes the mean grey level of the pretraining films off each film; `film` its own.
        pooling: `mean` over the places of the last map, the class `token` of a transformer, or `auto` as it was taught.
        precision: `auto`, `f32` or `bf16`.
        engine: `auto`, `openvino` or `torch`.
        stored: how weights lie in the bundle: `f32`, or `f16` for half the size.
    """

    name: str = "auto"
    also: tuple[str, ...] = ()
    normalise: str = "fixed"
    pooling: str = "auto"
    precision: str = "auto"
    engine: str = "auto"
    stored: str = "f32"

    def __post_init__(self) -> None:
        if len({self.name, *self.also}) != 1 + len(self.also) or len(self.also) > MOST_ALSO:
            raise SettingError(
                f"Expected backbone.also to name at most {MOST_ALSO} other networks than {self.name}, each once, but "
                f"got {list(self.also)}."
            )
        _one_of("backbone.stored", self.stored, ("f32", "f16"))
        _one_of("backbone.pooling", self.pooling, ("auto", "mean", "token"))
        _one_of("backbone.normalise", self.normalise, ("fixed", "film"))
        _one_of("backbone.precision", self.precision, ("auto", "f32", "bf16"))
        _one_of("backbone.engine", self.engine, ("auto", "openvino", "torch"))


@dataclass(frozen=True, slots=True)
class AugmentSettings:
    """What augmented views may change; each value is the largest change either way.

    Attributes:
        views: augmented copies of each training film, besides the film itself.
        flip: mirror left and right at random. The heart has a side: off for chests.
        rotation_degrees: in [0, 180].
        shift: of the image's side, in [0, 0.5].
        zoom: in [0, 0.5].
        brightness: of the full range, in [0, 0.5].
        contrast: in [0, 0.9].
        gamma: of its logarithm, in [0, 1].
        noise: standard deviation, of the full range, in [0, 0.5].
    """

    views: int = 2
    flip: bool = False
    rotation_degrees: float = 7.0
    shift: float = 0.05
    zoom: float = 0.1
    brightness: float = 0.1
    contrast: float = 0.15
    gamma: float = 0.2
    noise: float = 0.02

    def __post_init__(self) -> None:
        _between("augment.views", self.views, 0, 64)
        _between("augment.rotation_degrees", self.rotation_degrees, 0.0, 180.0)
        for name, high in (("shift", 0.5), ("zoom", 0.5), ("brightness", 0.5), ("contrast", 0.9), ("gamma", 1.0)):
            _between(f"augment.{name}", getattr(self, name), 0.0, high)
        _between("augment.noise", self.noise, 0.0, 0.5)


@dataclass(frozen=True, slots=True)
class FineTuneSettings:
    """How the whole network is trained on, after the head.

    Attributes:
        epochs: 0 leaves the backbone frozen, as the study has it.
        members: networks that are trained from the same start with other seeds and answer together, in [1, 8].
        learning_rate: AdamW's, of the highest stage and the head, at its peak.
        stage_decay: each stage below learns at so much of the rate above it, in (0, 1].
        frozen_stages: lowest stages, the stem counted, that stay as they were pretrained; members share them.
        unfreeze_epochs: over which the other stages join, from the top down; 0 opens all at once.
        warmup: share of the steps in which the rate rises.
        weight_decay: AdamW's, on matrices and kernels only.
        batch_size: films per step.
        clip_norm: of the gradient; 0 for none.
        ema: share of the averaged weights that each step keeps, in [0, 1); 0 for none.
        label_smoothing: in [0, 0.5].
        class_weights: weigh classes inversely to their number.
        batch_norm: `train`, where open stages follow the films, or `frozen`.
        precision: of the arithmetic; `auto` is bf16 where that is faster, otherwise f32.
        patience: epochs without a better choice before stopping.
        stress_weight: share of the stress set's loss in choosing the epoch; the rest is plain validation loss.
        seed: of order, augmentation and dropout.
    """

    epochs: int = 0
    members: int = 1
    learning_rate: float = 3e-4
    stage_decay: float = 0.8
    frozen_stages: int = 0
    unfreeze_epochs: float = 1.0
    warmup: float = 0.1
    weight_decay: float = 0.02
    batch_size: int = 32
    clip_norm: float = 1.0
    ema: float = 0.99
    label_smoothing: float = 0.05
    class_weights: bool = True
    batch_norm: str = "train"
    precision: str = "auto"
    patience: int = 5
    stress_weight: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        _between("finetune.epochs", self.epochs, 0, 10_000)
        _between("finetune.members", self.members, 1, 8)
        _between("finetune.learning_rate", self.learning_rate, 1e-8, 1.0)
        _between("finetune.stage_decay", self.stage_decay, 0.01, 1.0)
        _between("finetune.frozen_stages", self.frozen_stages, 0, 1000)
        _between("finetune.unfreeze_epochs", self.unfreeze_epochs, 0.0, 10_000.0)
        _between("finetune.warmup", self.warmup, 0.0, 0.9)
        _between("finetune.weight_decay", self.weight_decay, 0.0, 1.0)
        _between("finetune.batch_size", self.batch_size, 2, 65536)
        _between("finetune.clip_norm", self.clip_norm, 0.0, 1e6)
        _between("finetune.ema", self.ema, 0.0, 0.99999)
        _between("finetune.label_smoothing", self.label_smoothing, 0.0, 0.5)
        _one_of("finetune.batch_norm", self.batch_norm, ("train", "frozen"))
        _one_of("finetune.precision", self.precision, ("auto", "f32", "bf16"))
        _between("finetune.patience", self.patience, 1, 10_000)
        _between("finetune.stress_weight", self.stress_weight, 0.0, 1.0)
        _between("finetune.seed", self.seed, 0, 2**32 - 1)


@dataclass(frozen=True, slots=True)
class ShiftSettings:
    """What fine-tuning changes in a film, as another room, machine or archive would; each the largest change.

    Attributes:
        flip: mirror left and right at random.
        rotation_degrees: in [0, 180].
        shift: of the image's side, in [0, 0.5].
        zoom: in [0, 0.5].
        aspect: of the logarithm of width over height, in [0, 0.5].
        shear: in [0, 0.5].
        borders: of the side that is cut away at an edge, in [0, 0.4].
        borders_share: how often an edge is, in [0, 1].
        markers: how often a letter is painted in, and as often something at the edge out, in [0, 1].
        window: of the full range cut at either end, in [0, 0.45].
        gamma: of its logarithm, in [0, 1.5].
        contrast: of its logarithm, in [0, 1.5].
        brightness: of the full range, in [0, 0.5].
        blur_px: standard deviation of a blur, or of the sharpening that undoes it, in [0, 8].
        sharpen: how much of what a blur takes away is added, in [0, 4].
        noise: standard deviation, of the full range, in [0, 0.5].
        jpeg: how often a film is packed as JPEG, in [0, 1].
        jpeg_quality: the lowest, in [1, 95].
        mixup: of the Beta distribution; 0 is off.
        cutmix: likewise.
    """

    flip: bool = True
    rotation_degrees: float = 12.0
    shift: float = 0.08
    zoom: float = 0.15
    aspect: float = 0.12
    shear: float = 0.08
    borders: float = 0.12
    borders_share: float = 0.2
    markers: float = 0.25
    window: float = 0.12
    gamma: float = 0.6
    contrast: float = 0.4
    brightness: float = 0.1
    blur_px: float = 1.5
    sharpen: float = 1.0
    noise: float = 0.03
    jpeg: float = 0.3
    jpeg_quality: int = 30
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name, high in (
            ("rotation_degrees", 180.0), ("shift", 0.5), ("zoom", 0.5), ("aspect", 0.5), ("shear", 0.5),
            ("borders", 0.4), ("borders_share", 1.0), ("markers", 1.0), ("window", 0.45), ("gamma", 1.5),
            ("contrast", 1.5), ("brightness", 0.5), ("blur_px", 8.0), ("sharpen", 4.0), ("noise", 0.5), ("jpeg", 1.0),
            ("mixup", 10.0), ("cutmix", 10.0),
        ):  # fmt: skip
            _between(f"shift.{name}", getattr(self, name), 0.0, high)
        _between("shift.jpeg_quality", self.jpeg_quality, 1, 95)


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """The head and its training.

    Attributes:
        hidden: units of the dense layer.
        dropout: share of the hidden units dropped in training, in [0, 0.95].
        learning_rate: Adam's, in (0, 1].
        batch_size: films per step.
        epochs: at most so many.
        patience: epochs without a lower validation loss before stopping.
        class_weights: weigh classes inversely to their number.
        label_smoothing: in [0, 0.5].
        seed: of initial weights, order and dropout.
    """

    hidden: int = 256
    dropout: float = 0.5
    learning_rate: float = 1e-4
    batch_size: int = 32
    epochs: int = 400
    patience: int = 30
    class_weights: bool = False
    label_smoothing: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        _between("head.hidden", self.hidden, 1, 8192)
        _between("head.dropout", self.dropout, 0.0, 0.95)
        _between("head.learning_rate", self.learning_rate, 1e-8, 1.0)
        _between("head.batch_size", self.batch_size, 1, 65536)
        _between("head.epochs", self.epochs, 1, 100_000)
        _between("head.patience", self.patience, 1, 100_000)
        _between("head.label_smoothing", self.label_smoothing, 0.0, 0.5)
        _between("head.seed", self.seed, 0, 2**32 - 1)


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """When the model answers, and what its probabilities mean.

    Attributes:
        calibration: `none`, `temperature`, `vector`, or `auto` for the better on films that did not fit it.
        stressed: share of the stress set's films in the calibration, so that the model is not surer than it may be on
            a worse day; in [0, 1].
        balanced: calibrate for classes that are equally frequent, whatever the training films held.
        coverage: how often the prediction set must hold the true class, in (0.5, 1); 0 never abstains.
        kept: share of the validation films that lie near enough to the training films, in (0.5, 1); 0 does not ask.
    """

    calibration: str = "none"
    stressed: float = 0.0
    balanced: bool = False
    coverage: float = 0.0
    kept: float = 0.0

    def __post_init__(self) -> None:
        _one_of("answer.calibration", self.calibration, ("none", "temperature", "vector", "auto"))
        _between("answer.stressed", self.stressed, 0.0, 1.0)
        for name in ("coverage", "kept"):
            if getattr(self, name) != 0:
                _between(f"answer.{name}", getattr(self, name), 0.5, 0.9999)


@dataclass(frozen=True, slots=True)
class CardSettings:
    """What the card says in words, and which films a header may declare to be outside.

    Attributes:
        intended_use: empty for the general sentence.
        known_failures: one sentence each.
        licences: of the films.
        modalities: DICOM Modality; empty for any.
        body_parts: DICOM BodyPartExamined; empty for any.
        views: DICOM ViewPosition; empty for any.
        min_age_years: of the patient; 0 for no bound.
        max_age_years: of the patient; 0 for no bound.
    """

    intended_use: str = ""
    known_failures: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    min_age_years: float = 0.0
    max_age_years: float = 0.0

    def __post_init__(self) -> None:
        for name in ("min_age_years", "max_age_years"):
            _between(f"card.{name}", getattr(self, name), 0.0, 150.0)

    def scope(self) -> Scope | None:
        """Return the films that the model is meant for; None for any."""
        scope = Scope(
            self.modalities,
            self.body_parts,
            self.views,
            self.min_age_years or None,
            self.max_age_years or None,
        )
        return None if scope == Scope() else scope


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise SettingError(f"Expected {name} to be in [{low}, {high}], but got {value!r}.")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SettingError(f"Expected {name} to be one of {', '.join(allowed)}, but got {value!r}.")
