"""Extraction for Ray's workers, who import it by name, and the run that a test kills."""

from __future__ import annotations

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from unittest import mock

from featured import TILES, run, tiles, write_films
from raying import mark

from rentgen.learn import features
from rentgen.learn.extractors import Extractor, Run
from rentgen.parallel.ray import Ray
from rentgen.records import Float32, UInt8

FILMS = 32


def marked_extractor(folder: Path) -> Extractor:
    """Return who notes each film that it computes, and dies of the first where a file says so."""
    return Extractor(tiles, TILES, {"name": "tiles"}, 2, 2, opened=partial(_open_marked, folder))


def _open_marked(folder: Path, threads: int) -> Run:
    assert threads == 1
    return partial(_run_marked, folder)


def _run_marked(folder: Path, images: UInt8) -> Float32:
    try:
        # Only one of them finds it.
        (folder / "die").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    except FileNotFoundError:
        pass
    for _ in images:
        mark(folder)
    time.sleep(0.05)
    return tiles(images)


if __name__ == "__main__":
    # A whole run, which the test kills.
    address, place = sys.argv[1], Path(sys.argv[2])
    with mock.patch.object(features, "SHARD_ROWS", 4):
        run(write_films(place / "films", FILMS), place / "cache", marked_extractor(place / "marks"), pool=Ray(address))
