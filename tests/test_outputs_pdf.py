"""Results in words, and the report: read back by pypdf, drawn by poppler, both strangers to what wrote it."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pypdf import PdfReader

from rentgen.engine import gate
from rentgen.errors import MissingExtraError
from rentgen.images.overlay import overlay
from rentgen.images.phantom import Finding, Phantom, draw
from rentgen.outputs import pdf, wording
from rentgen.outputs.pdf import FilmReport, StudyReport, report_pdf
from rentgen.outputs.wording import Language, class_name, deciding_point, fill, percent, reason_words, result_words
from rentgen.records import Domain, Radiograph, Scope, Status, UInt8
from rentgen.records.studies import Feedback, Point, StoredImage, StoredPrediction, Urgency

AT = datetime(2026, 1, 2, 8, 5, tzinfo=UTC)
FILE_NAME = "SHEVCHENKO_TARAS_1814.dcm"
STUDY = "Qk7mZr2nT5vXw8yAaBbCc"
LANGUAGES = list(Language)
FIGURE = {"value": 0.951, "low": 0.928, "high": 0.972}
ALL = {"value": 1.0, "low": 1.0, "high": 1.0}
UNKNOWN = {"value": None, "low": None, "high": None}


def points(probability: float, label: str = "PNEUMONIA") -> tuple[Point, ...]:
    return (
        Point("youden", label, 0.426, probability >= 0.426, {"value": 0.974, "low": 0.956, "high": 0.989}, FIGURE),
        Point("sensitivity_0.95", label, 0.804, probability >= 0.804, FIGURE, ALL),
        Point("specificity_0.95", label, 0.122, probability >= 0.122, UNKNOWN, FIGURE),
    )


def prediction(probability: float = 0.873, status: Status = Status.OK, **more: Any) -> StoredPrediction:  # noqa: ANN401
    values: dict[str, Any] = {
        "prediction_id": "p1",
        "image_id": "i1",
        "bundle_id": "4f" * 32,
        "model": "pneumonia",
        "created_at": AT,
        "status": status,
        "label": "PNEUMONIA" if probability >= 0.5 else "NORMAL",
        "probabilities": {"NORMAL": 1 - probability, "PNEUMONIA": probability},
        "reasons": (),
        "prediction_set": ("PNEUMONIA",),
        "distance": 0.4,
        "points": points(probability),
        "urgency": Urgency.URGENT,
        "score": probability,
        "precision": "f32",
    }
    return StoredPrediction(**values | more)


def image() -> StoredImage:
    return StoredImage(
        "i1", STUDY, "ab" * 32, "cd" * 32, FILE_NAME, "dicom", 1200, 1000, 12, None, "DX", "CHEST", "PA", (), AT
    )


@cache
def phantom() -> Phantom:
    return draw(Finding.CONSOLIDATION, np.random.default_rng(3))


@cache
def picture() -> UInt8:
    return overlay(phantom().pixels, phantom().mask.astype(np.float32))


def report(*films: FilmReport, language: Language = Language.EN, **more: Any) -> StudyReport:  # noqa: ANN401
    return StudyReport(
        STUDY, AT, None, films or (FilmReport(image(), prediction(), picture(), "PNEUMONIA"),), language, **more
    )


def text_of(made: bytes) -> list[str]:
    """Return each page's text on one line."""
    return [" ".join(page.extract_text().split()) for page in PdfReader(io.BytesIO(made)).pages]


def squeezed(text: str) -> str:
    return " ".join(text.split())


# Words


def test_a_result_is_said_in_the_language_of_a_reading_room() -> None:
    assert [squeezed(line) for line in result_words(prediction()).lines()] == [
        "Pneumonia: probability 87 % (calibrated).",
        "At the operating point “balanced (Youden)” (from 42.6 %) this film counts as positive for Pneumonia.",
        "There the model found 97 % (96–99 %) of the films with Pneumonia and called 5 % (3–7 %) of the films "  # noqa: RUF001
        "without it positive.",
        "Measured on the films on which this point was chosen; on other films it may be worse.",
        "The only class that cannot be ruled out: Pneumonia.",
    ]


