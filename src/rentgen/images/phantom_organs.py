"""Thickness of a synthetic patient's soft tissue and air, in millimetres along the beam."""

from __future__ import annotations

import math

import numpy as np

from rentgen.images.phantom_canvas import Canvas, Plane, along, chord, grain, mirrored, read, step
from rentgen.images.phantom_patient import Anatomy, Pose

_WALL = ((0, 52), (4, 64), (12, 76), (28, 90), (60, 107), (100, 120), (150, 129), (200, 135), (330, 140))
"""Half width of the thorax's inside, by height: the pleura's lateral border."""


def wall(body: Anatomy, y: Plane) -> Plane:
    """Return the half width of the thorax's inside, millimetres."""
    return body.breadth * along(y, _WALL)


def _domes(canvas: Canvas, body: Anatomy, pose: Pose) -> Plane:
    """Return the height of the hemidiaphragms over all columns, (1, width)."""
    top = body.dome + pose.inspiration + np.where(canvas.x > 0, np.float32(body.dome_step), np.float32(0))
    out = np.abs(canvas.x) / body.breadth
    lateral = np.maximum(out - 64, 0) / 74
    medial = np.maximum(64 - out, 0) / 64
    return top + 48 * lateral**2.2 + 15 * medial**2


def lungs(canvas: Canvas, body: Anatomy, pose: Pose) -> Plane:
    """Return the thickness of air in the lungs, as if there were no heart, millimetres."""
    half = canvas.half()
    out, y = half.x, half.y
    edge = wall(body, y)
    medial = along(y, ((0, 46), (5, 34), (16, 24), (60, 19), (110, 20), (160, 24), (330, 20)))
    depth = along(y, ((0, 20), (12, 55), (45, 95), (110, 140), (200, 154), (330, 140))) * (0.74 * body.depth / 210)
    # Whole powers and roots: a general power takes ten times as long.
    share = out / edge
    lateral = chord(share * share * np.sqrt(np.sqrt(share)))
    air = mirrored(depth * (y > -1) * lateral * step((out - medial) / 9))
    # Behind the dome the lung reaches lower, ever thinner.
    domes = _domes(canvas, body, pose)
    base = canvas.part(-math.inf, math.inf, float(domes.min()) - 3, math.inf)
    below = base.y - domes
    view = canvas.within(air, base)
    view *= 1 - 0.84 * step(below / 5 + 0.5) - 0.16 * step(below / 50)
    return air


def mediastinum(canvas: Canvas, body: Anatomy, pose: Pose) -> Plane:
    """Return which part of the lung's depth heart and great vessels take, in [0, 1]."""
    part = canvas.part(-130, 130, 4, body.dome + pose.inspiration + 60)
    x, y = part.x - pose.turn * 0.6, part.y
    # The heart lies on the diaphragm; a deep breath makes it slender.
    down = (y - (body.dome + 0.8 * pose.inspiration - 50)) / body.heart
    right = (x - 19) / (body.heart * (1 - 0.004 * pose.inspiration))
    cosine, sine = math.cos(body.heart_angle), math.sin(body.heart_angle)
    length, across = right * cosine + down * sine, down * cosine - right * sine
    # Broad at the base, pointed at the apex; what lies on the diaphragm is flat, hence no lower border.
    across = np.where(across > 0, 0.62 * across, across / (1 - 0.0035 * length))
    whole = 0.78 * chord((length / 72) ** 2 + (across / 45) ** 2)
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
        whole = np.maximum(whole, thickness * chord(far))
    cava = 0.5 * chord(((x + 15) / 17) ** 2) * step((y - 5) / 30) * step((190 - y) / 40)
    # The roots of the lungs: vessels, bronchi and nodes seen end on.
    root = 1 - ((np.abs(x) - 33) / 19) ** 2 - ((y - np.where(x > 0, np.float32(98), np.float32(112))) / 27) ** 2
    return canvas.spread(np.clip(np.maximum(whole, cava) + 0.22 * body.hila * step(root), 0, 0.95), part)


