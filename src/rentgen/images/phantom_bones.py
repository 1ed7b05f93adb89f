"""Attenuation of a synthetic patient's bones."""

from __future__ import annotations

import itertools
import math

import numpy as np
from PIL import ImageDraw

from rentgen.images.phantom_canvas import Canvas, Plane, along, mirrored, read, step
from rentgen.images.phantom_organs import wall
from rentgen.images.phantom_patient import Anatomy, Pose

_COMPACT = (255, 200, 180)
"""Levels of a bone's border, of its shaft and of its middle: the cortex is seen edge on along both borders."""


def ribs(canvas: Canvas, body: Anatomy) -> Plane:
    """Return the attenuation of eleven pairs of ribs, behind and in front."""
    rng = np.random.default_rng(body.seed)
    half = canvas.half()
    k = np.arange(11.0)[:, None]
    # From the spine to the side and around it, where the rib is lost behind its own front.
    turn = np.linspace(0, 0.64 * np.pi, 28)
    root = -8 + body.rib_pitch * k + rng.normal(0, 0.8, k.shape)
    fall = body.rib_drop * np.interp(k, (0, 1, 3, 6, 10), (30, 40, 54, 68, 78))
    straight = np.interp(k, (0, 3), (0.75, 0.25))
    far = wall(body, (root + fall).astype(np.float32)) + 2.0
    x = 15 + (far - 15) * np.sin(turn) ** 0.92
    y = (
        root
        - 7 * np.sin(2 * turn) * np.minimum(k, 3) / 3
        + fall * (straight * np.sin(turn) + (1 - straight) * (1 - np.cos(turn)))
    )
    wide = np.interp(k, (0, 2, 7, 10), (4.6, 4.2, 5.0, 4.0)) * rng.uniform(0.94, 1.06, k.shape)
    thinning = np.sqrt(np.clip((turn[-1] - turn) / 0.55, 0.01, 1))
    back, pen = half.layer()
    _tubes(half, pen, np.stack([x, y], axis=-1), wide * thinning)

    t = np.linspace(0, 1, 18)
    near = 46 + 3.5 * np.maximum(k - 4, 0)
    x = far - (far - near) * (0.3 * t + 0.7 * t**1.7)
    side = root + fall
    y = side + body.rib_drop * np.interp(k, (0, 2, 8), (12, 36, 66)) * (1.15 * t - 0.25 * t**2)
    broadening = np.linspace(1.0, 1.35, 18) * np.sqrt(np.clip(t / 0.2, 0.04, 1))
    front, pen = half.layer()
    _tubes(half, pen, np.stack([x, y], axis=-1)[:9], wide[:9] * broadening, cortex=0.84)

    out = half.x / wall(body, half.y)
    # Turning into the line of sight at the side, a rib is longer to cross; in front it ends as cartilage.
    fourth = np.square(np.square(np.minimum(out, 1)))
    edge_on = body.bone / 255 * (1 + fourth * fourth)
    ossified = 0.2 * step((half.x - 50) / 26)
    return mirrored(edge_on * (0.33 * read(back, half, 0.7) + ossified * read(front, half, 0.7)))


