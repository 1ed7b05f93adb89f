"""Synthetic frontal chest films: anatomy in millimetres, attenuation added up, then a detector.

They stand in for patients in tests, examples and a bundle's golden inputs. Everything that is not a finding (size,
exposure, marker, noise, pose) is drawn before the finding and independently of it, so that a classifier can only learn
the finding.

The frame is the patient's: x runs from the midline to the image's right, which is the patient's left; y runs down
from the apices of the lungs; both in millimetres.
"""

from __future__ import annotations

import io
import itertools
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from rentgen.errors import SettingError
from rentgen.images.phantom_dicom import DxHeader, Photometric, dx_file
from rentgen.images.prepare import to_uint8
from rentgen.records import UInt8

UInt16 = npt.NDArray[np.uint16]
Plane = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]

SIDES = (64, 4096)
"""The smallest and largest side of a film, pixels."""

TISSUE_PER_MM = 0.0195
"""Attenuation of soft tissue, per millimetre, at the energies of a chest film."""


class Finding(StrEnum):
    """What a film shows."""

    NORMAL = "normal"
    """Nothing."""
    CONSOLIDATION = "consolidation"
    """Patchy filling of air spaces in one zone, with air bronchograms and lost borders."""
    EFFUSION = "effusion"
    """Fluid with a meniscus that blunts the costophrenic angle of one side."""
    NODULE = "nodule"
    """A round spot of 6 to 15 mm."""


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic film.

    Attributes:
        pixels: (height, width), the type's full range; air is dark and bone is bright.
        findings: what was drawn.
        mask: (height, width), true where the finding is; all false in a normal film.
        age: of the invented patient, years; it shows in the aorta and the bones.
        spacing_mm: between pixels, in the patient, both ways.
        marker: `L`, `R`, or empty where there is no lead letter.
        marker_at: row and column of the letter's centre, None without one.
    """

    pixels: UInt16 = field(repr=False)
    findings: tuple[Finding, ...]
    mask: Mask = field(repr=False)
    age: int
    spacing_mm: float
    marker: str
    marker_at: tuple[int, int] | None


@dataclass(frozen=True)
class _Anatomy:
    """One patient; lengths in millimetres."""

    seed: int  # of the vessels and other detail that two films of a patient share
    age: int
    scale: float  # of the whole body
    breadth: float  # of the thorax, relative
    fat: float  # between ribs and skin
    depth: float  # front to back, of the trunk
    bone: float  # relative density
    heart: float  # relative size
    heart_angle: float  # of the long axis below the horizontal, radians
    aorta: float  # radius of the knob
    dome: float  # height of the right hemidiaphragm at mean inspiration
    dome_step: float  # by which the left one is lower
    hila: float  # relative prominence
    breast: float  # thickness, 0 without
    bubble: tuple[float, float]  # half axes of the gas in the stomach
    rib_pitch: float
    rib_drop: float  # relative slope of the ribs
    scoliosis: float  # sideways swing of the spine

    @classmethod
    def random(cls, rng: np.random.Generator) -> _Anatomy:
        age = int(rng.integers(18, 91))
        return cls(
            seed=int(rng.integers(2**62)),
            age=age,
            scale=rng.uniform(0.88, 1.08),
            breadth=rng.uniform(0.92, 1.08),
            fat=rng.uniform(14, 36),
            depth=rng.uniform(185, 235),
            bone=rng.uniform(0.85, 1.15) * (1.1 - 0.003 * (age - 18)),
            heart=rng.uniform(0.9, 1.12),
            heart_angle=rng.uniform(0.5, 0.95),
            aorta=rng.uniform(12, 15) + 0.06 * (age - 18),
            dome=rng.uniform(218, 238),
            dome_step=rng.uniform(6, 20),
            hila=rng.uniform(0.7, 1.3),
            breast=float(rng.choice([0.0, rng.uniform(8, 28)])),
            bubble=(rng.uniform(12, 34), rng.uniform(6, 17)),
            rib_pitch=rng.uniform(21.0, 23.5),
            rib_drop=rng.uniform(0.85, 1.25),
            scoliosis=rng.normal(0, 2.5),
        )


@dataclass(frozen=True)
class _Pose:
    """One exposure of a patient."""

    seed: int  # of the quantum noise
    height: int
    width: int
    zoom: float
    shift: tuple[float, float]  # of the film, millimetres
    rotation: float  # in the plane, radians
    keystone: tuple[float, float]  # tilt of the tube, relative change across the film
    turn: float  # of the patient about the long axis: the front moves sideways, millimetres
    inspiration: float  # by which the domes go down, millimetres
    arms: float  # abduction, millimetres at the elbow
    scatter: float  # scattered to primary radiation
    quanta: float  # per pixel, unattenuated
    window: tuple[float, float]  # black and white, relative to the film's own densities
    gamma: float
    sharpen: float
    borders: tuple[float, float, float, float]  # collimated part of each side: top, bottom, left, right
    marker: str
    marker_place: tuple[float, float]  # down from the top and in from the side, relative
    marker_size: float  # relative to the height

    @classmethod
    def random(cls, rng: np.random.Generator, height: int | None, width: int | None) -> _Pose:
        long_side, aspect = int(rng.integers(440, 701)), rng.uniform(0.86, 1.22)
        if height is None and width is None:
            height = long_side if aspect < 1 else round(long_side / aspect)
            width = long_side if aspect >= 1 else round(long_side * aspect)
        elif height is None:
            height = max(SIDES[0], round((width or 0) / aspect))
        elif width is None:
            width = max(SIDES[0], round(height * aspect))
        collimated = rng.random(4) < 0.22
        return cls(
            seed=int(rng.integers(2**62)),
            height=height,
            width=width or 0,
            zoom=rng.uniform(0.96, 1.08),
            shift=(rng.normal(0, 7), rng.normal(0, 7)),
            rotation=float(np.clip(rng.normal(0, 0.028), -0.09, 0.09)),
            keystone=(rng.normal(0, 0.02), rng.normal(0, 0.01)),
            turn=float(np.clip(rng.normal(0, 3.5), -9, 9)),
            inspiration=rng.normal(0, 9),
            arms=rng.uniform(0, 90),
            scatter=rng.uniform(0.25, 0.6),
            quanta=float(np.exp(rng.uniform(np.log(6e3), np.log(6e4)))),
            window=(rng.uniform(-0.1, 0.35), rng.uniform(0.98, 1.25)),
            gamma=rng.uniform(0.9, 1.4),
            sharpen=rng.uniform(0.0, 0.8),
            borders=tuple(np.where(collimated, rng.uniform(0.01, 0.06, 4), 0.0).tolist()),
            marker=str(rng.choice(["", "L", "R", "R"])),
            marker_place=(rng.uniform(0.05, 0.3), rng.uniform(0.05, 0.11)),
            marker_size=rng.uniform(0.03, 0.06),
        )


@dataclass(frozen=True, eq=False)
class _Canvas:
    """The upright patient's frame; the film is cut out of it, turned and tilted."""

    scale: float  # pixels per millimetre
    x: Plane  # (1, width)
    y: Plane  # (height, 1)

    def layer(self) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        """Return an empty drawing of twice the canvas's resolution: the way to smooth edges."""
        image = Image.new("L", (2 * self.x.shape[1], 2 * self.y.shape[0]))
        return image, ImageDraw.Draw(image)

    def place(self, points: Plane) -> list[float]:
        """Return positions in a `layer` of (n, 2) x and y, in a row."""
        moved = (points - [float(self.x[0, 0]), float(self.y[0, 0])]) * (2 * self.scale)
        return list(moved.ravel().tolist())


