"""A process that decodes, answers and draws for the gateway, and can do nothing else: see `confine`.

It is started by `sandbox`, reads requests from standard input and writes answers to standard output, until there are
no more. Whatever it is that foreign bytes can do to a decoder, they do it here.
"""

from __future__ import annotations

import gc
import hashlib
import io
import os
import signal
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from pydicom import config, dcmread

from rentgen.engine.cache import default_folder
from rentgen.engine.predictor import Predictor
from rentgen.errors import InputError
from rentgen.gateway import confine
from rentgen.gateway.frames import Json, pack, unpack
from rentgen.gateway.readings import Reading, from_bytes, results, to_bytes
from rentgen.images.overlay import overlay
from rentgen.images.read import read
from rentgen.outputs.dicom_common import source_of
from rentgen.outputs.documents import Extras, documents
from rentgen.outputs.fhir import Systems
from rentgen.outputs.findings import PASSED
from rentgen.outputs.hl7 import Addresses
from rentgen.outputs.pdf import FilmReport, StudyReport, report_pdf
from rentgen.outputs.wording import Language
from rentgen.records import Pixels, Precision, Radiograph, Status
from rentgen.records.results import Document, Kind, ModelIdentity, SourceImage, StudyResult, is_finding
from rentgen.records.studies import StoredImage
from rentgen.workflow import analyse, describe, native_map

_REMEMBERED = 2
"""Films whose pixels are kept for the pictures that are drawn right after the answer."""
_REPORTED = frozenset({Kind.PDF, Kind.FHIR})
"""Documents that hold the PDF report."""
_DRAWN = _REPORTED | {Kind.SECONDARY_CAPTURE}
_DAMAGED = "the film was damaged after it arrived; send it again"
OUT_OF_MEMORY = 77
"""Exit code of a reader whose film wanted more memory than it may cost."""


class Reader:
    """Answers requests about films. Of one thread."""

    def __init__(self, models: Mapping[str, Predictor], *, film_cpu_s: float) -> None:
        self.models = {name: ModelIdentity.of(each.card, each.bundle.bundle_id) for name, each in models.items()}
        self._predictors = models
        self._film_cpu_s = film_cpu_s
        self._recent: OrderedDict[str, Pixels] = OrderedDict()

    def answer(self, request: Json) -> tuple[Json, Sequence[bytes]]:
        """Return the head and the blobs that answer a request.

        Raises:
            ValueError: nobody asks like this.
        """
        confine.bound_time(self._film_cpu_s)
        if request["ask"] == "read":
            reading = self._read(Path(request["path"]), request["hash"], request["model"], request["refused"])
            return {}, [to_bytes(reading)]
        if request["ask"] == "encode":
            made = self._encode(request)
            heads = [{"kind": d.kind, "media_type": d.media_type, "uid": d.uid, "name": d.name} for d in made]
            return {"documents": heads}, [document.content for document in made]
        if request["ask"] == "prove":
            return {"escapes": list(confine.escapes())}, []
        raise ValueError("Expected one of read, encode, prove.")

    def _read(self, path: Path, content_hash: str, model: str, refused: str) -> Reading:
        data, now, who = path.read_bytes(), datetime.now(UTC), self.models[model]
        try:
            source = _source_of(data)
        except InputError as error:
            return Reading(now, who, not_analysed=_reason(data, content_hash, error.reason))
        if refused:
            return Reading(now, who, source, not_analysed=refused)
        predictor = self._predictors[model]
        answer = analyse(data, predictor, maps=True)
        if answer.film is None:
            reason = "it cannot be read" if answer.error is None else answer.error.reason
            return Reading(now, who, source, not_analysed=_reason(data, content_hash, reason))
        if answer.film.content_hash != content_hash:
            return Reading(now, who, source, not_analysed=_DAMAGED)
        self._remember(content_hash, answer.film)
        stored = describe(
            answer.prediction,
            predictor.card,
            bundle_id=predictor.bundle.bundle_id,
            model=model,
            precision=str(predictor.session.precision),
        )
        return Reading(now, who, source, stored, film=answer.film.without_pixels())

    def _encode(self, request: Json) -> list[Document]:
        kinds = [Kind(each) for each in request["kinds"]]
        readings = [from_bytes(each.encode()) for each in request["readings"]]
        paths = [(Path(path), str(content_hash)) for path, content_hash in request["films"]]
        given = Extras(systems=Systems(**request["systems"]), addresses=Addresses(**request["addresses"]))
        pixels = {}
        if _DRAWN & set(kinds):
            pixels = {
                each.source.sop_instance_uid: self._pixels(*film)
                for each, film in zip(readings, paths, strict=True)
                if each.source is not None and each.film is not None
            }
        made: list[Document] = []
        for result in results(readings):
            extras = replace(given, pixels=pixels)
            if _REPORTED & set(kinds):
                extras = replace(extras, pdf=_pdf(result, readings, pixels, Language(request["language"])))
            made += documents(result, kinds, extras)
        return made

    def _pixels(self, path: Path, content_hash: str) -> Pixels:
        found = self._recent.get(content_hash)
        if found is None:
            film = read(path.read_bytes(), name="film")
            self._remember(content_hash, film)
            found = film.pixels
        return found

    def _remember(self, content_hash: str, film: Radiograph) -> None:
        self._recent[content_hash] = film.pixels
        while len(self._recent) > _REMEMBERED:
            self._recent.popitem(last=False)


