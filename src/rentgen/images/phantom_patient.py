"""Who stands before the detector and how: everything about a synthetic film but its finding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIDES = (64, 4096)
"""The smallest and largest side of a film, pixels."""


@dataclass(frozen=True)
class Anatomy:
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
    def random(cls, rng: np.random.Generator) -> Anatomy:
        """Return anybody, from 18 to 90 years."""
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
class Pose:
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
    def random(cls, rng: np.random.Generator, height: int | None, width: int | None) -> Pose:
        """Return an exposure of usual quality; a side that is None is drawn, too."""
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