def draw(
    findings: Finding | Sequence[Finding],
    rng: np.random.Generator,
    *,
    height: int | None = None,
    width: int | None = None,
) -> Phantom:
    """Return a film with the findings asked for.

    The same state of `rng` gives the same patient, pose and noise whatever the findings are.

    Args:
        findings: one or several; `NORMAL` only on its own.
        rng: is advanced by the same amount each time.
        height: pixels, 64 to 4096; drawn where None.
        width: likewise.

    Raises:
        SettingError: for a side out of range, no finding, or `normal` beside another finding.

    Example:
        >>> draw(Finding.NODULE, np.random.default_rng(1), height=256, width=320).pixels.shape
        (256, 320)
    """
    wanted = (findings,) if isinstance(findings, Finding) else tuple(findings)
    if not wanted or (Finding.NORMAL in wanted and len(set(wanted)) > 1):
        raise SettingError(f"Expected one finding or several without `normal`, but got {[str(f) for f in wanted]}.")
    for name, side in (("height", height), ("width", width)):
        if side is not None and not SIDES[0] <= side <= SIDES[1]:
            raise SettingError(f"Expected `{name}` to be {SIDES[0]} to {SIDES[1]} pixels, but got {side}.")
    patient, pose, finding = rng.integers(2**62, size=3).tolist()
    return _film(
        wanted,
        _Anatomy.random(np.random.default_rng(patient)),
        _Pose.random(np.random.default_rng(pose), height, width),
        np.random.default_rng(finding),
    )


def _film(wanted: tuple[Finding, ...], body: _Anatomy, pose: _Pose, rng: np.random.Generator) -> Phantom:
    canvas = _canvas(body, pose)
    open_part = 1 - _mediastinum(canvas, body, pose)
    air = _lungs(canvas, body, pose) * open_part
    wet = np.minimum(_vessels(canvas, body), 0.9 * air)
    filled, extra = np.zeros_like(air), np.zeros_like(air)
    for kind in dict.fromkeys(wanted):
        if kind is Finding.CONSOLIDATION:
            filled = np.maximum(filled, _consolidation(canvas, rng))
        elif kind is Finding.EFFUSION:
            filled = np.maximum(filled, _effusion(canvas, body, pose, rng))
        elif kind is Finding.NODULE:
            extra = np.maximum(extra, _nodule(canvas, air, rng))
    solid = _trunk(canvas, body, pose) - _hollows(canvas, body, pose)
    bones = _ribs(canvas, body) + _girdle(canvas, body, pose) + _spine(canvas, body)
    clean = TISSUE_PER_MM * np.maximum(solid - (air - wet), 0) + bones
    # Vessels vanish where the air around them does; so nothing is added but water in the place of air.
    attenuation = clean + TISSUE_PER_MM * ((air - wet) * filled + extra)
    mask = ((filled > 0.3) & (air > 12)) | (extra > 1.5)

    projection = _projection(canvas, pose)
    seen = np.array(_project(mask.astype(np.uint8), projection, pose, Image.Resampling.NEAREST), np.bool_)
    for edge in _collimated(pose):
        seen[edge] = False
    density = _detect(_project(attenuation.astype(np.float32), projection, pose, Image.Resampling.BILINEAR), pose)
    pixels, marker_at = _develop(density, _grey_range(clean, pose), pose)
    return Phantom(pixels, wanted, seen, body.age, body.scale / canvas.scale, pose.marker, marker_at)


