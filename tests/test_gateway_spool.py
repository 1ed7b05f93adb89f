"""Objects on the disk: under their hash, seen where they are damaged, gone where nobody wants them."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import kept
import pytest
from made import dicom, film

from rentgen.errors import StoreError
from rentgen.gateway.intake import Taken
from rentgen.gateway.nouns import Header
from rentgen.gateway.spool import Reception, Spool
from rentgen.outputs.deidentify.elements import encode_head
from rentgen.store.gateway import Queue
from rentgen.store.studies import Store

STUDY = "1.2.3"
CUT = encode_head(sop_class_uid="1.2.6", sop_instance_uid="1.2.5", transfer_syntax="1.2.840.10008.1.2.1")
"""A file whose data set is something else."""
HEADER = Header(STUDY, "1.2.4", "1.2.5", "1.2.6", "1.2.840.10008.1.2.1", modality="DX")


@pytest.fixture(params=kept.KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return kept.fresh(request, tmp_path)


@pytest.fixture
def queue(url: str) -> Iterator[Queue]:
    opened = Queue.open(url, key=kept.KEY)
    yield opened
    opened.close()


def test_the_spool_keeps_a_file_under_its_hash_and_sees_damage(tmp_path: Path, queue: Queue) -> None:
    spool = Spool(tmp_path / "spool")
    reception = Reception(spool, queue)
    said = []
    for content in (b"film", b"film", b"other"):
        path = tmp_path / "arrived"
        path.write_bytes(CUT + content)
        said.append(reception.receive(path, HEADER, "stow"))
        assert not path.exists()
    assert said == [Taken.RECEIVED, Taken.DUPLICATE, Taken.CONFLICT]
    assert reception.holds("1.2.5")
    name = hashlib.sha256(CUT + b"film").hexdigest()
    assert spool.read(name) == CUT + b"film"
    spool.path(name).write_bytes(b"damaged")
    with pytest.raises(StoreError, match="its hash is another"):
        spool.read(name)


def test_whom_an_object_shows_is_kept_as_a_hash_alone(
    tmp_path: Path, queue: Queue, url: str, request: pytest.FixtureRequest
) -> None:
    reception = Reception(Spool(tmp_path / "spool"), queue)
    for number, data in enumerate((dicom(film(40, 30), PatientID="MADE^SECRET"), CUT + b"no film")):
        path = tmp_path / "arrived"
        path.write_bytes(data)
        header = Header(f"1.2.3.{number}", "1.2.4", f"1.2.5.{number}", "1.2.6", "1.2.840.10008.1.2.1")
        assert reception.receive(path, header, "stow") is Taken.RECEIVED
    store = Store.open(url, key=kept.KEY)
    (mine,) = store.patient_studies(" MADE^SECRET ")
    assert mine == store.ids_for("", "1.2.3.0")[1]
    assert [row[0] for row in kept.run(url, "SELECT patient FROM gateway_objects ORDER BY sop_uid")][1] is None
    store.close()
    assert not kept.bytes_on_disk(url, request.config)(b"MADE^SECRET")


def test_what_nobody_wants_goes_when_it_is_old(tmp_path: Path, queue: Queue) -> None:
    spool = Spool(tmp_path / "spool")
    reception = Reception(spool, queue)
    for content in (b"film", b"other"):
        path = tmp_path / "arrived"
        path.write_bytes(CUT + content)
        reception.receive(path, HEADER, "stow")
    orphans = [tmp_path / "spool" / "objects" / kept.sha(name) for name in ("old", "young")]
    for orphan in orphans:
        orphan.write_bytes(b"orphan")
    long_ago = time.time() - 4000
    for file in (tmp_path / "spool" / "objects").iterdir():
        if file != orphans[1]:
            os.utime(file, (long_ago, long_ago))
    assert spool.sweep(queue) == 1
    assert [orphan.exists() for orphan in orphans] == [False, True]
    # The film, and the one that was put aside.
    assert len(list((tmp_path / "spool" / "objects").iterdir())) == 3
    assert spool.sweep(queue, older_s=-10) == 1


def test_folders_that_were_left_behind_go_and_those_in_use_stay(tmp_path: Path, queue: Queue) -> None:
    spool = Spool(tmp_path)
    long_ago = time.time() - 4000
    for name, old in {"stow-dead": True, "pull-dead": True, "stow-slow": False, "other": True}.items():
        part = tmp_path / name / "part"
        part.parent.mkdir()
        part.write_bytes(b"film")
        if old:
            os.utime(part, (long_ago, long_ago))
        os.utime(part.parent, (long_ago, long_ago))
    assert spool.sweep(queue) == 0
    assert {each.name for each in tmp_path.iterdir() if each.is_dir()} >= {"objects", "other", "stow-slow"}
    assert not list(tmp_path.glob("*-dead"))


def test_a_film_that_comes_again_during_the_sweep_stays(tmp_path: Path, queue: Queue) -> None:
    spool = Spool(tmp_path / "spool")

    def take() -> str:
        path = tmp_path / "arrived"
        path.write_bytes(b"film")
        return spool.take(path)

    name = take()
    os.utime(spool.path(name), (time.time() - 4000,) * 2)

    class Late:
        """A queue that is asked just before the film comes again."""

        def wanted(self, hashes: list[str]) -> set[str]:
            found = queue.wanted(hashes)
            take()
            return found

    assert spool.sweep(cast(Queue, Late())) == 0
    assert spool.read(name) == b"film"
    assert [each.name for each in (tmp_path / "spool" / "objects").iterdir()] == [name]
