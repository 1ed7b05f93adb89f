"""How often drift is told: without any (false alarms), and with more films beyond the distance threshold.

    python bench/drift.py [--bundle NAME] [--windows N]

Answers are drawn from what the bundle's own card says: confidences from its histogram, classes by their shares,
distances beyond its threshold by the share given. The first line also draws the card's histogram anew in each window,
as if another validation part of the same size had made it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from rentgen.bundle import read
from rentgen.service.drift import WINDOW, Answer, Reference, Verdict, compare

AT = datetime(2026, 1, 1, tzinfo=UTC)


def draw(reference: Reference, beyond: float, rng: np.random.Generator) -> list[Answer]:
    """Return one window of answers: films independent of each other, measures too."""
    counts = np.array(reference.counts)
    bins = rng.choice(len(counts), WINDOW, p=counts / counts.sum())
    lows = np.array((0.0, *reference.bins[:-1]))
    confidences = (lows[bins] + np.array(reference.bins)[bins]) / 2
    shares = reference.shares or {"": 1.0}
    labels = rng.choice(list(shares), WINDOW, p=list(shares.values()))
    far = rng.random(WINDOW) < beyond
    threshold = reference.threshold or 0.0
    rows = zip(confidences, labels, far, strict=True)
    return [Answer(float(c), str(label), threshold + (1.0 if out else -1.0), AT) for c, label, out in rows]


def main() -> None:
    """Print shares of windows that are told to have moved."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="pneumonia")
    parser.add_argument("--windows", type=int, default=2000)
    chosen = parser.parse_args()
    reference = Reference.of(read(chosen.bundle).card)
    rng = np.random.default_rng(0)
    films = sum(reference.counts)
    expected = 1 - reference.kept
    verdicts = alarms = 0
    for _ in range(chosen.windows):
        counts = rng.multinomial(films, np.array(reference.counts) / films)
        measures = compare(draw(reference, expected, rng), replace(reference, counts=tuple(counts.tolist())))
        judged = [measure for measure in measures if measure.verdict is not Verdict.NO_REFERENCE]
        verdicts += len(judged)
        alarms += sum(measure.verdict is Verdict.MOVED for measure in judged)
    print(f"windows of {WINDOW}, a card of {films} films, {expected:.0%} beyond the threshold expected")
    print(f"without drift: {alarms} of {verdicts} verdicts `moved`")
    for share in (0.08, 0.10):
        found = 0
        for _ in range(chosen.windows):
            measures = compare(draw(reference, share, rng), reference)
            found += any(one.name == "beyond_distance" and one.verdict is Verdict.MOVED for one in measures)
        print(f"{share:.0%} beyond the threshold: found in {found / chosen.windows:.0%} of the windows")


if __name__ == "__main__":
    main()