def _canvas(body: _Anatomy, pose: _Pose) -> _Canvas:
    scale = 1.02 * min(pose.width / 332, pose.height / 325) * pose.zoom * body.scale
    # Beyond the film, what turning, shifting and tilting bring into view.
    sine = abs(math.sin(pose.rotation))
    half_width = (0.53 * pose.width + 0.5 * sine * pose.height) / scale + abs(pose.shift[0]) + 6
    half_height = (0.53 * pose.height + 0.5 * sine * pose.width) / scale + abs(pose.shift[1]) + 6
    columns = np.arange(round(2 * half_width * scale)) / scale - half_width
    rows = np.arange(round(2 * half_height * scale)) / scale - half_height + 124
    return _Canvas(scale, columns.astype(np.float32)[None, :], rows.astype(np.float32)[:, None])


def _projection(canvas: _Canvas, pose: _Pose) -> tuple[float, ...]:
    """Return Pillow's eight numbers that lead from a pixel of the film to one of the canvas."""
    cosine, sine = math.cos(pose.rotation), math.sin(pose.rotation)
    shift_x, shift_y = (canvas.scale * shift for shift in pose.shift)
    to_middle = np.array([[1, 0, -pose.width / 2], [0, 1, -pose.height / 2], [0, 0, 1]])
    turn = np.array([[cosine, -sine, shift_x], [sine, cosine, shift_y], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, 1, 0], [pose.keystone[1] / pose.width, pose.keystone[0] / pose.height, 1]])
    to_canvas = np.array([[1, 0, canvas.x.size / 2], [0, 1, canvas.y.size / 2], [0, 0, 1]])
    matrix = to_canvas @ turn @ tilt @ to_middle
    return tuple((matrix / matrix[2, 2]).ravel()[:8].tolist())


def _project(
    plane: npt.NDArray[Any], projection: tuple[float, ...], pose: _Pose, resampling: Image.Resampling
) -> npt.NDArray[Any]:
    film = Image.fromarray(plane).transform(
        (pose.width, pose.height), Image.Transform.PERSPECTIVE, projection, resampling
    )
    pixels: npt.NDArray[Any] = np.asarray(film)
    return pixels


def _step(value: Plane) -> Plane:
    """Return 0 below 0, 1 above 1 and a smooth rise between."""
    bounded = np.clip(value, np.float32(0), np.float32(1))
    step: Plane = bounded * bounded
    bounded *= -2
    bounded += 3
    step *= bounded
    return step


def _along(at: Plane, points: Sequence[tuple[float, float]]) -> Plane:
    """Return a smooth curve through (position, value) at positions of any shape."""
    positions, values = np.array(points).T
    fine = np.linspace(positions[0], positions[-1], 240)
    # Smoothed straight pieces: a spline would overshoot at the apices.
    rough = np.pad(np.interp(fine, positions, values), 12, mode="edge")
    smooth = np.convolve(rough, np.hanning(27)[1:-1] / np.hanning(27).sum(), mode="valid")
    return np.interp(at, fine, smooth).astype(np.float32)


_WALL = ((0, 52), (4, 64), (12, 76), (28, 90), (60, 107), (100, 120), (150, 129), (200, 135), (330, 140))
"""Half width of the thorax's inside, by height: the pleura's lateral border."""


def _wall(body: _Anatomy, y: Plane) -> Plane:
    """Return the half width of the thorax's inside, millimetres."""
    return body.breadth * _along(y, _WALL)


def _domes(canvas: _Canvas, body: _Anatomy, pose: _Pose) -> Plane:
    """Return the height of the hemidiaphragms over all columns, (1, width)."""
    top = body.dome + pose.inspiration + np.where(canvas.x > 0, np.float32(body.dome_step), np.float32(0))
    out = np.abs(canvas.x) / body.breadth
    lateral = np.maximum(out - 64, 0) / 74
    medial = np.maximum(64 - out, 0) / 64
    return top + 48 * lateral**2.2 + 15 * medial**2


def _lungs(canvas: _Canvas, body: _Anatomy, pose: _Pose) -> Plane:
    """Return the thickness of air in the lungs, as if there were no heart, millimetres."""
    out, y = np.abs(canvas.x), canvas.y
    wall = _wall(body, y)
    medial = _along(y, ((0, 46), (5, 34), (16, 24), (60, 19), (110, 20), (160, 24), (330, 20)))
    depth = _along(y, ((0, 20), (12, 55), (45, 95), (110, 140), (200, 154), (330, 140))) * (0.74 * body.depth / 210)
    # Whole powers and roots: a general power takes ten times as long.
    share = out / wall
    lateral = np.sqrt(np.maximum(1 - share * share * np.sqrt(np.sqrt(share)), 0))
    below = y - _domes(canvas, body, pose)
    # Behind the dome the lung reaches lower, ever thinner.
    floor = 1 - 0.84 * _step(below / 5 + 0.5) - 0.16 * _step(below / 50)
    return depth * lateral * _step((out - medial) / 9) * floor * (y > -1)