def trunk(canvas: Canvas, body: Anatomy, pose: Pose) -> Plane:
    """Return the thickness of the whole body as if it were solid, millimetres."""
    half = canvas.half()
    out, y = half.x, half.y
    skin = wall(body, y) + body.fat
    shoulders = ((-160, 64), (-70, 62), (-46, 76), (-32, 106), (-14, 156), (6, 190), (40, 204), (75, 188), (135, 130))
    edge = np.maximum(np.where(y < -5, 0, skin), body.breadth * along(y, shoulders))
    depth = along(y, ((-160, 100), (-50, 108), (0, 142), (60, 186), (120, 208), (330, 224))) * (body.depth / 210)
    share = out / edge
    solid = depth * chord(share * share * share)
    # Arms hang from the shoulders, more or less away from the side.
    middle = 158 * body.breadth + body.fat * 0.5 + np.clip((y - 20) / 230, 0, 1.3) * pose.arms
    arms = half.part(float(middle.min()) - 46, math.inf, -math.inf, math.inf)
    view = half.within(solid, arms)
    np.maximum(view, 84 * step((y + 20) / 90) * chord(((arms.x - middle) / 46) ** 2), out=view)
    if body.breast:
        breast = half.part(10, 134, 110, 236)
        far = ((breast.x - 72) / 62) ** 2 + ((breast.y - 178) / 58) ** 2
        view = half.within(solid, breast)
        view += body.breast * step((breast.y - 110) / 80) * chord(far)
    return mirrored(solid)


def hollows(canvas: Canvas, body: Anatomy, pose: Pose) -> Plane:
    """Return the air outside the lungs: windpipe, main bronchi, stomach; millimetres."""
    airways = canvas.part(-60, 70, -math.inf, 140)
    image, pen = airways.layer()
    lean = 2.0 + 0.3 * pose.turn
    tubes = (
        ([(0, -150), (0, -10), (lean, 40), (lean, 84)], 17),
        ([(lean - 2, 80), (-16, 100), (-34, 118)], 13),
        ([(lean + 2, 80), (22, 99), (44, 110)], 11),
    )
    for fraction, level in ((1.0, 110), (0.8, 180), (0.5, 230)):
        for points, wide in tubes:
            pen.line(airways.place(np.array(points, float)), level, round(2 * wide * fraction * canvas.scale), "curve")
    air = canvas.spread(read(image, canvas, 1.5) * (22 / 255), airways)
    half_x, half_y = body.bubble
    centre_y = body.dome + body.dome_step + pose.inspiration + 11 + half_y
    stomach = canvas.part(74 - half_x, 74 + half_x, centre_y - half_y, centre_y + half_y)
    far = ((stomach.x - 74) / half_x) ** 2 + ((stomach.y - centre_y) / half_y) ** 2
    # Upright, so gas stands over fluid.
    surface = step((centre_y + 0.45 * half_y - stomach.y) / 3)
    view = canvas.within(air, stomach)
    view += 2.6 * half_y * surface * chord(far)
    return air


def vessels(canvas: Canvas, body: Anatomy) -> Plane:
    """Return the thickness of blood vessels and septa in the lungs, millimetres."""
    rng = np.random.default_rng([body.seed, 1])
    chest = canvas.part(-146, 146, -2, 320)
    image, pen = chest.layer()
    side = np.repeat([-1, 1], 9)
    angle = np.tile(np.linspace(-1.3, 1.4, 9), 2) + rng.normal(0, 0.12, 18)
    at = np.stack([side * (27 + 5 * np.cos(angle)), np.where(side > 0, 98, 110) + 16 * np.sin(angle)], 1)
    wide = body.hila * rng.uniform(5.0, 8.0, 18) * np.where(angle > 0.2, 1.15, 0.8)
    lines: list[tuple[list[float], float]] = []
    for _ in range(17):
        angle = angle + rng.normal(0, 0.18, len(angle))
        length = rng.uniform(6, 11, len(angle))
        after = at + np.stack([side * np.cos(angle), np.sin(angle)], 1) * length[:, None]
        ends = chest.place(np.concatenate([at, after], axis=1).reshape(-1, 2))
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
    septa = grain(chest, rng, ((4, 4.0), (12, 5.0)))
    return canvas.spread((3.0 / 24) * read(image, chest, 0.8) + septa, chest)
