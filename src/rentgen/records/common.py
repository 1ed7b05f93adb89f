"""Array types, progress, and the sentence that stands wherever a result is shown."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


class Progress(Protocol):
    """What long work calls to say how far it is."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Take the number of things done, out of how many, at which stage; and a few words."""


DISCLAIMER = "Research software. Not a medical device; not for diagnosis on its own."