def _mediastinum(canvas: _Canvas, body: _Anatomy, pose: _Pose) -> Plane:
    """Return which part of the lung's depth heart and great vessels take, in [0, 1]."""
    x, y = canvas.x - pose.turn * 0.6, canvas.y
    # The heart lies on the diaphragm; a deep breath makes it slender.
    down = (y - (body.dome + 0.8 * pose.inspiration - 50)) / body.heart
    right = (x - 19) / (body.heart * (1 - 0.004 * pose.inspiration))
    cosine, sine = math.cos(body.heart_angle), math.sin(body.heart_angle)
    along, across = right * cosine + down * sine, down * cosine - right * sine
    # Broad at the base, pointed at the apex; what lies on the diaphragm is flat, hence no lower border.
    across = np.where(across > 0, 0.62 * across, across / (1 - 0.0035 * along))
    whole = 0.78 * _chord((along / 72) ** 2 + (across / 45) ** 2)
    parts = (
        (
            0.74,
            ((x + 13) / (32 * body.heart)) ** 2
            + ((down + 1) / np.where(down > 0, np.float32(70), np.float32(47))) ** 2,
        ),
        (0.6, ((x - 22) / (body.aorta * 1.05)) ** 2 + ((y - 67) / (body.aorta * 1.3)) ** 2),
        (0.55, ((x - 22) / 23) ** 2 + ((y - 104) / 34) ** 2),
    )
    for thickness, far in parts:
        whole = np.maximum(whole, thickness * _chord(far.astype(np.float32)))
    cava = 0.5 * _chord(((x + 15) / 17) ** 2) * _step((y - 5) / 30) * _step((190 - y) / 40)
    # The roots of the lungs: vessels, bronchi and nodes seen end on.
    root = 1 - ((np.abs(x) - 33) / 19) ** 2 - ((y - np.where(x > 0, np.float32(98), np.float32(112))) / 27) ** 2
    taken: Plane = np.clip(np.maximum(whole, cava) + 0.22 * body.hila * _step(root), 0, 0.95)
    return taken


def _chord(far: Plane) -> Plane:
    """Return the relative thickness of a ball at a squared relative distance from its middle."""
    thickness: Plane = np.sqrt(np.maximum(1 - far, 0), dtype=np.float32)
    return thickness


def _trunk(canvas: _Canvas, body: _Anatomy, pose: _Pose) -> Plane:
    """Return the thickness of the whole body as if it were solid, millimetres."""
    out, y = np.abs(canvas.x), canvas.y
    skin = _wall(body, y) + body.fat
    shoulders = ((-160, 64), (-70, 62), (-46, 76), (-32, 106), (-14, 156), (6, 190), (40, 204), (75, 188), (135, 130))
    edge = np.maximum(np.where(y < -5, 0, skin), body.breadth * _along(y, shoulders))
    depth = _along(y, ((-160, 100), (-50, 108), (0, 142), (60, 186), (120, 208), (330, 224))) * (body.depth / 210)
    share = out / edge
    trunk = depth * np.sqrt(np.maximum(1 - share * share * share, 0))
    # Arms hang from the shoulders, more or less away from the side.
    middle = 158 * body.breadth + body.fat * 0.5 + np.clip((y - 20) / 230, 0, 1.3) * pose.arms
    arm = 84 * _chord(((out - middle) / 46) ** 2) * _step((y + 20) / 90)
    solid: Plane = np.maximum(trunk, arm)
    if body.breast:
        far = ((out - 72) / 62) ** 2 + ((y - 178) / 58) ** 2
        solid += body.breast * _chord(far) * _step((y - 110) / 80)
    return solid


def _hollows(canvas: _Canvas, body: _Anatomy, pose: _Pose) -> Plane:
    """Return the air outside the lungs: windpipe, main bronchi, stomach; millimetres."""
    image, pen = canvas.layer()
    lean = 2.0 + 0.3 * pose.turn
    tubes = (
        ([(0, -150), (0, -10), (lean, 40), (lean, 84)], 17),
        ([(lean - 2, 80), (-16, 100), (-34, 118)], 13),
        ([(lean + 2, 80), (22, 99), (44, 110)], 11),
    )
    for fraction, level in ((1.0, 110), (0.8, 180), (0.5, 230)):
        for points, wide in tubes:
            pen.line(canvas.place(np.array(points, float)), level, round(2 * wide * fraction * canvas.scale), "curve")
    air = _read(image, canvas, 1.5) * (22 / 255)
    half_x, half_y = body.bubble
    centre_y = body.dome + body.dome_step + pose.inspiration + 11 + half_y
    gas = 1 - ((canvas.x - 74) / half_x) ** 2 - ((canvas.y - centre_y) / half_y) ** 2
    # Upright, so gas stands over fluid.
    surface = _step((centre_y + 0.45 * half_y - canvas.y) / 3)
    return air + 2.6 * half_y * _chord(1 - gas) * surface


def _read(layer: Image.Image, canvas: _Canvas, soft_mm: float) -> Plane:
    """Return a drawn layer at the canvas's resolution, blurred over `soft_mm`, in [0, 255]."""
    blurred = layer.reduce(2).filter(ImageFilter.BoxBlur(0.5 * canvas.scale * soft_mm))
    return np.asarray(blurred, np.float32)


def _band(points: Plane, half_width: Plane | float) -> Plane:
    """Return the outline of a band around each of several curves, (curves, 2 n, 2)."""
    tangent = np.gradient(points, axis=1)
    normal = np.stack([-tangent[..., 1], tangent[..., 0]], axis=-1) / np.linalg.norm(tangent, axis=-1)[..., None]
    offset = normal * np.broadcast_to(half_width, points.shape[:2])[..., None]
    return np.concatenate([points + offset, (points - offset)[:, ::-1]], axis=1)


