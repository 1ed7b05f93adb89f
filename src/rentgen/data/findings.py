"""One table of chest findings: how data sets spell them, which sets have them, and what excludes what."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rentgen.errors import DataError
from rentgen.records import ImageRecord, Listing, Task

NO_FINDING = "No Finding"
"""Says that none of the others is there."""


@dataclass(frozen=True, slots=True)
class ChestFinding:
    """A finding that published sets name.

    Attributes:
        name: as TorchXRayVision spells it, where it has it.
        aliases: other spellings, without case and with blanks for `_`, `-` and `/`.
        disease: whether `No Finding` denies it; a pacemaker or a tube it does not.
    """

    name: str
    aliases: tuple[str, ...] = ()
    disease: bool = True


FINDINGS: tuple[ChestFinding, ...] = (
    ChestFinding(NO_FINDING, ("normal", "no findings", "nofinding", "healthy")),
    ChestFinding("Atelectasis", ("lobar atelectasis", "atelectasia")),
    ChestFinding("Cardiomegaly", ("enlarged heart",)),
    ChestFinding("Consolidation", ("lung consolidation",)),
    ChestFinding("Edema", ("pulmonary edema", "lung edema", "oedema", "pulmonary oedema")),
    ChestFinding("Effusion", ("pleural effusion",)),
    ChestFinding("Emphysema", ("pulmonary emphysema",)),
    ChestFinding("Enlarged Cardiomediastinum", ("enlarged mediastinum",)),
    ChestFinding("Fibrosis", ("pulmonary fibrosis", "lung fibrosis")),
    ChestFinding("Fracture", ("fractures", "rib fracture")),
    ChestFinding("Hernia", ("hiatal hernia", "hiatus hernia")),
    ChestFinding("Infiltration", ("infiltrate", "infiltrates")),
    ChestFinding("Lung Lesion", ("lung lesions",)),
    ChestFinding("Lung Opacity", ("airspace opacity", "opacity")),
    ChestFinding("Mass", ("lung mass", "pulmonary mass")),
    ChestFinding("Nodule", ("lung nodule", "pulmonary nodule")),
    ChestFinding("Pleural Other", ("other pleural abnormality",)),
    ChestFinding("Pleural_Thickening", ("pleural thickening",)),
    ChestFinding("Pneumonia", ()),
    ChestFinding("Pneumothorax", ()),
    ChestFinding("Support Devices", ("support device",), disease=False),
    ChestFinding("Tuberculosis", ("tb",)),
)
"""Those that at least two of the sets below name, and their own."""

CHESTXRAY14 = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
    "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip
"""The 14 of ChestX-ray14."""
CHEXPERT = (
    NO_FINDING, "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
"""The 14 of CheXpert, whose `Pleural Effusion` is `Effusion` here."""
COMMON18 = (
    "Atelectasis", "Consolidation", "Infiltration", "Pneumothorax", "Edema", "Emphysema", "Fibrosis", "Effusion",
    "Pneumonia", "Pleural_Thickening", "Cardiomegaly", "Nodule", "Mass", "Hernia", "Lung Lesion", "Fracture",
    "Lung Opacity", "Enlarged Cardiomediastinum",
)  # fmt: skip
"""The 18 that TorchXRayVision aligns its sets to."""
NAMED_SETS: Mapping[str, tuple[str, ...]] = {
    "chestxray14": CHESTXRAY14,
    "chexpert": CHEXPERT,
    "common18": COMMON18,
}
"""Lists of findings that have a name."""


def _plain(name: str) -> str:
    return re.sub(r"[\s_/-]+", " ", name).strip().casefold()


_BY_NAME = {_plain(spelling): entry for entry in FINDINGS for spelling in (entry.name, *entry.aliases)}


def canonical(name: str) -> str:
    """Return a finding's name in the table; one that the table does not know keeps its own.

    Example:
        >>> canonical("Pleural effusion"), canonical("sail sign")
        ('Effusion', 'sail sign')
    """
    entry = _BY_NAME.get(_plain(name))
    return name.strip() if entry is None else entry.name


def is_known(name: str) -> bool:
    """Return whether the table has a finding."""
    return _plain(name) in _BY_NAME


def is_disease(name: str) -> bool:
    """Return whether `No Finding` denies a finding."""
    entry = _BY_NAME.get(_plain(name))
    return entry is None or (entry.disease and entry.name != NO_FINDING)


def wanted_findings(words: Sequence[str]) -> tuple[str, ...]:
    """Return the findings that words name: names as the table has them, and `NAMED_SETS`, spelled out.

    Example:
        >>> wanted_findings(["Pleural Effusion", "Nodule"])
        ('Effusion', 'Nodule')
        >>> len(wanted_findings(["common18"]))
        18
    """
    names = [name for word in words for name in NAMED_SETS.get(word.strip().lower(), (canonical(word),))]
    return tuple(dict.fromkeys(names))


def align(listing: Listing, names: Sequence[str]) -> Listing:
    """Return a set of several findings with other findings for its classes: what it does not name is unknown.

    Columns that are one finding in the table become one: present where either is, absent where none is present and one
    is absent.

    Args:
        listing: of several findings.
        names: as `wanted_findings` gives them.

    Raises:
        DataError: the set has one class a film, or none of the findings.
    """
    if listing.task is not Task.MULTILABEL:
        raise DataError(
            f"Expected a set with a column for each finding, but {listing.root} gives each film one class "
            f"({', '.join(listing.classes[:5]) or 'none'})."
        )
    places = [[i for i, own in enumerate(listing.classes) if canonical(own) == name or own == name] for name in names]
    if not any(places):
        raise DataError(
            f"{listing.root} has none of the findings {', '.join(names)}. It has {', '.join(listing.classes)}."
        )

    def joined(record: ImageRecord, columns: Sequence[int]) -> bool | None:
        values = {record.findings[column] for column in columns}
        return True if True in values else False if False in values else None

    records = tuple(
        replace(record, findings=tuple(joined(record, columns) for columns in places)) for record in listing.records
    )
    return replace(listing, records=records, classes=tuple(names))


def apply_exclusion(listing: Listing) -> Listing:
    """Return a set of several findings in which `No Finding` and the others do not contradict each other.

    `No Finding` means that the diseases of which nobody says anything are absent, and a disease that it is not true.
    Where a film has both, nobody can tell which is wrong: both become unknown, and a note says how many there are.

    Args:
        listing: as it was read.
    """
    if listing.task is not Task.MULTILABEL:
        return listing
    nothing = [i for i, name in enumerate(listing.classes) if canonical(name) == NO_FINDING]
    if not nothing:
        return listing
    (empty, *_), diseases = nothing, {i for i, name in enumerate(listing.classes) if is_disease(name)}
    against: Counter[str] = Counter()
    torn = 0
    records = []
    for record in listing.records:
        found = {i for i in diseases if record.findings[i]}
        values = list(record.findings)
        if values[empty] and found:
            torn += 1
            against.update(listing.classes[i] for i in found)
            for i in (empty, *found):
                values[i] = None
        elif values[empty]:
            values = [False if i in diseases and value is None else value for i, value in enumerate(values)]
        elif found:
            values[empty] = False
        records.append(replace(record, findings=tuple(values)))
    notes = listing.notes
    if torn:
        named = ", ".join(f"{name} {count}" for name, count in against.most_common(3))
        notes = (
            *notes,
            f"{torn} films have {listing.classes[empty]!r} and a finding at once ({named}): one of the two is wrong, "
            "so both count as unknown. Correct the table.",
        )
    return replace(listing, records=tuple(records), notes=notes)
