"""A study's report as PDF: a page for each film, doubts before any class, the disclaimer on every page.

The same report gives the same bytes. Fonts are embedded, title and language are set. It shows what it is given: no name
of a patient unless one is given, and no name of a file, which may be a patient's.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from PIL import Image

from rentgen.errors import MissingExtraError
from rentgen.images.overlay import thumbnail
from rentgen.outputs.wording import (
    Language,
    ResultWords,
    class_name,
    feedback_words,
    fill,
    percent,
    point_name,
    result_words,
    words,
)
from rentgen.records import Pixels, Status
from rentgen.records.studies import Feedback, Point, StoredImage, StoredPrediction

if TYPE_CHECKING:
    from reportlab.pdfgen.canvas import Canvas
    from reportlab.platypus import Flowable, Paragraph, Table

REGULAR, BOLD = "RentgenSans", "RentgenSans-Bold"
PICTURE_PIXELS = 1200
"""Longer side of the picture in the report: twice what the page's size shows at 150 dpi."""
MAX_COMMENT = 2000
MAX_LIMITS = 6
MAX_CLASSES = 10
"""The most probable ones are listed."""
MAX_PATIENT = 200

_INK, _QUIET, _LINE = "#16181d", "#5b6270", "#c9ced6"
_DOUBT_FILL, _DOUBT_EDGE = "#fff4d6", "#b7791f"
_PAGE_WIDTH, _PAGE_HEIGHT = 595.28, 841.89  # A4, points
_MARGIN, _TOP, _BOTTOM = 45.0, 62.0, 54.0
_WIDTH = _PAGE_WIDTH - 2 * _MARGIN
_PICTURE_WIDTH, _PICTURE_HEIGHT = 265.0, 300.0
_GAP = 14.0
_fonts_lock = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False)
class FilmReport:
    """A film's page.

    Attributes:
        image: the film.
        prediction: the answer that the page is about; None where there is none.
        picture: (rows, columns) or (rows, columns, 3), the film as it shall be shown; None where it is gone.
        heat_label: the class whose heat map lies over the picture; None for a bare film.
        feedback: on this film, newest first.
        calibrated: whether the model's numbers are probabilities.
        limits: of the model, from its card, in words.
    """

    image: StoredImage
    prediction: StoredPrediction | None
    picture: Pixels | None = field(default=None, repr=False)
    heat_label: str | None = None
    feedback: tuple[Feedback, ...] = ()
    calibrated: bool = True
    limits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class StudyReport:
    """What a report shows.

    Attributes:
        study_id: opaque.
        received_at: when the study's first film came, UTC.
        read_at: when a physician was done with it, UTC; None for one that waits.
        films: at least one.
        language: `en` or `uk`.
        patient: name or number to print; nothing where None.
    """

    study_id: str
    received_at: datetime
    read_at: datetime | None
    films: tuple[FilmReport, ...]
    language: Language = Language.EN
    patient: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.films:
            raise ValueError("Expected a report of at least one film, but got none.")
        object.__setattr__(self, "language", Language(self.language))


def report_pdf(report: StudyReport) -> bytes:
    """Return the report as a PDF file. Safe from any thread.

    Raises:
        MissingExtraError: reportlab is not installed.
    """
    _register_fonts()
    # Once without pictures, to know how many pages there are: "page 1 of 3" tells that none is missing.
    pages, _ = _build(report, 0, with_pictures=False)
    return _build(report, pages, with_pictures=True)[1]


def _register_fonts() -> None:
    try:
        from reportlab.pdfbase import pdfmetrics
        from reportlab.pdfbase.ttfonts import TTFont
    except ModuleNotFoundError as error:
        raise MissingExtraError("reportlab", "service", "the PDF report") from error
    # reportlab brings no Cyrillic, and a report must look the same on every machine: a font from a package.
    folder = _font_folder()
    with _fonts_lock:
        if BOLD in pdfmetrics.getRegisteredFontNames():
            return
        for name, file in ((REGULAR, "Roboto-Regular.ttf"), (BOLD, "Roboto-Bold.ttf")):
            pdfmetrics.registerFont(TTFont(name, io.BytesIO(folder.joinpath(file).read_bytes())))
        pdfmetrics.registerFontFamily(REGULAR, normal=REGULAR, bold=BOLD, italic=REGULAR, boldItalic=BOLD)


