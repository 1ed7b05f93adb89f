"""What a step of fine-tuning costs, side by side in one run: arithmetic, kept memory, frozen stages, augmentation.

    python bench/finetuning.py [--backbone NAME] [--batch N] [--steps N]

Each line is the median of some steps on drawn films. `kept memory` is what `learn.finetune` asks of the C library; the
lines without it run in a process of their own, since it cannot be taken back.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from rentgen.images.phantom import golden_films
from rentgen.images.prepare import fit
from rentgen.learn import backbones
from rentgen.learn.finetune import keep_memory
from rentgen.learn.settings import ShiftSettings
from rentgen.learn.shift import film_sources, shift_batch
from rentgen.learn.stages import find_stages
from rentgen.records import Preprocessing, Radiograph


def main() -> None:
    """Print films a second."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--plain-memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain_memory:
        print_steps(arguments, "plain memory")
        return
    print(f"{arguments.backbone}, batch {arguments.batch}, {torch.get_num_threads()} threads, {platform.machine()}")
    subprocess.run([sys.executable, __file__, "--plain-memory", *sys.argv[1:]], check=True)
    keep_memory()
    print_steps(arguments, "kept memory")
    films = torch.from_numpy(sample(arguments.batch))
    sources = film_sources(0, 0, range(arguments.batch))
    speed = arguments.batch / median(lambda: shift_batch(films, ShiftSettings(), sources), arguments.steps)
    print(f"augmentation alone: {speed:.1f} films/s, {1000 / speed:.1f} ms a film")


def print_steps(arguments: argparse.Namespace, memory: str) -> None:
    """Print the speed of forward and backward passes."""
    for frozen in (0, 3):
        for half in (False, True):
            backbone = backbones.load(arguments.backbone, normalise="film")
            backbone.requires_grad_(True).to(memory_format=torch.channels_last)
            backbone.network.train()
            freeze(backbone, frozen)
            films = torch.from_numpy(sample(arguments.batch)).float()

            def step(backbone: backbones.Backbone = backbone, films: torch.Tensor = films, half: bool = half) -> None:
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                    pooled = backbone(films).float().mean((2, 3))
                torch.autograd.backward(pooled.square().sum())

            speed = arguments.batch / median(step, arguments.steps)
            print(f"{memory}, {'bf16' if half else 'f32'}, {frozen} stages frozen: {speed:.1f} films/s", flush=True)


def freeze(backbone: backbones.Backbone, lowest: int) -> None:
    """Keep the lowest stages as they are."""
    stages = find_stages(backbone.network)
    for name, parameter in backbone.network.named_parameters():
        parameter.requires_grad_(stages[name] >= lowest)


def sample(count: int) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """Return drawn films at the network's input size."""
    films = golden_films()
    fitted = [fit(Radiograph(film, "", "png", 8), Preprocessing()).pixels for film in films]
    return np.stack([fitted[number % len(fitted)] for number in range(count)])


def median(call: Callable[[], object], steps: int) -> float:
    """Return the median seconds of a call, after two that are not counted."""
    times = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


if __name__ == "__main__":
    main()