def girdle(canvas: Canvas, body: Anatomy, pose: Pose) -> Plane:
    """Return the attenuation of clavicles, scapulae and upper arms."""
    wide, half = body.breadth, canvas.half()
    t = np.linspace(0, 1, 24)
    collar = half.part(0, math.inf, -40, 60)
    clavicles, pen = collar.layer()
    # An S: forward over the first rib, back towards the shoulder.
    x, y = 14 + 146 * wide * t, 30 - 44 * t + 8 * np.sin(2 * np.pi * t) + 5 * t**4
    _tubes(collar, pen, np.stack([x, y], 1)[None], 5.0 + 3.2 * (1 - t) ** 5 + 1.5 * t**6, cortex=0.74)

    lateral = half.part(90 * wide, math.inf, -math.inf, math.inf)
    blades, pen = lateral.layer()
    # From the upper angle down the medial border, round the lower angle and up to the socket.
    blade = ((136, 12), (122, 20), (116, 40), (113, 66), (116, 100), (123, 128), (130, 136), (136, 122), (145, 92))
    outline = _smooth((*blade, (153, 64), (159, 44), (160, 20), (150, 12), (136, 12)), 48)
    pen.polygon(lateral.place(outline * [wide, 1]), 70)
    border = _smooth(((128, 134), (135, 122), (144, 93), (151, 66), (160, 40)), 20)
    _tubes(lateral, pen, (border * [wide, 1])[None], 0.3 + 4.2 * np.linspace(0, 1, 20) ** 0.8, 0.5, (112, 100, 86))
    ridge = _smooth(((114, 40), (128, 26), (144, 14), (160, 3), (178, -4)), 20)
    _tubes(lateral, pen, (ridge * [wide, 1])[None], 0.5 + 7.5 * np.linspace(0, 1, 20) ** 1.6, 0.8, (116, 100, 96))
    elbow, socket = 164 * wide + pose.arms, 178 * wide
    shaft = np.array([(socket + 4, 14), (socket + 2, 50), (0.6 * socket + 0.4 * elbow + 3, 120), (elbow + 4, 290)])
    _tubes(lateral, pen, shaft[None], np.array([20.0, 15.0, 11.0, 11.0]), cortex=0.66)
    head = np.array([socket - 2, 22.0]) + 22 * np.stack([np.cos(2 * np.pi * t), np.sin(2 * np.pi * t)], 1)
    pen.polygon(lateral.place(head), 190)

    bones = mirrored(half.spread(read(blades, lateral, 1.1), lateral))
    # What lies in front moves sideways as the patient turns.
    front = np.roll(mirrored(read(clavicles, collar, 0.7)), round(pose.turn * canvas.scale), axis=1)
    bones[collar.row - canvas.row :][: len(front)] += front
    bones *= 0.5 * body.bone / 255
    return bones


def spine(canvas: Canvas, body: Anatomy) -> Plane:
    """Return the attenuation of vertebrae from the neck to the loins."""
    part = canvas.part(-48 - 2 * abs(body.scoliosis), 48 + 2 * abs(body.scoliosis), -math.inf, math.inf)
    image, pen = part.layer()
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
        pen.polygon(part.place(np.array([(-1.75, 0.3), (1.75, 0.3), (1.6, 0.5), (-1.6, 0.5)]) * scale + move), 90)
        pen.polygon(part.place(waist * scale + move), 195)
        pen.polygon(part.place(inner * scale + move), 165)
        for x, y, across, down, level in (
            (-0.62, 0.4, 0.2, 0.2, 215),
            (0.62, 0.4, 0.2, 0.2, 215),
            (0, 0.7, 0.13, 0.3, 235),
        ):
            shape = np.stack([x + across * np.cos(circle), y + down * np.sin(circle)], 1)
            pen.polygon(part.place(shape * scale + move), level)
    return canvas.spread((0.6 * body.bone / 255) * read(image, part, 0.8), part)


def _tubes(
    canvas: Canvas,
    pen: ImageDraw.ImageDraw,
    points: Plane,
    half_width: Plane,
    cortex: float = 0.8,
    levels: tuple[int, int, int] = _COMPACT,
) -> None:
    """Draw hollow bones.

    Args:
        canvas: where `pen` draws.
        pen: of a layer.
        points: (bones, n, 2).
        half_width: broadcasts against (bones, n), millimetres.
        cortex: what of the width lies inside the cortex.
        levels: as those of `_COMPACT`.
    """
    for share, level in zip((1.0, cortex, 0.5 * cortex), levels, strict=True):
        for outline in _band(points, share * half_width):
            pen.polygon(canvas.place(outline), level)


def _band(points: Plane, half_width: Plane) -> Plane:
    """Return the outline of a band around each of several curves, (curves, 2 n, 2)."""
    tangent = np.gradient(points, axis=1)
    normal = np.stack([-tangent[..., 1], tangent[..., 0]], axis=-1) / np.linalg.norm(tangent, axis=-1)[..., None]
    offset = normal * np.broadcast_to(half_width, points.shape[:2])[..., None]
    return np.concatenate([points + offset, (points - offset)[:, ::-1]], axis=1)


def _smooth(points: tuple[tuple[float, float], ...], count: int) -> Plane:
    """Return `count` points of a smooth curve near those given, (count, 2)."""
    at = np.linspace(0, len(points) - 1, count)
    return np.stack([along(at, [(i, point[axis]) for i, point in enumerate(points)]) for axis in (0, 1)], axis=1)
