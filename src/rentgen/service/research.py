"""For the researcher: training reports, two models compared on a set, and feedback as a set to train on."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from fastapi import APIRouter
from fastapi import Path as PathParameter
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from rentgen.errors import SettingError
from rentgen.outputs.deidentify.burned_in import Tesseract
from rentgen.service.api import Admin, Physician, Reader
from rentgen.service.cloud import DeskOf
from rentgen.service.headers import REPORT_POLICY
from rentgen.service.packing import pack_feedback
from rentgen.service.problems import Problem, responses
from rentgen.service.schemas import Shape
from rentgen.settings import Settings

logger = logging.getLogger(__name__)
router = APIRouter(prefix="/v1", tags=["research"])

MAX_REPORT_BYTES = 64_000_000
Word = Annotated[str, PathParameter(max_length=200)]


class ComparisonIn(Shape):
    """Which models to compare on which set."""

    old: str
    new: str
    set: str


class ComparisonOut(Shape):
    """How far a comparison is, and what came out."""

    id: str
    old: str
    new: str
    set: str
    state: Literal["waiting", "running", "done", "failed"]
    done: int
    total: int
    result: dict[str, Any] | None
    error: str | None


def parse_sets(settings: Settings) -> dict[str, Path]:
    """Return name to place of the sets that the operator offers.

    Raises:
        SettingError: one is not of the form NAME=PATH, or is not there.
    """
    sets = {}
    for text in settings.sets:
        name, equals, place = text.partition("=")
        if not (name and equals and Path(place).exists()):
            raise SettingError(f"Expected a set as NAME=PATH of a folder or a CSV that is there, but got {text!r}.")
        sets[name] = Path(place)
    return sets


def check_offers(settings: Settings) -> None:
    """Refuse sets and a folder of reports that are not there, before anyone asks for them.

    Raises:
        SettingError: one is not there.
    """
    parse_sets(settings)
    if settings.reports is not None and not settings.reports.is_dir():
        raise SettingError("Expected a folder of training reports, but `reports` names none that is there.")


def find_reports(folder: Path | None) -> dict[str, Path]:
    """Return name to folder of the reports that lie in a folder, or are it."""
    if folder is None or not folder.is_dir():
        return {}
    found = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    return {path.name: path for path in found if (path / "report.html").is_file()}


@router.get("/sets", summary="Sets of films to compare models on")
async def sets(desk: DeskOf, _: Reader) -> Response:
    """Return their names; `serve --set NAME=PATH` offers them."""
    return JSONResponse({"sets": [{"name": name} for name in parse_sets(desk.settings)]})


@router.post(
    "/comparisons",
    summary="Compare two models on a set",
    status_code=202,
    response_model=ComparisonOut,
    responses=responses("not_found", "busy", "loading"),
)
async def begin_comparison(desk: DeskOf, who: Physician, body: ComparisonIn) -> Response:
    """Return the comparison as it begins; ask for it by its id."""
    offered = parse_sets(desk.settings)
    if body.set not in offered:
        raise Problem(404, "not_found", f"There is no such set; there are {', '.join(offered) or 'none'}.")
    _, old = desk.models.predictor(body.old)
    _, new = desk.models.predictor(body.new)
    if set(old.card.classes) != set(new.card.classes):
        raise Problem(422, "invalid_request", "Expected two models with the same classes, but got different ones.")
    begun = desk.comparisons.begin(body.old, body.new, body.set)
    threading.Thread(
        target=desk.comparisons.run, args=(begun, old, new, offered[body.set]), name="comparison", daemon=True
    ).start()
    return JSONResponse(begun.to_dict(), 202)


@router.get(
    "/comparisons/{number}", summary="A comparison", response_model=ComparisonOut, responses=responses("not_found")
)
async def get_comparison(desk: DeskOf, _: Reader, number: Word) -> Response:
    """Return how far it is; `result` is what `rentgen compare --json` gives."""
    return JSONResponse(desk.comparisons.get(number).to_dict())


@router.get("/reports", summary="Training reports")
async def reports(desk: DeskOf, _: Reader) -> Response:
    """Return those in the folder that `serve --reports` names."""
    found = await asyncio.to_thread(find_reports, desk.settings.reports)
    return JSONResponse({"reports": [await asyncio.to_thread(_summary, name, path) for name, path in found.items()]})


def _summary(name: str, folder: Path) -> dict[str, Any]:
    """Return what the list shows of a report; figures where its JSON has them."""
    row: dict[str, Any] = {"name": name, "title": name, "accuracy": None, "auroc": None}
    path = folder / "report.json"
    try:
        if path.stat().st_size <= MAX_REPORT_BYTES:
            content = json.loads(path.read_bytes())
            card = content.get("card") or {}
            measured = content.get("test") or card.get("test") or card.get("validation") or {}
            row |= {"title": card.get("name") or name, **{key: measured.get(key) for key in ("accuracy", "auroc")}}
    except (OSError, ValueError, AttributeError):
        logger.warning("A report's JSON could not be read.")
    return row


@router.get(
    "/reports/{name}",
    summary="A training report, as a page",
    response_class=HTMLResponse,
    responses=responses("not_found"),
)
async def report(desk: DeskOf, _: Reader, name: Word) -> Response:
    """Return the page; it needs nothing else and runs nothing."""
    found = await asyncio.to_thread(find_reports, desk.settings.reports)
    if name not in found:
        raise Problem(404, "not_found", "There is no such report.")
    page = found[name] / "report.html"
    if page.stat().st_size > MAX_REPORT_BYTES:
        raise Problem(404, "not_found", "The report is too large to be shown here; open its file.")
    content = await asyncio.to_thread(page.read_text, encoding="utf-8")
    return HTMLResponse(content, headers={"Content-Security-Policy": REPORT_POLICY})


@router.get(
    "/feedback/export",
    summary="Feedback as a set that `rentgen train` reads",
    response_class=Response,
    responses={200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def export_feedback(desk: DeskOf, who: Admin) -> Response:
    """Return a zip: `feedback.csv` and, where films are kept, the films as PNG: pixels only, no header, no names.

    A film in whose picture words may stand is held back, and listed in `held-back.csv`: by its DICOM header and, where
    tesseract is installed, by reading it. Where it is not, look at the films before you hand them on.
    """
    store = desk.kept()
    await asyncio.to_thread(store.audit, who, "feedback.export", "all")
    found = await asyncio.to_thread(Tesseract.find)
    look = None if found is None else found.count_words
    file = await asyncio.to_thread(pack_feedback, store, desk.limits, look)
    return StreamingResponse(
        _chunks(file),
        media_type="application/zip",
        headers={"Content-Disposition": 'attachment; filename="feedback.zip"'},
    )


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(1 << 16):
            yield chunk