def _tubes(
    canvas: _Canvas, pen: ImageDraw.ImageDraw, points: Plane, half_width: Plane | float, cortex: float = 0.8
) -> None:
    """Draw hollow bones and their mirror images: the cortex is seen edge on along both borders.

    Args:
        canvas: where `pen` draws.
        pen: of a layer.
        points: (bones, n, 2) of the image's right half.
        half_width: broadcasts against (bones, n), millimetres.
        cortex: what of the width lies inside the cortex.
    """
    for share, level in ((1.0, 255), (cortex, 200), (0.5 * cortex, 180)):
        for outline in _band(points, share * half_width):
            pen.polygon(canvas.place(outline), level)
            pen.polygon(canvas.place(outline * [-1, 1]), level)


def _ribs(canvas: _Canvas, body: _Anatomy) -> Plane:
    """Return the attenuation of eleven pairs of ribs, behind and in front."""
    rng = np.random.default_rng(body.seed)
    k = np.arange(11.0)[:, None]
    turn = np.linspace(0, np.pi / 2, 22)
    root = -8 + body.rib_pitch * k + rng.normal(0, 0.8, k.shape)
    fall = body.rib_drop * np.interp(k, (0, 1, 3, 6, 10), (30, 40, 54, 68, 78))
    straight = np.interp(k, (0, 3), (0.75, 0.25))
    far = _wall(body, (root + fall).astype(np.float32)) + 2.0
    x = 15 + (far - 15) * np.sin(turn) ** 0.92
    y = (
        root
        - 7 * np.sin(2 * turn) * np.minimum(k, 3) / 3
        + fall * (straight * np.sin(turn) + (1 - straight) * (1 - np.cos(turn)))
    )
    back, pen = canvas.layer()
    wide = np.interp(k, (0, 2, 7, 10), (4.6, 4.2, 5.0, 4.0)) * rng.uniform(0.94, 1.06, k.shape)
    _tubes(canvas, pen, np.stack([x, y], axis=-1), wide)

    t = np.linspace(0, 1, 18)
    near = 46 + 3.5 * np.maximum(k - 4, 0)
    x = far - (far - near) * (0.3 * t + 0.7 * t**1.7)
    y = y[:, -1:] + body.rib_drop * np.interp(k, (0, 2, 8), (12, 36, 66)) * (1.15 * t - 0.25 * t**2)
    front, pen = canvas.layer()
    _tubes(canvas, pen, np.stack([x, y], axis=-1)[:9], wide[:9] * np.linspace(1.0, 1.35, 18), 0.84)

    out = np.abs(canvas.x) / _wall(body, canvas.y)
    # Turning into the line of sight at the side, a rib is longer to cross; in front it ends as cartilage.
    fourth = np.square(np.square(np.minimum(out, 1)))
    edge_on = body.bone / 255 * (1 + fourth * fourth)
    ossified = 0.2 * _step((np.abs(canvas.x) - 50) / 26)
    return edge_on * (0.33 * _read(back, canvas, 0.7) + ossified * _read(front, canvas, 0.7))


def _girdle(canvas: _Canvas, body: _Anatomy, pose: _Pose) -> Plane:
    """Return the attenuation of clavicles, scapulae and upper arms."""
    wide = body.breadth
    t = np.linspace(0, 1, 24)
    clavicles, pen = canvas.layer()
    # An S: forward over the first rib, back towards the shoulder.
    x, y = 14 + 146 * wide * t, 30 - 44 * t + 8 * np.sin(2 * np.pi * t) + 5 * t**4
    _tubes(canvas, pen, np.stack([x, y], 1)[None], 5.0 + 3.2 * (1 - t) ** 5 + 1.5 * t**6, 0.74)

    blades, pen = canvas.layer()
    blade = np.array([(138, 14), (118, 30), (112, 66), (122, 132), (130, 138), (146, 88), (158, 50), (160, 20)])
    border = np.array([(122, 128), (127, 135), (137, 110), (147, 84), (158, 48)])
    ridge = np.array([(118, 32), (140, 16), (158, 0), (176, -6)])
    elbow, socket = 164 * wide + pose.arms, 178 * wide
    shaft = np.array([(socket + 4, 14), (socket + 2, 50), (0.6 * socket + 0.4 * elbow + 3, 120), (elbow + 4, 290)])
    head = np.array([socket - 2, 22.0]) + 22 * np.stack([np.cos(2 * np.pi * t), np.sin(2 * np.pi * t)], 1)
    for side in (-1, 1):
        pen.polygon(canvas.place(blade * [side * wide, 1]), 75)
    _tubes(canvas, pen, (border * [wide, 1])[None], np.array([2.2, 2.6, 2.2, 3.0, 6.0]), 0.6)
    _tubes(canvas, pen, (ridge * [wide, 1])[None], np.array([2.5, 4.0, 6.5, 9.0]), 0.86)
    _tubes(canvas, pen, shaft[None], np.array([20.0, 15.0, 11.0, 11.0]), 0.66)
    for side in (-1, 1):
        pen.polygon(canvas.place(head * [side, 1]), 190)
    # What lies in front moves sideways as the patient turns.
    front = np.roll(_read(clavicles, canvas, 0.7), round(pose.turn * canvas.scale), axis=1)
    return (0.5 * body.bone / 255) * (front + _read(blades, canvas, 0.9))


