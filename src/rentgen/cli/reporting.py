"""The report that a command writes of a bundle that it made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rentgen.cli.options import now

if TYPE_CHECKING:
    from rentgen.evaluate.judge import Judgement
    from rentgen.learn.trust import Trust
    from rentgen.records import Audit, Card


def write_report(
    directory: Path,
    title: str,
    *,
    card: Card,
    shown: Judgement,
    audit: Audit,
    trust: Trust | None,
    data: Path,
    command: str,
) -> tuple[Path, ...]:
    """Write the report and return its files, the page first.

    Args:
        directory: made if it is not there.
        title: of the page; the bundle's name follows.
        card: of the bundle.
        shown: how it did on the part that is shown.
        audit: of the films.
        trust: what may be trusted; None where nobody asked.
        data: where the films are.
        command: that repeats it.
    """
    from rentgen.evaluate.report import Report, write

    return write(
        directory,
        Report(
            card=card,
            evaluation=shown.evaluation,
            title=f"{title}: {card.name}",
            data_path=str(data),
            command=command,
            created=now(),
            audit=audit,
            mistakes=shown.mistakes,
            examples=shown.examples,
            robustness=None if trust is None else trust.robustness,
            shortcuts=None if trust is None else trust.shortcuts,
            heat_maps=None if trust is None else trust.heat_maps,
        ),
    )