def test_the_same_in_ukrainian() -> None:
    assert [squeezed(line) for line in result_words(prediction(0.2), "uk").lines()][:2] == [
        "Норма: ймовірність 80 % (калібрована).",
        "У робочій точці «збалансована (Юден)» (від 42,6 %) цей знімок вважається негативним для класу «Пневмонія».",  # noqa: RUF001
    ]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("status", [Status.OUT_OF_SCOPE, Status.ABSTAIN, Status.ERROR])
def test_doubt_comes_before_any_class_and_hides_the_operating_point(status: Status, language: Language) -> None:
    doubtful = prediction(
        status=status, reasons=("unlike the films that taught the model (distance 3.1, at most 1.1)",)
    )
    if status is Status.ERROR:
        doubtful = replace(doubtful, label=None, probabilities={}, points=())
    lines = result_words(doubtful, language).lines()
    assert lines[0] == wording.words(language)["doubt"][status]
    assert "3.1" in lines[1]
    named = [place for place, line in enumerate(lines) if class_name("PNEUMONIA", language) in line]
    assert all(place > 1 for place in named)
    assert "42" not in "".join(lines)


def test_what_was_measured_without_a_miss_is_not_called_certain() -> None:
    perfect = (Point("youden", "PNEUMONIA", 0.5, True, ALL, ALL),)
    told = " ".join(result_words(prediction(points=perfect)).sentences)
    assert "found each of the measured films with Pneumonia and called none of the measured films without it" in told
    assert "100" not in told


def test_what_was_not_measured_is_not_said() -> None:
    bare = (Point("youden", "PNEUMONIA", 0.5, True, UNKNOWN, FIGURE),)
    assert len(result_words(prediction(points=bare, prediction_set=())).sentences) == 2
    assert len(result_words(prediction(points=(), prediction_set=())).sentences) == 1
    assert "no probability" in result_words(prediction(), calibrated=False).sentences[0]


def test_the_point_is_of_the_named_class_or_of_the_finding_that_is_nearest() -> None:
    several = (*points(0.1, "effusion"), *points(0.3, "nodule"), *points(0.6, "normal"))
    scores = {"normal": 0.6, "effusion": 0.1, "nodule": 0.3}
    chosen = deciding_point(prediction(points=several, probabilities=scores, label="normal"))
    assert chosen is not None
    assert (chosen.name, chosen.label) == ("youden", "nodule")
    chosen = deciding_point(prediction(points=several, probabilities=scores, label="effusion"))
    assert chosen is not None
    assert chosen.label == "effusion"
    assert deciding_point(prediction(points=())) is None


@pytest.mark.parametrize(
    ("share", "digits", "shown"),
    [(0.873, 0, "87 %"), (0.9999, 0, "> 99 %"), (1.0, 0, "100 %"), (0.001, 0, "< 1 %"), (0.0, 0, "0 %"),
     (0.9996, 1, "> 99.9 %")],
)  # fmt: skip
def test_nearly_all_is_not_all(share: float, digits: int, shown: str) -> None:
    assert squeezed(percent(share, "en", digits)) == shown
    assert squeezed(percent(share, "uk", digits)) == shown.replace(".", ",")


def test_a_value_with_braces_is_no_placeholder() -> None:
    assert fill("{label} {share} {what}", label="{share}", share="5") == "{share} 5 {what}"


def test_a_language_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="'de' is not a valid Language"):
        result_words(prediction(), "de")