def _spine(canvas: _Canvas, body: _Anatomy) -> Plane:
    """Return the attenuation of vertebrae from the neck to the loins."""
    image, pen = canvas.layer()
    tops = [-124.0]
    while tops[-1] < 340:
        tops.append(tops[-1] + float(np.interp(tops[-1], (-104, 0, 230, 330), (16, 21, 25, 31))))
    circle = np.linspace(0, 2 * np.pi, 14)
    waist = np.array(
        [(-1, 0.05), (1, 0.05), (0.84, 0.3), (0.84, 0.6), (1, 0.86), (-1, 0.86), (-0.84, 0.6), (-0.84, 0.3)]
    )
    inner = np.array([(-0.86, 0.15), (0.86, 0.15), (0.74, 0.45), (0.86, 0.77), (-0.86, 0.77), (-0.74, 0.45)])
    for top, below in itertools.pairwise(tops):
        half = float(np.interp(top, (-104, -20, 230, 330), (12, 14, 18, 22)))
        scale, move = np.array([half, below - top]), np.array([body.scoliosis * math.sin(top / 75), top])
        # Transverse processes, body, pedicles, spinous process.
        pen.polygon(canvas.place(np.array([(-1.75, 0.3), (1.75, 0.3), (1.6, 0.5), (-1.6, 0.5)]) * scale + move), 90)
        pen.polygon(canvas.place(waist * scale + move), 195)
        pen.polygon(canvas.place(inner * scale + move), 165)
        for x, y, across, down, level in (
            (-0.62, 0.4, 0.2, 0.2, 215),
            (0.62, 0.4, 0.2, 0.2, 215),
            (0, 0.7, 0.13, 0.3, 235),
        ):
            shape = np.stack([x + across * np.cos(circle), y + down * np.sin(circle)], 1)
            pen.polygon(canvas.place(shape * scale + move), level)
    return (0.6 * body.bone / 255) * _read(image, canvas, 0.8)


def _vessels(canvas: _Canvas, body: _Anatomy) -> Plane:
    """Return the thickness of blood vessels and septa in the lungs, millimetres."""
    rng = np.random.default_rng([body.seed, 1])
    image, pen = canvas.layer()
    side = np.repeat([-1, 1], 9)
    angle = np.tile(np.linspace(-1.3, 1.4, 9), 2) + rng.normal(0, 0.12, 18)
    at = np.stack([side * (27 + 5 * np.cos(angle)), np.where(side > 0, 98, 110) + 16 * np.sin(angle)], 1)
    wide = body.hila * rng.uniform(5.0, 8.0, 18) * np.where(angle > 0.2, 1.15, 0.8)
    lines: list[tuple[list[float], float]] = []
    for _ in range(17):
        angle = angle + rng.normal(0, 0.18, len(angle))
        step = rng.uniform(6, 11, len(angle))
        after = at + np.stack([side * np.cos(angle), np.sin(angle)], 1) * step[:, None]
        ends = canvas.place(np.concatenate([at, after], axis=1).reshape(-1, 2))
        lines += [(ends[4 * i : 4 * i + 4], thickness) for i, thickness in enumerate(wide.tolist())]
        forks = rng.random(len(angle)) < 0.4
        bend = np.where(forks, rng.uniform(0.3, 0.8, len(angle)) * rng.choice([-1, 1], len(angle)), 0.0)
        at = np.concatenate([after, after[forks]])
        wide = np.concatenate([wide * np.where(forks, 0.8, 0.91), 0.7 * wide[forks]])
        angle = np.concatenate([angle - 0.4 * bend, (angle + bend)[forks]])
        side = np.concatenate([side, side[forks]])
        alive = (wide > 1.0) & (np.abs(at[:, 0]) < 140)
        at, angle, wide, side = at[alive], angle[alive], wide[alive], side[alive]
    # The thin ones first, so that they do not cut the thick ones.
    for line, thickness in sorted(lines, key=lambda drawn: drawn[1]):
        pen.line(line, min(255, round(24 * thickness)), max(1, round(1.7 * canvas.scale * thickness)))
    septa = _grain(canvas, rng, ((4, 4.0), (12, 5.0)))
    return (3.0 / 24) * _read(image, canvas, 0.8) + septa


def _grain(canvas: _Canvas, rng: np.random.Generator, octaves: Sequence[tuple[float, float]]) -> Plane:
    """Return smooth noise, not negative, summed over octaves of (size in millimetres, weight)."""
    finest = min(size for size, _ in octaves)
    height, width = (max(4, round(side / canvas.scale / finest)) for side in (canvas.y.size, canvas.x.size))
    total = np.zeros((height, width), np.float32)
    for size, weight in octaves:
        shape = (max(3, round(height * finest / size)), max(3, round(width * finest / size)))
        noise = np.maximum(0.7 * rng.standard_normal(shape, np.float32) + 0.5, 0)
        total += np.float32(weight) * _resized(noise, height, width)
    return _resized(total, canvas.y.size, canvas.x.size)


def _resized(plane: Plane, height: int, width: int) -> Plane:
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC), np.float32)


