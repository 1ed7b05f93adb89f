"""What is wrong with a synthetic patient's lungs."""

from __future__ import annotations

import math

import numpy as np

from rentgen.images.phantom_canvas import Canvas, Plane, chord, grain, read, step
from rentgen.images.phantom_organs import wall
from rentgen.images.phantom_patient import Anatomy, Pose


def consolidation(canvas: Canvas, rng: np.random.Generator) -> Plane:
    """Return which part of the air is replaced, in [0, 1]."""
    side = int(rng.choice([-1, 1]))
    centre_y = float(rng.choice([58, 125, 190], p=[0.25, 0.3, 0.45])) + rng.normal(0, 10)
    centre_x = side * rng.uniform(42, 92)
    half_x, half_y = rng.uniform(40, 66), rng.uniform(42, 70)
    reach_x, reach_y = 1.9 * half_x, 1.9 * half_y
    zone = canvas.part(centre_x - reach_x, centre_x + reach_x, centre_y - reach_y, centre_y + reach_y)
    far = ((zone.x - centre_x) / half_x) ** 2 + ((zone.y - centre_y) / half_y) ** 2
    clouds = grain(zone, rng, ((22, 1.0), (9, 0.6), (4, 0.25)))
    fluffy = step((1.3 - far + 0.8 * (clouds - 1.0)) / 1.5)
    image, pen = zone.layer()
    for _ in range(int(rng.integers(4, 8))):
        # Bronchi run outwards from the hilum through the airless lung.
        t = np.linspace(-1, 0.7, 8)
        line = np.stack([side * t * half_x, rng.uniform(-0.5, 0.5) * (t + 1) * half_y], 1)
        line += np.array([centre_x, centre_y + rng.uniform(-0.6, 0.6) * half_y]) + rng.normal(0, 1.0, line.shape)
        pen.line(zone.place(line), 255, max(1, round(2 * zone.scale * rng.uniform(1.2, 2.4))), "curve")
    tubes = read(image, zone, 0.9) / 255
    inside = step((side * zone.x - 4) / 8)
    return canvas.spread(rng.uniform(0.75, 0.98) * fluffy * (1 - 0.55 * tubes) * inside, zone)


def effusion(canvas: Canvas, body: Anatomy, pose: Pose, rng: np.random.Generator) -> Plane:
    """Return which part of the air is replaced, in [0, 1]."""
    side = int(rng.choice([-1, 1]))
    volume = 0.38 + 0.72 * rng.uniform(0.0, 1.0)
    top = body.dome + pose.inspiration + (body.dome_step if side > 0 else 0)
    flooded = canvas.half().part(-math.inf, math.inf, top - 200, math.inf)
    out = np.minimum(flooded.x / wall(body, flooded.y), 1)
    # The meniscus climbs along the chest wall, and a little at the mediastinum.
    lateral, medial = np.square(np.square(out)), np.square(np.square(1 - out))
    level = top + 24 - 115 * volume - (16 + 30 * volume) * lateral - 8 * volume * medial
    wet = 0.96 * step((flooded.y - level) / (9 + 14 * volume) + 0.25)
    filled = canvas.spread(wet, flooded)
    return filled if side > 0 else filled[:, ::-1]


def nodule(canvas: Canvas, air: Plane, rng: np.random.Generator) -> Plane:
    """Return the thickness of a round spot, as millimetres of soft tissue."""
    # Where there is lung all around: not behind the heart nor at the wall, which nobody could call.
    rows, columns = np.nonzero(air > 0.62 * air.max())
    pick = int(rng.integers(len(rows)))
    x, y = canvas.x[0, columns[pick]], canvas.y[rows[pick], 0]
    radius = rng.uniform(4.0, 8.5)
    spot = canvas.part(x - radius, x + radius, y - radius, y + radius)
    far = ((spot.x - x) ** 2 + (spot.y - y) ** 2) / radius**2
    # Denser than water, the small ones most, as old ones with lime in them are: ribs and vessels would hide them.
    return canvas.spread(rng.uniform(0.9, 1.15) * (13 + 2.2 * radius) * chord(far), spot)