def shape(value: Any) -> Any:  # noqa: ANN401
    """Return the keys and placeholders of a table."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    return sorted(re.findall(r"\{\w+\}", value)) if isinstance(value, str) else None


def test_both_languages_have_the_same_words_with_the_same_placeholders() -> None:
    table = json.loads((Path(wording.__file__).parent / "words.json").read_text("utf-8"))
    english, ukrainian = (
        {key: value for key, value in table[name].items() if key != "reasons"} for name in ("en", "uk")
    )
    del english["report"]["date"], ukrainian["report"]["date"]  # another order
    assert shape(english) == shape(ukrainian)


def every_reason() -> list[str]:
    """Return every reason that the gate can give, as it gives them."""
    source = Path(gate.__file__).read_text("utf-8")
    rules = source[source.index("rules = (") : source.index("return next((")]
    fixed = [
        text.replace("{_NOT}", "not a radiograph:").replace("{pure:.0%}", "71%")
        for text in re.findall(r'f?"([^"]+)"\)?,\n', rules)
    ]
    tiny = Radiograph(np.zeros((20, 30), np.uint8), "", "png", 8, notes=("in colour",))
    stray = replace(tiny, modality="MR", body_part_examined="KNEE", view_position="LL", patient_age_years=70.0)
    child = Scope(("DX",), ("CHEST",), ("PA",), 80.0, 18.0)
    return [
        *fixed,
        *gate.check_film(tiny),
        *gate.check_scope(stray, child),
        *gate.check_distance(2.0, Domain(1.0, 0.96, 100)),
        "the model does not know: at 95% coverage it may be NORMAL or PNEUMONIA",
        "the model does not know: at 95% coverage no class is probable enough",
    ]


def test_every_reason_of_the_gate_has_a_translation() -> None:
    reasons = every_reason()
    assert len(reasons) == 20
    for reason in reasons:
        told = reason_words(reason, "uk")
        assert re.search("[а-яіїє]", told), reason  # noqa: RUF001
        assert "{" not in told
        assert not re.search(r"[a-z]{3,}", told), reason
        assert reason_words(reason, "en") == reason
    assert reason_words("the file is empty", "uk") == "the file is empty"


# Report


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_film_is_a_page_with_all_that_is_known(language: Language) -> None:
    said = Feedback("f1", "i1", "p1", False, "NORMAL", "Only a rotated film.", "O. Levchenko", AT)
    film = FilmReport(image(), prediction(), picture(), "PNEUMONIA", (said,), limits=("Adults: never.",))
    gone = FilmReport(image(), prediction(0.2), None)
    pages = text_of(report_pdf(report(film, gone, language=language)))
    assert len(pages) == 2
    table = wording.words(language)
    for page in pages:
        assert table["disclaimer"] in page
    for sentence in result_words(prediction(), language).sentences:
        assert squeezed(sentence) in pages[0]
    for known in ("4f4f4f4f4f4f", "pneumonia", "Only a rotated film.", "O. Levchenko", "Adults: never.", STUDY[:12]):
        assert known in pages[0]
    assert squeezed(percent(0.951, language, 1))[:4] in pages[0]
    assert table["no_film"] in pages[1]
    assert fill(table["report"]["page_of"], number="2", count="2") in pages[1]
    assert {"en": "2026-01-02 08:05 UTC", "uk": "02.01.2026 08:05 UTC"}[language] in pages[0]


@pytest.mark.parametrize("language", LANGUAGES)
def test_on_the_page_too_doubt_stands_before_any_class(language: Language) -> None:
    reason = "outside the intended use: the patient is older than 18 years"
    doubtful = prediction(status=Status.OUT_OF_SCOPE, reasons=(reason,))
    (page,) = text_of(report_pdf(report(FilmReport(image(), doubtful, picture(), "PNEUMONIA"), language=language)))
    doubt = page.index(squeezed(wording.words(language)["doubt"]["out_of_scope"]))
    because = page.index(squeezed(reason_words(reason, language)))
    assert doubt < because < page.index(class_name("PNEUMONIA", language))
    assert wording.words(language)["report"]["points"] not in page


def test_no_name_of_a_file_or_patient_unless_it_is_given() -> None:
    made = report_pdf(report())
    assert "SHEVCHENKO" not in "".join(text_of(made))
    assert b"SHEVCHENKO" not in made
    assert "Шевченко" in text_of(report_pdf(report(patient="Шевченко")))[0]
    assert "Шевченко" not in repr(report(patient="Шевченко"))


def test_the_file_says_its_title_and_language_and_embeds_every_font() -> None:
    reader = PdfReader(io.BytesIO(report_pdf(report(language=Language.UK))))
    catalog: Any = reader.trailer["/Root"]
    assert catalog["/Lang"] == "uk"
    assert catalog["/ViewerPreferences"]["/DisplayDocTitle"]
    assert reader.metadata is not None
    assert reader.metadata.title == f"Звіт про рентгенівський знімок {STUDY[:12]}"
    assert reader.metadata.subject == wording.words("uk")["disclaimer"]
    fonts: Any = reader.pages[0]["/Resources"]["/Font"]  # type: ignore[index]
    assert fonts
    for font in fonts.values():
        assert "/FontFile2" in font.get_object()["/FontDescriptor"]


def test_the_same_report_gives_the_same_bytes_from_any_thread() -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(report_pdf, [report() for _ in range(4)]))
    assert len({*made, report_pdf(report())}) == 1


def test_text_from_outside_is_text() -> None:
    hostile = "<b>bold</b> & <img src='file:///etc/passwd'/> 右下 {label} \x00\x07"
    said = Feedback("f1", "i1", "p1", False, None, hostile, "<font size='99'>x</font>", AT)
    (page,) = text_of(report_pdf(report(FilmReport(image(), prediction(), None, None, (said,)))))
    assert "<b>bold</b> & <img src='file:///etc/passwd'/> �� {label}" in page
    assert "<font size='99'>x</font>" in page


def test_much_text_and_many_classes_flow_to_another_page() -> None:
    scores = {f"class {number}": 1 / 60 for number in range(60)}
    several = tuple(Point("youden", label, 0.5, False, FIGURE, FIGURE) for label in scores)
    said = tuple(Feedback("f", "i1", None, True, None, "word " * 400, "x" * 300, AT) for _ in range(6))
    film = FilmReport(
        image(), prediction(probabilities=scores, points=several, prediction_set=tuple(scores)), None, None, said
    )
    pages = text_of(report_pdf(report(film)))
    assert len(pages) > 2
    assert f"page {len(pages)} of {len(pages)}" in pages[-1]
    assert all("Not a medical device" in page for page in pages)


def test_a_film_without_an_answer_and_one_that_could_not_be_read_have_a_page_too() -> None:
    broken = replace(image(), rows=None, columns=None, modality=None, body_part_examined=None, view_position=None)
    refused = prediction(status=Status.ERROR, label=None, probabilities={}, points=(), reasons=("the file is empty",))
    first, second = text_of(report_pdf(report(FilmReport(image(), None), FilmReport(broken, refused))))
    assert "No model has answered for this film." in first
    assert "No result: the file could not be read as a film. Because: – the file is empty" in second  # noqa: RUF001


def test_a_report_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected a report of at least one film, but got none"):
        StudyReport(STUDY, AT, None, ())


def test_without_reportlab_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "reportlab"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "reportlab", None)
    with pytest.raises(MissingExtraError, match=r"the PDF report needs reportlab.*rentgen\[service\]"):
        report_pdf(report())


@pytest.mark.skipif(shutil.which("pdftoppm") is None, reason="needs Debian's poppler-utils")
def test_the_film_on_the_page_is_the_film(tmp_path: Path) -> None:
    (tmp_path / "report.pdf").write_bytes(report_pdf(report(FilmReport(image(), prediction(), phantom().pixels))))
    subprocess.run(
        ["pdftoppm", "-r", "150", "-png", "report.pdf", "page"], cwd=tmp_path, check=True, capture_output=True
    )
    with Image.open(tmp_path / "page-1.png") as drawn:
        page = np.asarray(drawn.convert("L"), np.float64)
    left = round(pdf._MARGIN * 150 / 72)
    width, height = (round(side * 150 / 72) for side in pdf._fitted(phantom().pixels))
    # The picture is where rows are dark all across; the rule below the title is too thin.
    dark = (page[:, left + 10 : left + width - 10] < 240).mean(axis=1) > 0.97
    top = next(row for row in range(len(page)) if dark[row : row + 50].all())
    found = page[top + 2 : top + height - 2, left + 2 : left + width - 2]
    film = Image.fromarray((phantom().pixels >> 8).astype(np.uint8)).resize(found.shape[::-1], Image.Resampling.BOX)
    alike = [
        np.corrcoef(found.ravel(), other.ravel())[0, 1]
        for other in (np.asarray(film, np.float64), np.asarray(film, np.float64)[:, ::-1])
    ]
    assert alike[0] > 0.95
    assert alike[1] < 0.9  # left is left
