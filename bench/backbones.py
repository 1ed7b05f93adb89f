"""What a film costs each network of the table, beside EfficientNet-Lite0 in the same run.

    python bench/backbones.py [--side 224] [--films 64] [--rounds 3] [NAME ...]

Weights are random: they do not change the cost. Networks take turns round by round, so that a machine that is busy for
a while is busy for all; a ratio counts, a time alone does not.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from rentgen.engine.session import Session, best_precision
from rentgen.learn.backbones import load
from rentgen.learn.export import export_backbone
from rentgen.learn.networks import NETWORKS
from rentgen.records import Precision

BASE = "tf_efficientnet_lite0"


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--side", type=int, default=224, help="of the input, pixels; 14 divides that of DINOv2")
    parser.add_argument("--films", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    names = list(dict.fromkeys([BASE, *(arguments.names or NETWORKS)]))
    precisions = [Precision.F32] + [Precision.BF16] * (best_precision() is Precision.BF16)
    side = arguments.side
    films = np.random.default_rng(0).integers(0, 256, (arguments.films, side, side), dtype=np.uint8)
    sessions: dict[tuple[str, Precision], Session] = {}
    facts = {}
    for name in names:
        backbone = load(name, weights="random", size=(side, side))
        graph = export_backbone(backbone, (side, side))
        facts[name] = backbone.features, len(graph) / 1e6, str(backbone.pooling)
        for precision in precisions:
            sessions[name, precision] = Session(graph, precision=precision, batch_size=8)
    times: dict[tuple[str, Precision], list[float]] = {key: [] for key in sessions}
    for _ in range(arguments.rounds + 1):
        for key, session in sessions.items():
            start = time.perf_counter()
            for first in range(0, len(films), 8):
                session.run(films[first : first + 8], ("embedding_0",))
            times[key].append((time.perf_counter() - start) / len(films))
    heads = "".join(f" {precision} ms a film | {precision} ratio |" for precision in precisions)
    print(f"| network | features | pooling | MB |{heads}")
    print("|---|---|---|---|" + "---|---|" * len(precisions))
    for name in names:
        features, size, pooling = facts[name]
        cells = ""
        for precision in precisions:
            # The first round warms up.
            own, base = (statistics.median(times[one, precision][1:]) for one in (name, BASE))
            cells += f" {1000 * own:.1f} | {own / base:.1f} |"
        print(f"| `{name}` | {features} | {pooling} | {size:.0f} |{cells}")


if __name__ == "__main__":
    main()