def _reason(data: bytes, content_hash: str, reason: str) -> str:
    """Return why a film has no answer: what is wrong with it, or that it is not the one that was kept."""
    return reason if hashlib.sha256(data).hexdigest() == content_hash else _DAMAGED


def _source_of(data: bytes) -> SourceImage:
    """Return what documents need of a film.

    Raises:
        InputError: its header is damaged, or holds what no document can refer to.
    """
    try:
        # Values of foreign files are checked where they are taken.
        with config.disable_value_validation():
            return source_of(dcmread(io.BytesIO(data), stop_before_pixels=True))
    except InputError:
        raise
    except MemoryError:
        raise
    # A damaged header makes the parser raise whatever it likes.
    except Exception as error:
        raise InputError("film", "its header is damaged") from error


def _pdf(
    result: StudyResult, readings: Sequence[Reading], pixels: Mapping[str, Pixels], language: Language
) -> bytes | None:
    """Return the report of a result's films; None where none could be read."""
    shown = {film.source.sop_instance_uid for film in result.films}
    pages = [
        _page(each.film, each, pixels[each.source.sop_instance_uid], result.model)
        for each in readings
        if each.source is not None and each.film is not None and each.source.sop_instance_uid in shown
    ]
    if not pages:
        return None
    name = str(result.identify("report"))
    return report_pdf(StudyReport(name, result.created_at, None, tuple(pages), language))


def _page(film: Radiograph, reading: Reading, pixels: Pixels, model: ModelIdentity) -> FilmReport:
    """Return a film's page: with the heat map of what was found, where the model's heat maps passed their grade."""
    image, stored = _image_of(film, reading.created_at), reading.prediction
    if stored is None or stored.label is None or stored.maps is None or stored.status is not Status.OK:
        return FilmReport(image, stored, pixels)
    if not is_finding(stored.label) or model.heat_maps != PASSED:
        return FilmReport(image, stored, pixels)
    return FilmReport(image, stored, overlay(pixels, native_map(stored)), stored.label)


def _image_of(film: Radiograph, received_at: datetime) -> StoredImage:
    return StoredImage(
        image_id=film.content_hash[:26],
        study_id="",
        content_hash=film.content_hash,
        pixel_hash=film.pixel_hash or None,
        name="",
        source_format=film.source_format,
        rows=film.pixels.shape[0],
        columns=film.pixels.shape[1],
        bits=film.bits,
        spacing_mm=film.spacing_mm,
        modality=film.modality,
        body_part_examined=film.body_part_examined,
        view_position=film.view_position,
        notes=film.notes,
        received_at=received_at,
    )


def _reading_from(stream: BinaryIO) -> Json:
    def exactly(size: int) -> bytes:
        data = stream.read(size)
        if len(data) < size:
            raise EOFError
        return data

    return unpack(exactly)[0]


def main() -> None:
    """Serve requests until standard input ends; the first one says with what."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Ctrl-C, and a service manager, tell all processes to stop; the gateway ends this one when its film is done.
        signal.signal(number, signal.SIG_IGN)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    first = _reading_from(requests)
    confine.die_with(int(first["parent"]))
    models = {
        name: Predictor.load(
            name,
            precision=Precision(first["precision"]),
            streams=first["streams"],
            cache=default_folder() if first["cache"] else None,
        )
        for name in first["models"]
    }
    reader = Reader(models, film_cpu_s=float(first["film_cpu_s"]))
    # Bound before the first foreign byte, and after all that is our own has been loaded.
    # What was loaded stays: the garbage collector need not walk through it again and again.
    gc.freeze()
    confined = confine.confine()
    confine.bound_memory(round(float(first["memory_mb"]) * 1e6))
    head: Json = {
        "confined": confined,
        "models": {
            name: [each.name, each.version, each.sha256, each.heat_maps] for name, each in reader.models.items()
        },
    }
    blobs: Sequence[bytes] = ()
    try:
        with suppress(EOFError, BrokenPipeError):
            while True:
                for piece in pack(head, blobs):
                    answers.write(piece)
                answers.flush()
                head, blobs = reader.answer(_reading_from(requests))
    except MemoryError:
        # What a failed allocation left behind is nobody's to know: the next film gets a new process.
        os._exit(OUT_OF_MEMORY)


if __name__ == "__main__":
    main()
