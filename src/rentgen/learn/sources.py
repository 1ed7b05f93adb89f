"""What a model of several sets would do on one that it never saw: each set is left out once, and measured on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rentgen.data.listing import list_images
from rentgen.data.merge import write_table
from rentgen.errors import DataError
from rentgen.learn.training import TrainingPlan, train
from rentgen.records import Evaluation, Listing, Progress, Task


@dataclass(frozen=True, slots=True, eq=False)
class LeftOut:
    """What came of leaving one set out.

    Attributes:
        source: the set.
        films: it has.
        inside: how the model of the others did on their validation part, which chose it: this flatters.
        outside: how it did on the set that was left out.
    """

    source: str
    films: int
    inside: Evaluation
    outside: Evaluation

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "source": self.source,
            "films": self.films,
            "inside": self.inside.to_dict(),
            "outside": self.outside.to_dict(),
        }


def leave_one_out(plan: TrainingPlan, *, progress: Progress | None = None) -> Iterator[LeftOut]:
    """Yield what came of leaving each set out of the training in turn.

    Features are cached by content, so that only the heads are trained anew.

    Args:
        plan: whose data is a table with a column `source`; `out` names the folder where bundles go, one a set.
        progress: as of `train`.

    Raises:
        DataError: the table has fewer than two sets, and as of `train`.
    """
    listing = list_images(plan.data, patient_pattern=plan.patient_pattern, findings=plan.findings)
    sources = tuple(dict.fromkeys(record.source for record in listing.records if record.source))
    if listing.task is not Task.MULTILABEL or len(sources) < 2:
        raise DataError(
            f"Expected a table of several findings with two sets or more in its column 'source', but {plan.data} has "
            f"{len(sources)}. `rentgen data merge` makes one."
        )
    with tempfile.TemporaryDirectory(prefix="sources-") as scratch:
        for source in sources:
            others, left = _part(listing, source, Path(scratch))
            result = train(
                replace(plan, data=others, test=left, out=plan.out / f"without-{source}.rentgen", probed=False),
                progress=progress,
            )
            if result.test is None:
                raise DataError(f"None of the films of {source} could be read.")
            yield LeftOut(source, result.test.evaluation.n, result.validation.evaluation, result.test.evaluation)


def _part(listing: Listing, source: str, folder: Path) -> tuple[Path, Path]:
    """Write the other sets and the one that is left out as tables, without their parts."""
    plain = [replace(record, split=None) for record in listing.records]
    others, left = folder / "others.csv", folder / "left-out.csv"
    write_table(listing, others, [record for record in plain if record.source != source])
    write_table(listing, left, [record for record in plain if record.source == source])
    return others, left
