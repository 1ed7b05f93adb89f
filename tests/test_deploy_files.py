"""Buckets, sources of films and AutoML's table."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from clouds import Cloud, cloud
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage as google_storage

from rentgen.cli.deploy import deploy_app
from rentgen.data.listing import list_images
from rentgen.data.split import split
from rentgen.deploy import automl, storage
from rentgen.deploy.films import gather
from rentgen.errors import DataError, PeerError, SettingError


@pytest.fixture
def bucket() -> Iterator[tuple[Cloud, google_storage.Client]]:
    with cloud() as there:
        client = google_storage.Client(
            project="p",
            credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
            client_options={"api_endpoint": there.url},
        )
        yield there, client
        client.close()


def no_fetch(uri: str) -> Path:
    raise DataError(uri)


def test_a_place_is_fetched_with_its_folders(bucket: tuple[Cloud, google_storage.Client], tmp_path: Path) -> None:
    there, client = bucket
    there.objects = {"b/m/a.rentgen": b"one", "b/m/deep/b.rentgen": b"two", "b/m/notes.txt": b"", "b/mm/c.rentgen": b""}
    found = storage.download(client, "gs://b/m/", tmp_path, limit_bytes=100, suffix=".rentgen")
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a.rentgen", "deep/b.rentgen"]
    assert (tmp_path / "deep/b.rentgen").read_bytes() == b"two"
    alone = storage.download(client, "gs://b/m/a.rentgen", tmp_path / "alone", limit_bytes=100)
    assert alone == (tmp_path / "alone/a.rentgen",)


def test_a_pattern_is_fetched(bucket: tuple[Cloud, google_storage.Client], tmp_path: Path) -> None:
    there, client = bucket
    there.objects = {"b/d/training-0": b"1", "b/d/training-1": b"2", "b/d/test-0": b"3"}
    found = storage.download(client, "gs://b/d/training-*", tmp_path, limit_bytes=100)
    assert [path.name for path in found] == ["training-0", "training-1"]


def test_more_than_the_limit_is_not_fetched(bucket: tuple[Cloud, google_storage.Client], tmp_path: Path) -> None:
    there, client = bucket
    there.objects = {"b/m/a": bytes(60), "b/m/b": bytes(60)}
    with pytest.raises(PeerError, match="Expected at most 0 MB"):
        storage.download(client, "gs://b/m", tmp_path, limit_bytes=100)
    assert not list(tmp_path.iterdir())


def test_a_name_that_leads_out_of_the_folder_is_refused(
    bucket: tuple[Cloud, google_storage.Client], tmp_path: Path
) -> None:
    there, client = bucket
    there.objects = {"b/m/../../x": b"1"}
    with pytest.raises(PeerError, match="leads out of the folder"):
        storage.download(client, "gs://b/m", tmp_path, limit_bytes=100)


def test_what_the_bucket_refuses_is_a_peer_error(bucket: tuple[Cloud, google_storage.Client], tmp_path: Path) -> None:
    there, client = bucket
    there.answers = {"storage": [(403, {"error": {"code": 403, "message": "no right to read"}})]}
    with pytest.raises(PeerError, match="no right to read"):
        storage.download(client, "gs://b/m", tmp_path, limit_bytes=100)
    with pytest.raises(SettingError, match="Expected gs://BUCKET/NAME"):
        storage.download(client, "s3://b/m", tmp_path, limit_bytes=100)


def test_a_mirror_brings_what_is_there_and_puts_what_changes(
    bucket: tuple[Cloud, google_storage.Client], tmp_path: Path
) -> None:
    there, client = bucket
    there.objects = {"b/c/old.pt": b"old"}
    folder = tmp_path / "checkpoints"
    mirror = storage.Mirror(client, folder, "gs://b/c", every_s=0.05)
    with pytest.raises(SystemExit):
        use_and_stop(there, mirror, folder)
    assert there.objects == {"b/c/old.pt": b"changed", "b/c/deep/new.pt": b"new"}


def use_and_stop(there: Cloud, mirror: storage.Mirror, folder: Path) -> None:
    with mirror:
        assert (folder / "old.pt").read_bytes() == b"old"
        (folder / "deep").mkdir()
        (folder / "deep/new.pt").write_bytes(b"new")
        (folder / ".draft-1").write_bytes(b"half")
        deadline = time.monotonic() + 10
        while "b/c/deep/new.pt" not in there.objects and time.monotonic() < deadline:
            time.sleep(0.02)
        assert there.objects["b/c/deep/new.pt"] == b"new"
        (folder / "old.pt").write_bytes(b"changed")
        raise SystemExit(143)


def labelled(folder: Path, *labels: str) -> Path:
    for label in labels:
        (folder / label).mkdir(parents=True)
        (folder / label / "1.png").write_bytes(label.encode())
    return folder


def test_one_source_is_taken_as_it_is(tmp_path: Path) -> None:
    source = labelled(tmp_path / "train", "A", "B")
    assert gather({"train": str(source)}, tmp_path / "set", no_fetch) == source
    (source / "labels.csv").write_text("path,label\n")
    assert gather({"train": str(source)}, tmp_path / "set", no_fetch) == source / "labels.csv"


def test_parts_become_one_folder_that_the_listing_reads(tmp_path: Path) -> None:
    sources = {part: str(labelled(tmp_path / part, "A", "B")) for part in ("train", "validation", "test")}
    listing = list_images(gather(sources, tmp_path / "set", no_fetch))
    assert listing.classes == ("A", "B")
    assert sorted(str(record.split) for record in listing.records) == ["test"] * 2 + ["train"] * 2 + ["validation"] * 2


def rows_of(table: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(table.read_text().splitlines()))


def line(uri: str, label: str, **labels: str) -> str:
    return json.dumps(
        {"imageGcsUri": uri, "classificationAnnotation": {"displayName": label}, "dataItemResourceLabels": labels}
    )


def test_vertex_json_lines_become_a_table(tmp_path: Path) -> None:
    films = labelled(tmp_path / "gcs/b", "A", "B")
    use = {"aiplatform.googleapis.com/ml_use": "test"}
    text = "\n".join([line("gs://b/A/1.png", "A", patient="p1"), line("gs://b/B/1.png", "B", **use)])
    (tmp_path / "all.jsonl").write_text(text + "\n\n")
    fetch = lambda uri: tmp_path / "gcs" / uri.removeprefix("gs://")  # noqa: E731
    table = gather({"train": str(tmp_path / "all.jsonl")}, tmp_path / "set", fetch)
    rows = rows_of(table)
    assert rows[0] == {"path": str(films / "A/1.png"), "label": "A", "patient": "p1", "split": ""}
    assert (rows[1]["label"], rows[1]["split"]) == ("B", "test")
    (tmp_path / "training-00000-of-00001").write_text(line("gs://b/A/1.png", "A"))
    (tmp_path / "test-00000-of-00001").write_text(line("gs://b/B/1.png", "B"))
    sources = {"train": f"{tmp_path}/training-*", "test": f"{tmp_path}/test-*"}
    rows = rows_of(gather(sources, tmp_path / "parts", fetch))
    assert [row["split"] for row in rows] == ["train", "test"]


@pytest.mark.parametrize("text", ["{", "[]", '{"imageGcsUri": "gs://b/x"}', '{"imageGcsUri": 1, "x": 2}'])
def test_a_line_that_is_no_film_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(DataError, match=r"a\.jsonl, line 1: expected imageGcsUri"):
        gather({"train": str(tmp_path / "a.jsonl")}, tmp_path / "set", no_fetch)


def test_sources_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    folder = labelled(tmp_path / "train", "A")
    (tmp_path / "t.csv").write_text("path,label\n")
    (tmp_path / "t.jsonl").write_text(line("x", "A"))
    with pytest.raises(DataError, match=r"tables \(t\.csv\)"):
        gather({"train": str(folder), "test": str(tmp_path / "t.csv")}, tmp_path / "set", no_fetch)
    with pytest.raises(DataError, match="JSON lines, or none"):
        gather({"train": str(folder), "test": str(tmp_path / "t.jsonl")}, tmp_path / "set", no_fetch)
    with pytest.raises(DataError, match="is not there"):
        gather({"train": str(tmp_path / "none-*")}, tmp_path / "set", no_fetch)


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    """Return a folder of two classes, 20 patients each, two films of every patient."""
    for number in range(40):
        for film in range(2):
            path = tmp_path / "films" / "AB"[number % 2] / f"P{number:02d}_{film}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"not looked into")
    return tmp_path / "films"


def test_automl_gets_our_patient_split(patients: Path, tmp_path: Path) -> None:
    out, pattern = tmp_path / "import.csv", "^(P[0-9]+)_"
    place = ["--gs-prefix", "gs://b/films/", "--out", str(out), "--patient-pattern", pattern]
    deploy_app(["automl-csv", str(patients), *place], standalone_mode=False)
    rows = list(csv.reader(out.read_text().splitlines()))
    divided = split(list_images(patients, patient_pattern=pattern), rng=np.random.default_rng(0))
    assert len(rows) == len(divided) == 80
    parts = {"TRAINING": "train", "VALIDATION": "validation", "TEST": "test"}
    uses: dict[str, set[str]] = {}
    for (use, uri, label), record in zip(rows, divided.records, strict=True):
        assert (parts[use], label) == (str(record.split), record.label)
        assert uri == f"gs://b/films/{record.path.relative_to(patients).as_posix()}"
        uses.setdefault(record.patient, set()).add(use)
    assert all(len(used) == 1 for used in uses.values())


def test_automl_is_told_before_what_it_would_refuse(patients: Path, tmp_path: Path) -> None:
    divided = split(list_images(patients), rng=np.random.default_rng(0))
    with pytest.raises(SettingError, match="gs://BUCKET/FOLDER"):
        automl.write(divided, "s3://b", io.StringIO())
    with pytest.raises(DataError, match="a class and a part"):
        automl.write(list_images(patients), "gs://b", io.StringIO())
    labelled(tmp_path / "x", "COVID-19", "NORMAL")
    with pytest.raises(DataError, match="'COVID-19'"):
        automl.write(list_images(tmp_path / "x"), "gs://b", io.StringIO())
    labelled(tmp_path / "y/train", "A", "B")
    (tmp_path / "y/train/A/1.png").rename(tmp_path / "y/train/A/1.tif")
    with pytest.raises(DataError, match="trains on JPEG, PNG"):
        automl.write(list_images(tmp_path / "y"), "gs://b", io.StringIO())
