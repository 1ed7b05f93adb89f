"""The table of codes: against DICOM's own dictionary, and against what the documentation shows."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from answers import AT, MODEL, film_result, graded, of, phantom, rg1, stored, study, two_films
from hypothesis import given
from hypothesis import strategies as st
from made import dicom
from pydicom.sr._concepts_dict import concepts

from rentgen.errors import InputError
from rentgen.images.limits import orient
from rentgen.images.read import read
from rentgen.outputs import codes
from rentgen.outputs.codes import FINDINGS, SCHEME, Code, find
from rentgen.outputs.dicom_common import source_of
from rentgen.outputs.findings import Presence, deciding_point, findings, impression, locate, sentences, to_stored
from rentgen.records import Status
from rentgen.records.results import FilmResult, SourceImage, StudyResult, is_finding
from rentgen.records.studies import Point
from rentgen.workflow import native_map


def known(code: Code) -> bool:
    """Return whether DICOM's published dictionary, as pydicom carries it, has a code."""
    names = cast(Mapping[str, Mapping[str, object]], concepts[code.scheme])
    return any(code.value in each for each in names.values())


DOCS = Path(__file__).parents[1] / "docs" / "results.md"


def test_documentation_shows_the_table() -> None:
    rows = re.findall(r"^\| `([A-Z-]+)` \| (.+?) \| (.+?) \| (.+?) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    shown = {own: (meaning, snomed, radlex) for own, meaning, snomed, radlex in rows}
    assert shown == {
        entry.own.value: (
            entry.own.meaning,
            f"{entry.snomed.value} {entry.snomed.meaning}" if entry.snomed else "-",
            f"{entry.radlex.value} {entry.radlex.meaning}" if entry.radlex else "-",
        )
        for entry in FINDINGS
    }


@pytest.mark.parametrize(
    "code",
    [
        codes.PRESENT,
        codes.ABSENT,
        codes.UNDETERMINED,
        codes.CHEST,
        codes.IMAGING_PROCEDURE,
        codes.STUDY_INSTANCE_UID,
        codes.OF_INTEREST,
        codes.COMMENT,
        codes.IMAGING_STUDY,
        codes.IMPRESSION,
        find("pleural effusion").primary,
        find("pneumothorax").primary,
        find("edema").primary,
    ],
    ids=lambda code: code.meaning,
)
def test_codes_stand_in_dicoms_dictionary(code: Code) -> None:
    assert known(code)


@given(st.sampled_from([code for entry in FINDINGS for code in entry.all if code.scheme == "SCT"]))
def test_snomed_codes_have_their_check_digit(code: Code) -> None:
    # Verhoeff, as SNOMED CT's identifiers end with it: a slip of the pen does not pass.
    table = [[int(d) for d in row] for row in _VERHOEFF_D]
    permute = [[int(d) for d in row] for row in _VERHOEFF_P]
    check = 0
    for place, digit in enumerate(reversed(code.value)):
        check = table[check][permute[place % 8][int(digit)]]
    assert check == 0


_VERHOEFF_D = [
    "0123456789",
    "1234067895",
    "2340178956",
    "3401289567",
    "4012395678",
    "5987604321",
    "6598710432",
    "7659821043",
    "8765932104",
    "9876543210",
]
_VERHOEFF_P = [
    "0123456789",
    "1576283094",
    "5803796142",
    "8916043527",
    "9453126870",
    "4286573901",
    "2793806415",
    "7046913258",
]


def test_no_label_and_no_code_comes_twice() -> None:
    labels = [label for entry in FINDINGS for label in entry.labels]
    assert len(labels) == len(set(labels))
    every = [code.value for entry in FINDINGS for code in entry.all]
    assert len(every) == len(set(every))
    assert all(find(label.upper().replace(" ", "_")) is entry for entry in FINDINGS for label in entry.labels)


@given(st.text(max_size=200))
def test_any_label_has_a_code(label: str) -> None:
    code = find(label).own
    assert code.scheme == SCHEME
    assert len(code.value) <= 16
    assert find(label) == find(label)


def test_codes_are_checked() -> None:
    with pytest.raises(ValueError, match="Expected a code's meaning of 1 to 64"):
        Code("1", "SCT", "x" * 65)


def test_rules_are_those_of_the_workflow() -> None:
    for label in ("NORMAL", "No_Finding", "healthy", "PNEUMONIA", "negative"):
        assert (find(label).own.value != "NORMAL") == is_finding(label)


@pytest.mark.parametrize(
    ("kind", "presence", "shown"),
    [
        ("present", Presence.PRESENT, 0.97),
        ("absent", Presence.ABSENT, 0.04),
        ("abstain", Presence.UNDETERMINED, 0.5),
        ("out of scope", Presence.NOT_ASSESSED, None),
    ],
)
def test_presence(kind: str, presence: Presence, shown: float | None) -> None:
    normal, pneumonia = findings(film_result(kind), MODEL)
    assert (pneumonia.presence, pneumonia.probability) == (presence, shown)
    # Nothing is said of a class without an operating point but its probability.
    assert normal.presence == (None if shown is not None else Presence.NOT_ASSESSED)
    assert bool(pneumonia.region) == (presence is Presence.PRESENT)


@pytest.mark.parametrize("kind", ["abstain", "out of scope", "not analysed"])
def test_absent_is_said_of_nothing_that_was_not_assessed(kind: str) -> None:
    assert all(finding.presence is not Presence.ABSENT for finding in findings(film_result(kind), MODEL))
    assert "absent" not in impression(study(kind))
    assert any(word in impression(study(kind)) for word in ("Undetermined", "Not assessed", "Not analysed"))


def test_the_lower_threshold_decides() -> None:
    def point(name: str, threshold: float, label: str = "a") -> Point:
        return Point(name, label, threshold, True, {}, {})

    points = (point("youden", 0.6), point("sensitivity_0.95", 0.4), point("specificity_0.95", 0.1))
    assert deciding_point("a", points) == points[1]
    assert deciding_point("b", points) is None


@pytest.mark.parametrize("grade", ["weak", "failed", ""])
def test_no_region_without_the_grade(grade: str) -> None:
    assert not any(finding.region for finding in findings(film_result("present"), graded(grade)))


def test_region_is_where_the_map_is_hot() -> None:
    one = film_result("present")
    assert one.prediction is not None
    heat = native_map(one.prediction)
    points = np.array(locate(one.prediction, "PNEUMONIA", one.source))
    assert tuple(points[0]) == tuple(points[-1])
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    assert points[:, 0].min() < column < points[:, 0].max()
    assert points[:, 1].min() < row < points[:, 1].max()
    # The second, smaller hot place in a corner is not part of it.
    assert points[:, 0].max() < 0.6 * one.source.columns
    inside = heat[int(points[:, 1].mean()), int(points[:, 0].mean())]
    assert inside > 127


@given(st.integers(1, 8), st.integers(2, 9), st.integers(2, 9), st.integers(0, 8), st.integers(0, 8))
def test_region_is_in_the_stored_matrix(code: int, rows: int, columns: int, row: int, column: int) -> None:
    row, column = row % rows, column % columns
    matrix: npt.NDArray[np.uint8] = np.zeros((rows, columns), np.uint8)
    matrix[row, column] = 1
    shown_row, shown_column = np.argwhere(orient(matrix, code))[0]
    source = SourceImage(
        "1.2", "1.2", "1.2", film_result("present").source.patient, film_result("present").source.order,
        rows, columns, code,
    )  # fmt: skip
    middle = to_stored(np.array([[shown_column + 0.5, shown_row + 0.5]]), source)
    assert middle.tolist() == [[column + 0.5, row + 0.5]]


@pytest.mark.parametrize("directions", [["L", "F"], ["R", "F"], ["R", "H"], ["L", "H"], ["A", "F"], ["P"], None])
def test_orientation_is_the_readers(directions: list[str] | None) -> None:
    data = dicom(PatientOrientation=directions)
    assert source_of(pydicom.dcmread(io.BytesIO(data))).orientation == read(data).orientation


def test_source_of_a_real_film() -> None:
    _, source = of(rg1())
    assert (source.rows, source.columns, source.modality) == (1955, 1841, "CR")
    assert source.spacing_mm is None  # the header says 0.000
    assert source.order.timezone == "-0400"
    assert source.patient.birth_date == "19400305"
    for word in ("RG1", "9RG1", "1940", "ward"):
        assert word not in repr(source)
        assert word not in repr(study(file=rg1()))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"StudyInstanceUID": None}, "study_instance_uid"),
        ({"SOPInstanceUID": "../../etc/passwd"}, "sop_instance_uid"),
        ({"PatientID": "9" * 65}, "PatientID of at most 64"),
        ({"AccessionNumber": "A" * 17}, "AccessionNumber of at most 16"),
    ],
)
def test_objects_that_no_result_can_refer_to(values: dict[str, str | None], said: str) -> None:
    ds = pydicom.dcmread(io.BytesIO(dicom()))
    with pydicom.config.disable_value_validation():
        for keyword, value in values.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)
        with pytest.raises(InputError, match=said) as caught:
            source_of(ds)
    assert not any(value and value in str(caught.value) for value in values.values())