def _font_folder() -> Traversable:
    try:
        return files("font_roboto").joinpath("files")
    except ModuleNotFoundError as error:
        raise MissingExtraError("font_roboto", "service", "the PDF report") from error


def _build(report: StudyReport, pages: int, *, with_pictures: bool) -> tuple[int, bytes]:
    from reportlab.platypus import BaseDocTemplate, Frame, PageBreak, PageTemplate

    table = words(report.language)
    stream = io.BytesIO()
    document = BaseDocTemplate(
        stream,
        pagesize=(_PAGE_WIDTH, _PAGE_HEIGHT),
        title=f"{table['report']['title']} {report.study_id[:12]}",
        author="Rentgen",
        subject=table["disclaimer"],
        creator="Rentgen",
        lang=str(report.language),
        displayDocTitle=True,
        initialFontName=REGULAR,
        invariant=1,
    )
    height = _PAGE_HEIGHT - _TOP - _BOTTOM
    frame = Frame(_MARGIN, _BOTTOM, _WIDTH, height, leftPadding=0, rightPadding=0, topPadding=0, bottomPadding=0)

    def edge(canvas: Canvas, built: Any) -> None:  # noqa: ANN401
        _draw_edges(canvas, report, built.page, pages)

    document.addPageTemplates(PageTemplate("film", [frame], onPage=edge))
    story: list[Flowable] = []
    for number, film in enumerate(report.films, 1):
        story += [PageBreak()] if story else []
        story += _film_page(report, film, number, with_pictures=with_pictures)
    document.build(story)
    return document.page, stream.getvalue()


def _draw_edges(canvas: Canvas, report: StudyReport, page: int, pages: int) -> None:
    table = words(report.language)
    top = _PAGE_HEIGHT - 40
    canvas.setFillColor(_INK)
    canvas.setFont(BOLD, 13)
    canvas.drawString(_MARGIN, top, table["report"]["title"])
    canvas.setFont(REGULAR, 8)
    canvas.setFillColor(_QUIET)
    count = fill(table["report"]["page_of"], number=str(page), count=str(pages))
    canvas.drawRightString(_PAGE_WIDTH - _MARGIN, top, f"Rentgen · {report.study_id[:12]} · {count}")
    canvas.setStrokeColor(_LINE)
    canvas.setLineWidth(0.7)
    canvas.line(_MARGIN, top - 9, _PAGE_WIDTH - _MARGIN, top - 9)
    canvas.line(_MARGIN, _BOTTOM - 8, _PAGE_WIDTH - _MARGIN, _BOTTOM - 8)
    canvas.setFont(BOLD, 8)
    canvas.setFillColor(_INK)
    canvas.drawString(_MARGIN, _BOTTOM - 20, table["disclaimer"])


def _film_page(report: StudyReport, film: FilmReport, number: int, *, with_pictures: bool) -> list[Flowable]:
    from reportlab.platypus import Spacer

    language, prediction = report.language, film.prediction
    table = words(language)
    story: list[Flowable] = [_particulars(report, film, number), Spacer(1, 8)]
    if prediction is None:
        told = ResultWords("", table["report"]["no_prediction"], (), ())
    else:
        told = result_words(prediction, language, calibrated=film.calibrated)
    if told.doubt:
        story += [_doubt_box(told, table), Spacer(1, 8)]
    story += [_picture_and_words(film, told, language, with_pictures=with_pictures), Spacer(1, 8)]
    if prediction is not None and prediction.status is Status.OK and prediction.points:
        story += [_heading(table["report"]["points"]), _points_table(prediction.points, language), Spacer(1, 8)]
    story += [_heading(table["report"]["feedback"]), *_feedback(film, language), Spacer(1, 8)]
    if film.limits:
        story += [_heading(table["report"]["limits"])]
        story += [_text(f"– {limit}", 7.5, _QUIET) for limit in film.limits[:MAX_LIMITS]]  # noqa: RUF001
    return story


