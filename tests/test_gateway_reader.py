"""The confined reader: what it says of films, and what foreign bytes can do to it and to nobody else."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import peers
import pydicom
import pytest
from bombs import BOMBS, jpeg_2000
from hypothesis import given
from hypothesis import strategies as st
from made import PATIENT_ID, PATIENT_NAME, dicom, film
from serving import tiny_bundle

from rentgen.engine.predictor import Predictor
from rentgen.errors import SettingError
from rentgen.gateway import confine, frames
from rentgen.gateway.nouns import Destination, Wire
from rentgen.gateway.readings import from_bytes, results, to_bytes
from rentgen.gateway.sandbox import Bounds, Film, ReaderStopped, Sandbox
from rentgen.outputs.documents import Extras, documents
from rentgen.records import Precision
from rentgen.records.results import Kind

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the bounds are those of Linux")

DICOM_KINDS = (Kind.STRUCTURED_REPORT, Kind.SECONDARY_CAPTURE, Kind.PRESENTATION_STATE, Kind.PDF)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.rentgen"))


@pytest.fixture(scope="module")
def sandbox(bundle: str) -> Iterator[Sandbox]:
    with Sandbox([bundle], bounds=Bounds(600.0, 20.0), precision=Precision.F32, cache=False) as opened:
        yield opened


def kept(folder: Path, data: bytes) -> Film:
    path = folder / hashlib.sha256(data).hexdigest()
    path.write_bytes(data)
    return Film(path, path.name)


def test_a_reader_says_what_the_predictor_says(sandbox: Sandbox, bundle: str, tmp_path: Path) -> None:
    data = dicom(film(90, 80))
    reading = sandbox.read(kept(tmp_path, data), model=bundle)
    told = Predictor.load(bundle, precision=Precision.F32).predict(data, maps=True)
    assert reading.prediction is not None
    assert reading.prediction.probabilities == pytest.approx(told.probabilities)
    assert reading.prediction.status == told.status
    assert reading.source is not None
    assert reading.source.patient.patient_id == PATIENT_ID
    assert reading.film is not None
    assert reading.film.pixels.shape == (90, 80)
    again = from_bytes(to_bytes(reading))
    assert again.source == reading.source
    assert again.film is not None
    assert dataclasses.asdict(again.film) | {"pixels": 0} == dataclasses.asdict(reading.film) | {"pixels": 0}
    assert again.prediction is not None
    for name in (field.name for field in dataclasses.fields(again.prediction)):
        mine, theirs = getattr(again.prediction, name), getattr(reading.prediction, name)
        assert np.array_equal(mine, theirs) if name == "maps" else mine == theirs
    assert PATIENT_ID not in repr(reading)


def test_documents_of_a_reader_are_those_of_the_library(sandbox: Sandbox, bundle: str, tmp_path: Path) -> None:
    one = kept(tmp_path, dicom(film(90, 80)))
    reading = sandbox.read(one, model=bundle)
    made = sandbox.encode([(one, reading)], Destination("pacs", Wire.DIMSE, DICOM_KINDS))
    assert [each.kind for each in made] == list(DICOM_KINDS)
    (result,) = results([reading])
    (report,) = documents(result, [Kind.STRUCTURED_REPORT], Extras())
    assert made[0].content == report.content
    for each in made:
        assert pydicom.dcmread(io.BytesIO(each.content)).SOPInstanceUID == each.uid
    assert sandbox.encode([(one, reading)], Destination("pacs", Wire.DIMSE, DICOM_KINDS))[:3] == made[:3]


def test_films_of_two_kinds_make_one_result_where_one_model_speaks(
    sandbox: Sandbox, bundle: str, tmp_path: Path
) -> None:
    read = kept(tmp_path, dicom(film(90, 80)))
    refused = kept(tmp_path, dicom(film(90, 81), SOPInstanceUID="1.2.826.0.1.3680043.10.1.4"))
    told = [
        (read, sandbox.read(read, model=bundle)),
        (refused, sandbox.read(refused, model=bundle, refused="it is a hand")),
    ]
    assert told[1][1].prediction is None
    (message,) = sandbox.encode(told, Destination("ris", Wire.MLLP, (Kind.HL7,)))
    assert b"Not analysed: it is a hand" in message.content


def test_a_reader_is_bound(sandbox: Sandbox) -> None:
    sandbox.open()
    if not sandbox._confined:
        pytest.skip("the kernel here has no seccomp filter")
    assert sandbox.prove() == ()
    # The same questions, asked where nothing is bound.
    assert set(confine.escapes()) > {"open a connection", "start a program", "delete a file", "write a file"}


@pytest.mark.parametrize("name", [*BOMBS, "truncated", "two more"])
def test_a_bomb_is_an_answer(sandbox: Sandbox, bundle: str, tmp_path: Path, name: str) -> None:
    others = {"truncated": lambda: dicom()[:700], "two more": lambda: dicom(Rows=65535, Columns=65535)}
    data = (BOMBS | others)[name]()
    started = time.monotonic()
    try:
        reading = sandbox.read(kept(tmp_path, data), model=bundle)
    except ReaderStopped as error:
        reason = str(error)
    else:
        assert reading.prediction is None
        reason = reading.not_analysed
    assert reason
    assert PATIENT_NAME not in reason
    assert time.monotonic() - started < 20
    good = sandbox.read(kept(tmp_path, dicom(film(60, 60))), model=bundle)
    assert good.prediction is not None


def test_a_film_that_wants_too_much_memory_is_told_of(bundle: str, tmp_path: Path) -> None:
    data = jpeg_2000(4000)
    with Sandbox([bundle], bounds=Bounds(40.0, 20.0), precision=Precision.F32, cache=False) as tight:
        try:
            reading = tight.read(kept(tmp_path, data), model=bundle)
        except ReaderStopped as error:
            reason = str(error)
        else:
            reason = reading.not_analysed
        assert reason
        assert tight.read(kept(tmp_path, dicom(film(60, 60))), model=bundle).prediction is not None


def test_a_film_that_takes_too_long_is_told_of(bundle: str, tmp_path: Path) -> None:
    with Sandbox([bundle], bounds=Bounds(600.0, 2.0), precision=Precision.F32, cache=False) as slow:
        slow.open()
        pid = slow._process.pid if slow._process is not None else 0
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(ReaderStopped, match="longer than 2 s"):
            slow.read(kept(tmp_path, dicom()), model=bundle)
        assert slow.read(kept(tmp_path, dicom(film(60, 60))), model=bundle).prediction is not None
        assert slow.starts == 2


def test_a_killed_reader_is_replaced(sandbox: Sandbox, bundle: str, tmp_path: Path) -> None:
    sandbox.open()
    assert sandbox._process is not None
    sandbox._process.kill()
    with pytest.raises(ReaderStopped, match="down"):
        sandbox.read(kept(tmp_path, dicom()), model=bundle)
    assert sandbox.read(kept(tmp_path, dicom(film(60, 60))), model=bundle).prediction is not None


def test_a_film_that_was_changed_on_the_disk_is_not_read(sandbox: Sandbox, bundle: str, tmp_path: Path) -> None:
    one = kept(tmp_path, dicom())
    one.path.write_bytes(dicom(film(50, 50)))
    assert "damaged" in sandbox.read(one, model=bundle).not_analysed


def test_a_model_that_is_none_is_named() -> None:
    with Sandbox(["no-such-model"]) as none, pytest.raises(SettingError, match="no-such-model"):
        none.open()


def test_a_reader_gets_no_secret(bundle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENTGEN_KEY", "hush")
    with Sandbox([bundle], precision=Precision.F32, cache=False) as opened:
        opened.open()
        assert opened._process is not None
        environment = Path(f"/proc/{opened._process.pid}/environ").read_bytes()
    assert b"hush" not in environment
    assert b"PATH=" in environment


def test_the_real_chest_film_is_read(tmp_path: Path) -> None:
    data = peers.film_file().read_bytes()
    with Sandbox(["pneumonia"], precision=Precision.F32) as opened:
        reading = opened.read(kept(tmp_path, data), model="pneumonia")
    assert reading.source is not None
    assert reading.source.body_part_examined == "CHEST"
    # An adult, to a model for children.
    assert reading.prediction is not None
    assert reading.prediction.status == "out_of_scope"


@given(st.binary(max_size=200))
def test_what_is_no_frame_is_an_error(data: bytes) -> None:
    view = memoryview(data)

    def exactly(size: int) -> bytes:
        nonlocal view
        if len(view) < size:
            raise EOFError
        piece, view = view[:size], view[size:]
        return bytes(piece)

    with pytest.raises((ValueError, EOFError)):
        frames.unpack(exactly)


@given(st.dictionaries(st.text(), st.integers()), st.lists(st.binary(max_size=50), max_size=4))
def test_a_frame_comes_out_as_it_went_in(head: dict[str, int], blobs: list[bytes]) -> None:
    head.pop("sizes", None)
    data = memoryview(b"".join(frames.pack(head, blobs)))

    def exactly(size: int) -> bytes:
        nonlocal data
        piece, data = data[:size], data[size:]
        return bytes(piece)

    found, came = frames.unpack(exactly)
    assert {name: value for name, value in found.items() if name != "sizes"} == head
    assert came == blobs


@pytest.mark.parametrize(
    "head", [b"[]", b'{"sizes": [-1]}', b'{"sizes": [true]}', b'{"sizes": [2000000000]}', b"[" * 100_000, b"{}"]
)
def test_a_head_that_lies_is_refused(head: bytes) -> None:
    data = memoryview(struct.pack(">I", len(head)) + head)

    def exactly(size: int) -> bytes:
        nonlocal data
        piece, data = data[:size], data[size:]
        return bytes(piece)

    with pytest.raises(ValueError, match=r"Expected|Expecting"):
        frames.unpack(exactly)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"version": 2}', json.dumps({"version": 1, "created_at": 3}).encode(), b"\xff"]
)
def test_what_is_no_reading_is_an_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_bytes(content)