def _consolidation(canvas: _Canvas, rng: np.random.Generator) -> Plane:
    """Return which part of the air is replaced, in [0, 1]."""
    side = int(rng.choice([-1, 1]))
    centre_y = float(rng.choice([58, 125, 190], p=[0.25, 0.3, 0.45])) + rng.normal(0, 10)
    centre_x = side * rng.uniform(42, 92)
    half_x, half_y = rng.uniform(40, 66), rng.uniform(42, 70)
    far = ((canvas.x - centre_x) / half_x) ** 2 + ((canvas.y - centre_y) / half_y) ** 2
    clouds = _grain(canvas, rng, ((22, 1.0), (9, 0.6), (4, 0.25)))
    fluffy = _step((1.3 - far + 0.8 * (clouds - 1.0)) / 1.5)
    image, pen = canvas.layer()
    for _ in range(int(rng.integers(4, 8))):
        # Bronchi run outwards from the hilum through the airless lung.
        t = np.linspace(-1, 0.7, 8)
        line = np.stack([side * t * half_x, rng.uniform(-0.5, 0.5) * (t + 1) * half_y], 1)
        line += np.array([centre_x, centre_y + rng.uniform(-0.6, 0.6) * half_y]) + rng.normal(0, 1.0, line.shape)
        pen.line(canvas.place(line), 255, max(1, round(2 * canvas.scale * rng.uniform(1.2, 2.4))), "curve")
    tubes = _read(image, canvas, 0.9) / 255
    inside = _step((side * canvas.x - 4) / 8)
    return rng.uniform(0.75, 0.98) * fluffy * (1 - 0.55 * tubes) * inside


def _effusion(canvas: _Canvas, body: _Anatomy, pose: _Pose, rng: np.random.Generator) -> Plane:
    """Return which part of the air is replaced, in [0, 1]."""
    side = int(rng.choice([-1, 1]))
    volume = 0.38 + 0.72 * rng.uniform(0.0, 1.0)
    top = body.dome + pose.inspiration + (body.dome_step if side > 0 else 0)
    out = np.clip(side * canvas.x / _wall(body, canvas.y), 0, 1)
    # The meniscus climbs along the chest wall, and a little at the mediastinum.
    level = top + 24 - 115 * volume - (16 + 30 * volume) * out**4 - 8 * volume * (1 - out) ** 4
    wet = _step((canvas.y - level) / (9 + 14 * volume) + 0.25)
    return (0.96 * wet * (side * canvas.x > 0)).astype(np.float32)


def _nodule(canvas: _Canvas, air: Plane, rng: np.random.Generator) -> Plane:
    """Return the soft tissue of a round spot, millimetres."""
    # Where there is lung all around: not behind the heart nor at the wall, which nobody could call.
    rows, columns = np.nonzero(air > 0.62 * air.max())
    pick = int(rng.integers(len(rows)))
    x, y = canvas.x[0, columns[pick]], canvas.y[rows[pick], 0]
    radius = rng.uniform(3.2, 7.5)
    far = ((canvas.x - x) ** 2 + (canvas.y - y) ** 2) / radius**2
    return rng.uniform(2.5, 3.4) * radius * _chord(far)


def _blur(plane: Plane, length: float) -> Plane:
    """Return `plane` blurred over about `length` pixels, by way of a small copy."""
    height, width = plane.shape
    small = (max(2, round(width / length)), max(2, round(height / length)))
    image = Image.fromarray(plane).resize(small, Image.Resampling.BOX)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.float32)


def _radiate(attenuation: Plane, pose: _Pose, length: float) -> Plane:
    """Return primary and scattered radiation behind the patient; scatter spreads over `length` pixels."""
    radiation: Plane = np.exp(-attenuation)
    radiation += 0.5 * pose.scatter * _blur(radiation, length)
    return radiation


def _detect(attenuation: Plane, pose: _Pose) -> Plane:
    """Return the film's densities: radiation with its quantum noise, on a logarithmic scale."""
    light = _radiate(attenuation, pose, pose.height / 30)
    noise = np.random.default_rng(pose.seed).standard_normal(light.shape, np.float32)
    light += np.sqrt(light / pose.quanta) * noise
    density: Plane = -np.log(np.maximum(light, 1e-4))
    return density


def _grey_range(clean: Plane, pose: _Pose) -> tuple[float, float]:
    """Return the densities of black and white, from the anatomy without its finding, which they must not tell."""
    small = np.ascontiguousarray(clean[::4, ::4], np.float32)
    densities = -np.log(_radiate(small, pose, max(1.0, len(small) / 36)))
    patient = densities[small > 1.0]
    dark, bright = np.percentile(patient, (4, 96)).tolist() if patient.size > 20 else (1.0, 4.0)
    return dark - (bright - dark) * pose.window[0], dark + (bright - dark) * pose.window[1]


def _develop(density: Plane, grey_range: tuple[float, float], pose: _Pose) -> tuple[UInt16, tuple[int, int] | None]:
    """Return the film, and the place of its marker."""
    black, white = grey_range
    density = density + pose.sharpen * (density - _blur(density, pose.height / 90))
    value = np.clip((density - black) / (white - black), 0, 1) ** pose.gamma
    # The bright end bends over instead of being cut off.
    value = 0.45 * np.sin(value * (math.pi / 2)) + 0.53 * value
    marker_at = _mark(value, pose)
    for edge in _collimated(pose):
        value[edge] = 0.01
    return np.round(value * 65535).astype(np.uint16), marker_at


def _collimated(pose: _Pose) -> tuple[tuple[slice, slice], ...]:
    """Return the strips that the collimator kept dark."""
    top, bottom, left, right = pose.borders
    height, width = pose.height, pose.width
    whole = slice(None)
    return (
        (slice(0, round(top * height)), whole),
        (slice(height - round(bottom * height), height), whole),
        (whole, slice(0, round(left * width))),
        (whole, slice(width - round(right * width), width)),
    )