def _particulars(report: StudyReport, film: FilmReport, number: int) -> Table:
    language = report.language
    names = words(language)["report"]
    image, prediction = film.image, film.prediction
    size = "" if image.rows is None else f" · {image.columns} x {image.rows}"
    kind = " · ".join(part for part in (image.modality, image.body_part_examined, image.view_position) if part)
    which = fill(names["film_of"], number=str(number), count=str(len(report.films)))
    read = names["not_read"] if report.read_at is None else _date(report.read_at, language)
    pairs = [
        (names["study"], report.study_id[:12]),
        (names["received"], _date(image.received_at, language)),
        (names["film"], f"{which}{size}{f' · {kind}' if kind else ''}"),
        (names["read"], read),
    ]
    if prediction is not None:
        pairs += [
            (names["model"], f"{prediction.model} ({names['bundle']} {prediction.bundle_id[:12]})"),
            (names["answered"], _date(prediction.created_at, language)),
        ]
    if report.patient is not None:
        pairs.insert(0, (names["patient"], report.patient[:MAX_PATIENT]))
        pairs.insert(1, ("", ""))
    cells = [_text(f"<font color='{_QUIET}'>{escape(name)}</font>&nbsp; {_safe(value)}", 8.5) for name, value in pairs]
    rows = [cells[at : at + 2] for at in range(0, len(cells), 2)]
    return _table(rows, [_WIDTH * 0.58, _WIDTH * 0.42], [("BOTTOMPADDING", (0, 0), (-1, -1), 1)])


def _doubt_box(told: ResultWords, table: Any) -> Table:  # noqa: ANN401
    lines = [_text(f"<b>{_safe(told.doubt)}</b>", 11)]
    if told.reasons:
        lines.append(_text(_safe(table["because"]), 9))
        lines += [_text(f"– {_safe(reason)}", 9) for reason in told.reasons]  # noqa: RUF001
    frame = [
        ("BACKGROUND", (0, 0), (-1, -1), _DOUBT_FILL),
        ("LINEBEFORE", (0, 0), (0, -1), 3, _DOUBT_EDGE),
        ("LEFTPADDING", (0, 0), (-1, -1), 10),
        ("RIGHTPADDING", (0, 0), (-1, -1), 10),
        ("TOPPADDING", (0, 0), (-1, 0), 7),
        ("BOTTOMPADDING", (0, -1), (-1, -1), 8),
    ]
    return _table([[line] for line in lines], [_WIDTH], frame)


def _picture_and_words(film: FilmReport, told: ResultWords, language: str, *, with_pictures: bool) -> Flowable:
    from reportlab.platypus import Spacer

    table = words(language)
    result: list[Flowable] = [_heading(told.status)] if told.status else []
    for place, sentence in enumerate(told.sentences):
        first = place == 0 and not told.doubt
        result.append(_text(f"<b>{_safe(sentence)}</b>" if first else _safe(sentence), 12 if first else 9))
        result.append(Spacer(1, 5))
    if film.prediction is not None and film.prediction.status is Status.OK and len(film.prediction.probabilities) > 1:
        result += [_heading(table["report"]["all_scores"]), *_scores(film.prediction, language)]
    caption = (
        table["no_film"]
        if film.picture is None
        else table["no_heat_map"]
        if film.heat_label is None
        else fill(table["heat_map"], label=class_name(film.heat_label, language))
    )
    under = _text(_safe(caption), 7.5, _QUIET)
    if film.picture is None:
        return _table([[under], [result]], [_WIDTH], [("BOTTOMPADDING", (0, 0), (0, 0), 6)])
    width, height = _fitted(film.picture)
    shown = _picture(film.picture, width, height) if with_pictures else Spacer(width, height)
    left = [shown, Spacer(1, 4), under]
    columns = [_PICTURE_WIDTH + _GAP, _WIDTH - _PICTURE_WIDTH - _GAP]
    return _table([[left, result]], columns, [("RIGHTPADDING", (0, 0), (0, 0), _GAP)])


def _fitted(picture: Pixels) -> tuple[float, float]:
    """Return width and height in points within the room for a picture, the aspect kept."""
    rows, columns = picture.shape[:2]
    scale = min(_PICTURE_WIDTH / columns, _PICTURE_HEIGHT / rows)
    return columns * scale, rows * scale


def _picture(picture: Pixels, width: float, height: float) -> Flowable:
    from reportlab.platypus import Image as Drawn

    stream = io.BytesIO()
    Image.fromarray(thumbnail(picture, PICTURE_PIXELS)).convert("RGB").save(stream, "PNG", compress_level=1)
    stream.seek(0)
    return Drawn(stream, width, height, hAlign="LEFT")


