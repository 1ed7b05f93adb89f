"""Is this an image the model was made for? A gate adds reasons; it never takes a score away.

The rules on pixels know projections, not anatomy: a film is large soft shapes, brighter in the middle than at its
sides, in many shades. They are set so that they refuse one of 5,683 chest films of two sets. What they let pass (a
portrait in soft light looks much like a film to them) is for the distance from the training films.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from PIL import Image

from rentgen.records import Domain, Float32, Radiograph, Scope, UInt8

# Of grey levels (of 255), or shares. Behind each bound: what it tells, and how far the films went.
MIN_CONTRAST = 10.0  # standard deviation below which there is nothing to see; 20 and more
MIN_CENTRE_CONTRAST = 5.0  # the same in the middle of the image; 7.5 and more
MIN_LEVELS = 40  # grey levels in use below which it is a drawing; 53 and more
MOST = 0.9  # of the pixels count as use: resizing softens the edges of a drawing into every level there is
MAX_FLAT = 0.35  # of what is neither black nor white without grain, above which it is a drawing; 0.26 at most
MAX_ONE_SHADE = 0.5  # in nine neighbouring levels, black apart, above which it is paper; 0.46 at most
MAX_PURE = 0.65  # pure black and white above which exposure or window have failed; 0.59 at most
MIN_NOISE, MIN_SMOOTHNESS = 0.3, 0.85  # correlation of neighbours below which it is noise, a photograph; 0.88 and more
MIN_COARSE, MAX_COARSE = 0.58, 0.995  # below which it is a photograph, above which a gradient; 0.61 to 0.991
MIN_COARSE_UNCENTRED = 0.75  # as `MIN_COARSE`, where no body stands out in the middle
MAX_FINE, MAX_EDGES = 0.11, 0.1  # above which it is a photograph or text; 0.075 at most, but sharpened ones more
MIN_CENTRED = 0.5  # below which no body stands out in the middle; one film in a hundred
INVERTED = -0.6  # below which the sides stand out; one film in all
BLACK, FRAMED, ROUND, SPARSE = 16, 0.75, 0.8, 0.7  # `_is_slice`: level; black of sides, of corners; what is not
MIN_SIDE = 64  # native pixels of the shorter side below which a film shows nothing that a radiologist would read

_SIDE, _EDGE = 96, 3  # the network's input may be of any size; the rules on detail look at one
_FADE: Float32 = np.outer(np.hanning(_SIDE), np.hanning(_SIDE)).astype(np.float32)
_WAVES = np.hypot(np.fft.fftfreq(_SIDE, 1 / _SIDE)[:, None], np.arange(_SIDE // 2))  # across the image; half says all
_NOT = "not a radiograph:"
_CODE = re.compile(r"[A-Z0-9 ]{1,16}")


def contrast(image: UInt8 | Float32) -> float:
    """Return the standard deviation of the grey levels, in [0, 127.5]."""
    return float(image.std())


def smoothness(image: UInt8 | Float32) -> float:
    """Return the correlation of horizontally and vertically neighbouring pixels, in [-1, 1]; 1 for a constant image."""
    values = image.astype(np.float32) - image.mean(dtype=np.float32)
    variance = float((values**2).mean())
    if variance == 0:
        return 1.0
    across = float((values[:, 1:] * values[:, :-1]).mean())
    down = float((values[1:] * values[:-1]).mean())
    return (across + down) / (2 * variance)


def levels(image: UInt8) -> int:
    """Return how many grey levels it takes to make up most of the pixels, in [1, 256]."""
    common = np.sort(np.bincount(image.ravel(), minlength=256))[::-1].cumsum()
    return int(np.searchsorted(common, MOST * image.size)) + 1


@dataclass(frozen=True, slots=True)
class _Look:
    """What the rules on detail ask of an image, measured at one size."""

    smoothness: float  # correlation of neighbours
    coarse: float  # share of the power in at most 4 waves across the image, its border faded out
    fine: float  # share of the power in more than 16
    edges: float  # share of pixels with a gradient above the contrast
    flat: float  # share without a gradient, of the pixels that are neither black nor white
    centred: float  # the middle quarter of the columns less the outer one, in standard deviations


def _look(image: UInt8) -> _Look:
    small, tiny = (
        np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BOX)).astype(np.float32)
        for side in (_SIDE, 16)
    )
    power = np.abs(np.fft.rfft2((small - small.mean()) * _FADE))[:, : _SIDE // 2] ** 2
    power[:, 0] /= 2  # all other columns stand for two
    total = max(float(power.sum()), 1e-6)
    gradient = np.hypot(np.diff(small, axis=1)[:-1], np.diff(small, axis=0)[:, :-1])
    inner = (small[1:, 1:] > BLACK) & (small[1:, 1:] < 255 - BLACK)
    columns = tiny.mean(axis=0)
    return _Look(
        smoothness=smoothness(small),
        coarse=float(power[_WAVES <= 4.5].sum()) / total,
        fine=float(power[_WAVES > 16.5].sum()) / total,
        edges=float((gradient > max(contrast(small), 1e-6)).mean()),
        flat=float(((gradient <= 1) & inner).sum() / max(1, inner.sum())),
        centred=float(columns[6:10].mean() - columns[[0, 1, 14, 15]].mean()) / max(contrast(tiny), 1e-6),
    )


def _without_padding(image: UInt8) -> UInt8:
    """Return the image without the black bars of `ResizeMode.PAD`: two sides have them, never four."""
    rows, columns = (np.flatnonzero(image.any(axis=axis)) for axis in (1, 0))
    if min(len(rows), len(columns)) < 16 or (len(rows) == image.shape[0]) == (len(columns) == image.shape[1]):
        return image
    return np.ascontiguousarray(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _is_slice(image: UInt8) -> bool:
    """Return whether a round thing lies free in the dark: a section, or a fan. A limb reaches the side of a film."""
    dark = image <= BLACK
    sides = (dark[:_EDGE], dark[-_EDGE:], dark[:, :_EDGE], dark[:, -_EDGE:])
    if min(side.mean() for side in sides) <= FRAMED:
        return False
    # A row or column with a few bright pixels may be a letter or a number beside it.
    rows, columns = (np.flatnonzero((~dark).mean(axis=axis) > 0.02) for axis in (1, 0))
    if min(len(rows), len(columns)) < 8:
        return False
    box = dark[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    side = max(_EDGE, min(box.shape) // 8)
    corners = (box[:side, :side], box[:side, -side:], box[-side:, :side], box[-side:, -side:])
    # Where the frame is a collimator's, the corners of what it leaves are film.
    return bool(min(corner.mean() for corner in corners) > ROUND or (~box).mean() < SPARSE)


def check_radiograph(image: UInt8) -> tuple[str, ...]:
    """Return why a prepared image cannot be a radiograph, or not a fair one, in words; nothing for one that may be.

    The first rule that it breaks is the reason: they go from the plainest to the least certain.

    Args:
        image: (height, width), at the size of the network's input but not smoothed.
    """
    image = _without_padding(image)
    height, width = image.shape
    centre = image[height // 4 : -(height // 4), width // 4 : -(width // 4)]
    shades = np.bincount(image.ravel(), minlength=256) / image.size
    one_shade = float(np.convolve(shades, np.ones(9), "same")[BLACK:].max())
    pure = float(shades[:2].sum() + shades[-2:].sum())
    look = _look(image)
    coarse = MIN_COARSE if look.centred >= MIN_CENTRED else MIN_COARSE_UNCENTRED
    detailed = (
        look.fine > MAX_FINE or look.edges > MAX_EDGES or look.smoothness < MIN_SMOOTHNESS or look.coarse < coarse
    )
    few = levels(image) < MIN_LEVELS or look.flat > MAX_FLAT
    rules = (
        (contrast(image) < MIN_CONTRAST, f"{_NOT} the image is nearly one shade of grey"),
        (look.smoothness < MIN_NOISE, f"{_NOT} the image is noise"),
        (_is_slice(image), f"{_NOT} a shape with black on all sides, like a CT, MR or ultrasound image"),
        (few, f"{_NOT} only a few shades of grey, like a drawing or a film burnt out"),
        (one_shade > MAX_ONE_SHADE, f"{_NOT} most of the image is one shade, like paper or a screen"),
        (detailed, f"{_NOT} full of fine detail, like a photograph or text"),
        (look.coarse > MAX_COARSE, f"{_NOT} the image has no detail, like a gradient"),
        (pure > MAX_PURE, f"image quality: {pure:.0%} of the image is pure black or white"),
        (contrast(centre) < MIN_CENTRE_CONTRAST, "image quality: nearly no contrast in the middle of the image"),
        (look.centred < INVERTED, "the image looks inverted: its sides are brighter than its middle; air must be dark"),
    )
    return next(((words,) for broken, words in rules if broken), ())


def check_film(film: Radiograph) -> tuple[str, ...]:
    """Return what is wrong with a film as it was read, which the prepared image no longer shows, in words."""
    reasons = []
    if "in colour" in film.notes:
        reasons.append(f"{_NOT} the image is in colour")
    if min(film.pixels.shape) < MIN_SIDE:
        height, width = film.pixels.shape
        reasons.append(f"image quality: the image is tiny ({height} rows x {width} columns; at least {MIN_SIDE} each)")
    return tuple(reasons)


def check_scope(film: Radiograph, scope: Scope | None) -> tuple[str, ...]:
    """Return why a film is outside the intended use, in words; nothing where its header does not say.

    Letters are compared without case, an underscore is a blank. Synonyms are for the scope to list. No reason tells the
    patient's age, nor what cannot be a code of DICOM: it may be anything, a name too.
    """
    if scope is None:
        return ()
    reasons = []
    for name, value, meant in (
        ("modality", film.modality, scope.modalities),
        ("body part", film.body_part_examined, scope.body_parts),
        ("view", film.view_position, scope.views),
    ):
        code = _code(value or "")
        if code and meant and code not in map(_code, meant):
            shown = code if _CODE.fullmatch(code) else "that is not a code"
            reasons.append(f"outside the intended use: {name} {shown}, meant for {', '.join(meant)}")
    age, youngest, oldest = film.patient_age_years, scope.min_age_years, scope.max_age_years
    if age is not None and youngest is not None and age < youngest:
        reasons.append(f"outside the intended use: the patient is younger than {youngest:g} years")
    if age is not None and oldest is not None and age > oldest:
        reasons.append(f"outside the intended use: the patient is older than {oldest:g} years")
    return tuple(reasons)


def _code(value: str) -> str:
    return " ".join(value.upper().replace("_", " ").split())


def check_distance(distance: float | None, domain: Domain | None) -> tuple[str, ...]:
    """Return why a film is unlike those that taught the model, in words."""
    if distance is None or domain is None or distance <= domain.threshold:
        return ()
    return (f"unlike the films that taught the model (distance {distance:.1f}, at most {domain.threshold:.1f})",)