_LETTERS = {
    "L": (((0, 0), (0, 1), (0.6, 1)),),
    "R": (
        ((0, 1), (0, 0), (0.4, 0), (0.58, 0.12), (0.58, 0.4), (0.4, 0.52), (0, 0.52)),
        ((0.32, 0.52), (0.62, 1)),
    ),
}
"""Strokes of the lead letters, x and y in units of their height."""


def _mark(value: Plane, pose: _Pose) -> tuple[int, int] | None:
    """Lay the lead letter on the film, in place, and return its centre."""
    if not pose.marker:
        return None
    height, width = value.shape
    size = max(8.0, pose.marker_size * height)
    down = pose.marker_place[0] + pose.borders[0]
    across = pose.marker_place[1] + pose.borders[2 if pose.marker == "R" else 3]
    top = down * height
    # The patient's right is on the image's left.
    left = across * width if pose.marker == "R" else (1 - across) * width - 0.6 * size
    image = Image.new("L", (2 * width, 2 * height))
    pen = ImageDraw.Draw(image)
    for stroke in _LETTERS[pose.marker]:
        pen.line([(2 * (left + size * x), 2 * (top + size * y)) for x, y in stroke], 255, max(2, round(0.28 * size)))
    lead = np.asarray(image.reduce(2), np.float32) / 255
    value += lead * (0.97 - value)
    return int(top + size / 2), int(left + 0.3 * size)


def to_png(phantom: Phantom, *, bits: int = 8) -> bytes:
    """Return the film as a PNG file.

    Args:
        phantom: the film.
        bits: 8 or 16 per pixel.

    Raises:
        SettingError: for another number of bits.
    """
    if bits not in (8, 16):
        raise SettingError(f"Expected `bits` to be 8 or 16, but got {bits}.")
    stream = io.BytesIO()
    Image.fromarray(to_uint8(phantom.pixels) if bits == 8 else phantom.pixels).save(stream, "PNG", compress_level=4)
    return stream.getvalue()


def to_dicom(
    phantom: Phantom,
    *,
    patient_id: str,
    study_instance_uid: str | None = None,
    series_instance_uid: str | None = None,
    sop_instance_uid: str | None = None,
    photometric_interpretation: Photometric = Photometric.MONOCHROME2,
    bits_stored: int = 12,
) -> bytes:
    """Return the film as a Digital X-Ray Image Storage - For Presentation file, the same bytes each time.

    Args:
        phantom: the film.
        patient_id: 1 to 64 characters.
        study_instance_uid: made from the pixels and the patient where None, under 2.25.
        series_instance_uid: likewise.
        sop_instance_uid: likewise.
        photometric_interpretation: how values become grey.
        bits_stored: 12 or 14.

    Raises:
        SettingError: for a value out of range.
    """
    header = DxHeader(
        patient_id,
        phantom.age,
        phantom.spacing_mm,
        study_instance_uid,
        series_instance_uid,
        sop_instance_uid,
        photometric_interpretation,
        bits_stored,
    )
    return dx_file(phantom.pixels, header)


def write_set(
    directory: Path,
    *,
    films: int,
    rng: np.random.Generator,
    findings: Sequence[Finding] = (Finding.NORMAL, Finding.CONSOLIDATION, Finding.EFFUSION),
    films_per_patient: int = 2,
    dicom: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a set of films, a folder for each finding: `<finding>/person<N>_<finding>_<k>.png`.

    Films of one patient share the anatomy and differ in pose, exposure and, within its kind, the finding. No patient
    stands in two folders.

    Args:
        directory: is made where it does not exist.
        films: in each folder.
        rng: decides everything.
        findings: one folder each.
        films_per_patient: at most; the last patient may have fewer.
        dicom: DICOM files in place of PNG.
        progress: is called with the number of films written and of all.

    Raises:
        SettingError: for numbers below one.
    """
    if films < 1 or films_per_patient < 1:
        raise SettingError(f"Expected at least 1 film and 1 per patient, but got {films} and {films_per_patient}.")
    total, person = films * len(findings), 0
    for index, finding in enumerate(findings):
        folder = directory / str(finding)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(films):
            if number % films_per_patient == 0:
                person += 1
                body = _Anatomy.random(np.random.default_rng(int(rng.integers(2**62))))
            pose, spot = rng.integers(2**62, size=2).tolist()
            film = _film(
                (finding,),
                body,
                _Pose.random(np.random.default_rng(pose), None, None),
                np.random.default_rng(spot),
            )
            name = f"person{person}_{finding}_{number % films_per_patient + 1}"
            if dicom:
                _write(folder / f"{name}.dcm", to_dicom(film, patient_id=f"person{person}"))
            else:
                _write(folder / f"{name}.png", to_png(film))
            if progress is not None:
                progress(index * films + number + 1, total)


def _write(path: Path, content: bytes) -> None:
    """Write a file that is whole or absent."""
    partial = path.with_name(f".{path.name}.part")
    partial.write_bytes(content)
    os.replace(partial, path)


def golden_films(count: int = 4) -> tuple[UInt8, ...]:
    """Return the same few films each time, uint8 at native size, of different aspects and findings."""
    rng = np.random.default_rng(1895)
    sizes = ((420, 512), (512, 420), (384, 384), (360, 560))
    kinds = tuple(Finding)
    return tuple(
        to_uint8(
            draw(kinds[i % len(kinds)], rng, height=sizes[i % len(sizes)][0], width=sizes[i % len(sizes)][1]).pixels
        )
        for i in range(count)
    )
