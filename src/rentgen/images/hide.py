"""Parts of a film taken away without leaving an edge: what a mask covers becomes a smooth continuation of the rest."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from rentgen.records import Float32, UInt8

FILL = 1 / 10
"""Standard deviation of the fill, relative to the film's longer side: nothing of a lung is left, the shade goes on."""
FEATHER = 1 / 50
"""Width of the soft edge, relative to the film's longer side; it lies outside of the mask."""


def hide(film: UInt8, mask: npt.NDArray[np.bool_]) -> UInt8:
    """Return the film with what the mask covers replaced by what lies around it, blurred; no edge tells of the mask.

    Args:
        film: (height, width).
        mask: of the same shape, true where to hide. One that covers everything leaves the film's mean.

    Example:
        >>> film = np.full((32, 32), 90, np.uint8)
        >>> film[10:20, 10:20] = 255
        >>> mask = film == 255
        >>> int(hide(film, mask).max())
        90
    """
    side = max(film.shape)
    values = film.astype(np.float32)
    kept = (~mask).astype(np.float32)
    shade = float(values[~mask].mean()) if not mask.all() else float(values.mean())
    # A little of the mean everywhere, so that the middle of a wide mask has a value, too.
    weight = blurred(kept, FILL * side)
    fill = (blurred(values * kept, FILL * side) + 1e-3 * shade) / (weight + 1e-3)
    soft = np.clip(2 * blurred(mask.astype(np.float32), FEATHER * side), 0, 1)
    soft[mask] = 1
    hidden: UInt8 = np.rint(np.clip(values * (1 - soft) + fill * soft, 0, 255)).astype(np.uint8)
    return hidden


def frame(shape: tuple[int, int], share: float) -> npt.NDArray[np.bool_]:
    """Return a mask of the outer border of a film.

    Args:
        shape: height and width.
        share: of each side, in (0, 0.5).
    """
    rows, columns = round(shape[0] * share), round(shape[1] * share)
    mask = np.ones(shape, np.bool_)
    mask[rows : shape[0] - rows, columns : shape[1] - columns] = False
    return mask


def blurred(plane: Float32, sigma: float) -> Float32:
    """Return a plane under a Gaussian; beyond its edges it goes on as a mirror image.

    Args:
        plane: (height, width).
        sigma: standard deviation, pixels; best below the plane's sides.
    """
    rows, columns = plane.shape
    return np.asarray(_kernel(rows, sigma) @ plane @ _kernel(columns, sigma).T, np.float32)


@lru_cache(maxsize=32)
def _kernel(size: int, sigma: float) -> Float32:
    far = np.arange(-size, 2 * size)[None, :] - np.arange(size)[:, None]
    weights = np.exp(-0.5 * (far / sigma) ** 2)
    before, inside, behind = np.split(weights, 3, axis=1)
    folded = inside + before[:, ::-1] + behind[:, ::-1]
    kernel: Float32 = np.asarray(folded / folded.sum(axis=1, keepdims=True), np.float32)
    return kernel