def _scores(prediction: StoredPrediction, language: str) -> list[Flowable]:
    ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])[:MAX_CLASSES]
    return [_text(f"{_safe(class_name(label, language))}: {percent(share, language, 1)}", 9) for label, share in ranked]


def _points_table(points: Sequence[Point], language: str) -> Table:
    names = words(language)["report"]
    head = [names[key] for key in ("point", "class", "from", "this_film", "sensitivity", "specificity")]
    rows = [[_text(f"<font color='{_QUIET}'>{escape(name)}</font>", 7.5) for name in head]]
    for point in points:
        side = names["plus" if point.positive else "minus"]
        cells = (
            escape(point_name(point.name, language)),
            _safe(class_name(point.label, language)),
            percent(point.threshold, language, 1),
            f"<b>{escape(side)}</b>" if point.positive else escape(side),
            _interval(point.sensitivity, language),
            _interval(point.specificity, language),
        )
        rows.append([_text(cell, 8) for cell in cells])
    shares = (0.19, 0.15, 0.13, 0.14, 0.195, 0.195)
    lines = [("LINEABOVE", (0, 1), (-1, -1), 0.5, _LINE), ("TOPPADDING", (0, 0), (-1, -1), 2)]
    return _table(rows, [_WIDTH * share for share in shares], [*lines, ("BOTTOMPADDING", (0, 0), (-1, -1), 3)])


def _interval(figure: Any, language: str) -> str:  # noqa: ANN401
    names = words(language)["report"]
    value, low, high = (figure.get(end) for end in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return str(names["unknown"])
    share, least, most = (percent(number, language, 1) for number in (value, low, high))
    # Where all were right, resampling finds no spread; that is no certainty.
    kind = "no_interval" if low == high else "interval"
    return escape(fill(names[kind], share=share, low=least[:-2], high=most[:-2]))


def _feedback(film: FilmReport, language: str) -> list[Flowable]:
    if not film.feedback:
        return [_text(escape(words(language)["report"]["no_feedback"]), 9, _QUIET)]
    lines: list[Flowable] = []
    for said in film.feedback:
        told, date = feedback_words(said, language, film.prediction), _date(said.created_at, language)
        lines.append(_text(f"{_safe(told)} <font color='{_QUIET}'>{date}</font>", 9))
        if said.comment:
            lines.append(_text(_safe(said.comment[:MAX_COMMENT]), 9))
    return lines


def _date(at: datetime, language: str) -> str:
    parts = at.astimezone(UTC).strftime("%Y %m %d %H %M").split()
    names = ("year", "month", "day", "hour", "minute")
    return fill(words(language)["report"]["date"], **dict(zip(names, parts, strict=True)))


def _heading(text: str) -> Paragraph:
    return _text(f"<b>{escape(text)}</b>", 9.5, before=2, after=3)


def _text(markup: str, size: float, colour: str = _INK, *, before: float = 0, after: float = 0) -> Paragraph:
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.platypus import Paragraph

    style = ParagraphStyle(
        "text",
        fontName=REGULAR,
        fontSize=size,
        leading=size * 1.35,
        textColor=colour,
        spaceBefore=before,
        spaceAfter=after,
        splitLongWords=1,
    )
    return Paragraph(markup, style)


def _table(rows: Sequence[Sequence[Any]], widths: Sequence[float], style: Sequence[tuple[Any, ...]]) -> Table:
    from reportlab.platypus import Table

    plain = [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        # An empty cell sets its font, too, and would bring one that is not embedded.
        ("FONTNAME", (0, 0), (-1, -1), REGULAR),
        *((side, (0, 0), (-1, -1), 0) for side in ("LEFTPADDING", "RIGHTPADDING", "TOPPADDING", "BOTTOMPADDING")),
    ]
    return Table([list(row) for row in rows], colWidths=list(widths), style=[*plain, *style], hAlign="LEFT")


def _safe(text: str) -> str:
    """Return text from outside as markup: nothing in it is a tag, and what the font cannot show is a mark."""
    known = _glyphs()
    shown = "".join(
        mark if ord(mark) in known else " " if mark.isspace() else "\N{REPLACEMENT CHARACTER}" for mark in text
    )
    return escape(shown)


def _glyphs() -> Any:  # noqa: ANN401
    from reportlab.pdfbase import pdfmetrics

    font: Any = pdfmetrics.getFont(REGULAR)
    return font.face.charToGlyph