def test_results_are_checked() -> None:
    one = film_result("present")
    with pytest.raises(ValueError, match="a time zone"):
        StudyResult((one,), MODEL, AT.replace(tzinfo=None), "0.1.0")
    with pytest.raises(ValueError, match="comes twice"):
        StudyResult((one, one), MODEL, AT, "0.1.0")
    with pytest.raises(ValueError, match="several Study Instance UIDs"):
        StudyResult((one, film_result("present", dicom())), MODEL, AT, "0.1.0")
    with pytest.raises(ValueError, match="either a prediction or a reason"):
        FilmResult(one.source)
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        replace(MODEL, sha256="x")


def test_identifiers_change_with_what_they_name() -> None:
    one = study()
    assert one.identify("sr") == study().identify("sr")
    others = {
        study("not analysed").identify("sr"),
        study(model=replace(MODEL, sha256="cd" * 32)).identify("sr"),
        two_films().identify("sr"),
        one.identify("sc"),
    }
    assert len(others | {one.identify("sr")}) == 5


def test_sentences_say_why() -> None:
    film, source = of(phantom())
    refused = FilmResult(source, stored(film, status=Status.ERROR))
    assert sentences(refused, MODEL) == ("Not analysed: no reason is known.",)
    assert sentences(film_result("out of scope"), MODEL)[0] == (
        "Not assessed, out of scope: the patient is older than 18 years."
    )
    assert "Film 2: Not analysed: body part PELVIS" in impression(two_films())
