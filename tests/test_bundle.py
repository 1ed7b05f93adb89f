from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rentgen.bundle import HASH_BYTES, Bundle, Golden, check_place, read, write
from rentgen.errors import BundleError
from rentgen.records import (
    Card,
    Epoch,
    History,
    Interval,
    OperatingPoint,
    PatientSource,
    Preprocessing,
    Split,
    SplitCertificate,
)

MEMBERS = {"manifest.json", "model.onnx", "card.json", "split.json", "golden.npz"}


def make_bundle() -> Bundle:
    """Return a small bundle whose model is no graph: reading a bundle does not run it."""
    rate = Interval(0.9, float("nan"), 1.0)
    card = Card(
        name="знімок",
        created="2025-01-01T00:00:00+00:00",
        classes=("normal", "pneumonia"),
        positive="pneumonia",
        preprocessing=Preprocessing(64, 96, crop_borders=True),
        backbone={"name": "test_resnet", "features": 4},
        recipe={"head": {"hidden": 8}},
        history=History({"train": (Epoch(0.7, 0.5, 0.5, 0.4), Epoch(0.6, 0.6, 0.5, 0.5))}, best_epoch=1, seconds=0.5),
        operating_points=(OperatingPoint("youden", "pneumonia", 0.5, rate, rate),),
        validation={"accuracy": {"value": 0.5, "low": None, "high": 1.0}},
        test=None,
        counts={"train": {"normal": 1, "pneumonia": 1}},
        audit={"n": 2},
        intended_use="none",
        licences=("CC0",),
        software={"rentgen": "0.1.0"},
        command="rentgen train films",
    )
    split = SplitCertificate(
        "00" * 16, {Split.TRAIN: ("a", "b")}, {Split.TRAIN: ("d",)}, {Split.TRAIN: ("c",)}, PatientSource.CSV, {"n": 2}
    )
    rng = np.random.default_rng(0)
    golden = Golden(
        films=tuple(rng.integers(0, 256, shape, np.uint8) for shape in ((20, 30), (30, 20))),
        prepared=rng.integers(0, 256, (2, 16, 16), np.uint8),
        logits=rng.standard_normal((2, 2), np.float32),
        embedding=rng.standard_normal((2, 4), np.float32),
        activation_maps=rng.random((2, 2, 3, 3), np.float32),
    )
    return Bundle(card, bytes(range(256)), split, golden)


def unpack(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path: Path, members: dict[str, bytes], *, seal: bool = False) -> Path:
    """Write a zip of members; with `seal` under a manifest that has the right hashes."""
    if seal:
        manifest = json.loads(members["manifest.json"])
        manifest["files"] = {
            name: hashlib.sha256(content).hexdigest() for name, content in members.items() if name != "manifest.json"
        }
        members = members | {"manifest.json": json.dumps(manifest).encode()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def pack_arrays(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "small.rentgen"
    write(path, make_bundle())
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    bundle = make_bundle()
    path = tmp_path / "new" / "folder" / "small.rentgen"
    bundle_id = write(path, bundle)
    again = read(path)
    assert again.card.to_dict() == bundle.card.to_dict()
    assert again.split == bundle.split
    assert again.model == bundle.model
    for name in ("prepared", "logits", "embedding", "activation_maps"):
        np.testing.assert_array_equal(getattr(again.golden, name), getattr(bundle.golden, name))
    for came, given_one in zip(again.golden.films, bundle.golden.films, strict=True):
        np.testing.assert_array_equal(came, given_one)
    assert again.bundle_id == bundle_id == hashlib.sha256(unpack(path)["manifest.json"]).hexdigest()


def test_the_same_content_makes_the_same_bytes(tmp_path: Path) -> None:
    ids = {write(tmp_path / name, make_bundle()) for name in ("a.rentgen", "b.rentgen")}
    assert len(ids) == 1
    assert (tmp_path / "a.rentgen").read_bytes() == (tmp_path / "b.rentgen").read_bytes()
    other = replace(make_bundle(), model=b"other")
    assert write(tmp_path / "c.rentgen", other) not in ids


def test_a_name_that_is_not_utf_8_is_kept(tmp_path: Path) -> None:
    name = os.fsdecode(b"films\xff")
    bundle = make_bundle()
    write(tmp_path / "a.rentgen", replace(bundle, card=replace(bundle.card, command=name)))
    assert read(tmp_path / "a.rentgen").card.command == name


@pytest.mark.parametrize("member", sorted(MEMBERS - {"manifest.json"}))
def test_one_changed_byte_in_a_member_is_refused(member: str, written: Path) -> None:
    members = unpack(written)
    content = bytearray(members[member])
    content[len(content) // 2] ^= 1
    pack(written, members | {member: bytes(content)})
    with pytest.raises(BundleError, match=f"{member} was changed after the bundle was made .expected SHA-256"):
        read(written)


def test_a_newer_version_is_refused_and_says_what_to_do(written: Path) -> None:
    members = unpack(written)
    manifest = json.loads(members["manifest.json"]) | {"version": 2}
    pack(written, members | {"manifest.json": json.dumps(manifest).encode()})
    with pytest.raises(BundleError, match=r"is a bundle of version 2, but this Rentgen reads up to 1. Upgrade"):
        read(written)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"format": "other", "version": 1, "files": {}}, "no bundle: its manifest does not say 'rentgen-bundle'"),
        ({"format": "rentgen-bundle", "version": 1}, "no bundle: its manifest does not say"),
        (["rentgen-bundle"], "no bundle: its manifest does not say"),
        ({"format": "rentgen-bundle", "version": "1", "files": {}}, "a bundle version of 1 or more, but got '1'"),
        ({"format": "rentgen-bundle", "version": 0, "files": {}}, "a bundle version of 1 or more, but got 0"),
        ({"format": "rentgen-bundle", "version": 1, "files": {}}, "model.onnx was changed after"),
    ],
)
def test_another_manifest_is_refused(manifest: object, message: str, written: Path) -> None:
    pack(written, unpack(written) | {"manifest.json": json.dumps(manifest).encode()})
    with pytest.raises(BundleError, match=message):
        read(written)


@pytest.mark.parametrize("member", sorted(MEMBERS))
def test_a_missing_member_is_refused(member: str, written: Path) -> None:
    members = unpack(written)
    del members[member]
    with pytest.raises(BundleError, match=f"is no bundle: it has no {member}"):
        read(pack(written, members))


def test_a_member_too_many_is_refused(written: Path) -> None:
    with pytest.raises(BundleError, match=r"holds what no bundle holds: 'weights.pkl'"):
        read(pack(written, unpack(written) | {"weights.pkl": b"cos\nsystem\n"}))


def test_a_member_that_stands_twice_is_refused(written: Path) -> None:
    with (
        zipfile.ZipFile(written, "a") as archive,
        pytest.warns(UserWarning, match="Duplicate name"),
    ):
        archive.writestr("model.onnx", make_bundle().model)
    with pytest.raises(BundleError, match="holds what no bundle holds: 'a member twice'"):
        read(written)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: b"not a zip at all", "is no bundle, or is damaged: expected a zip archive"),
        (lambda content: b"", "is no bundle, or is damaged"),
        (lambda content: content[: len(content) // 2], "is no bundle, or is damaged"),
        (lambda content: content[:-1], "is no bundle, or is damaged"),
    ],
)
def test_another_file_is_refused(spoil: Callable[[bytes], bytes], message: str, written: Path) -> None:
    written.write_bytes(spoil(written.read_bytes()))
    with pytest.raises(BundleError, match=message):
        read(written)


def test_a_file_that_is_not_there_is_named_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(
        BundleError, match=r"There is no file .*nowhere.rentgen, and no bundle of that name .*rentgen train"
    ):
        read(tmp_path / "nowhere.rentgen")
    with pytest.raises(BundleError, match="There is no file"):
        read(tmp_path)


@pytest.mark.parametrize("member", ["manifest.json", "card.json", "model.onnx"])
def test_a_huge_declared_size_is_refused_before_it_is_read(member: str, written: Path) -> None:
    """The size in the central directory: bytes 24 to 28 of a member's entry (APPNOTE 4.3.12)."""
    content = bytearray(written.read_bytes())
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(member.encode()))
    content[entry + 24 : entry + 28] = (0xFFFFFFFE).to_bytes(4, "little")
    written.write_bytes(content)
    with pytest.raises(BundleError, match=f"{member} says it holds 4294967294 bytes; at most"):
        read(written)


def test_an_uncommon_compression_is_refused(written: Path) -> None:
    members = unpack(written)
    with zipfile.ZipFile(written, "w", zipfile.ZIP_LZMA) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(BundleError, match=r"manifest.json is packed by a method that no bundle uses"):
        read(written)


def test_only_documented_members_and_no_pickle(written: Path) -> None:
    members = unpack(written)
    assert set(members) == MEMBERS
    for name in ("manifest.json", "card.json", "split.json"):
        json.loads(members[name])
    with np.load(io.BytesIO(members["golden.npz"]), allow_pickle=False) as arrays:
        assert {arrays[name].dtype.kind for name in arrays.files} == {"u", "f"}


def test_objects_in_the_arrays_are_refused(written: Path) -> None:
    members = unpack(written)
    with np.load(io.BytesIO(members["golden.npz"])) as arrays:
        spoiled = dict(arrays) | {"logits": np.array([{"a": 1}], dtype=object)}
    pack(written, members | {"golden.npz": pack_arrays(spoiled)}, seal=True)
    with pytest.raises(BundleError, match="has a card, split or golden file of another shape"):
        read(written)


def test_an_array_that_says_it_is_huge_is_refused(written: Path) -> None:
    members = unpack(written)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 50,)})
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(members["golden.npz"])) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, header.getvalue() if name == "logits.npy" else old.read(name))
    pack(written, members | {"golden.npz": buffer.getvalue()}, seal=True)
    with pytest.raises(BundleError, match="golden file of another shape"):
        read(written)


def test_arrays_that_unpack_to_gigabytes_are_refused(written: Path) -> None:
    members = unpack(written)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("logits.npy", b"\0" * 1000)
    content = bytearray(buffer.getvalue())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = (3 << 30).to_bytes(4, "little")
    pack(written, members | {"golden.npz": bytes(content)}, seal=True)
    with pytest.raises(BundleError, match="The golden file says it holds 3221225472 bytes; at most"):
        read(written)


@pytest.mark.parametrize(
    ("member", "change"),
    [
        ("card.json", {"classes": None}),
        ("card.json", {"preprocessing": {"height": 2}}),
        ("card.json", {"surprise": 1}),
        ("split.json", {"patient_source": "gossip"}),
        ("split.json", {"images": {"exam": []}}),
    ],
)
def test_content_of_another_shape_is_refused(member: str, change: dict[str, Any], written: Path) -> None:
    members = unpack(written)
    changed = json.loads(members[member]) | change
    pack(written, members | {member: json.dumps(changed).encode()}, seal=True)
    with pytest.raises(BundleError, match="has a card, split or golden file of another shape than version 1's"):
        read(written)


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Let no file of this process grow beyond `limit` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_certificate_that_could_not_be_read_again_is_refused(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = read(written)
    monkeypatch.setattr("rentgen.bundle.HASH_BYTES", 1 << 30)
    with pytest.raises(BundleError, match="Train on a part of the films, by patient"):
        write(tmp_path / "large.rentgen", bundle)
    assert not (tmp_path / "large.rentgen").exists()


def test_a_hash_takes_as_much_as_is_reckoned(tmp_path: Path) -> None:
    sizes = []
    for count in (10, 20):
        split = replace(make_bundle().split, images={Split.TRAIN: ("f" * 64,) * count})
        write(tmp_path / "hashes.rentgen", replace(make_bundle(), split=split))
        with zipfile.ZipFile(tmp_path / "hashes.rentgen") as archive:
            sizes.append(archive.getinfo("split.json").file_size)
    assert sizes[1] - sizes[0] == 10 * HASH_BYTES


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(written: Path) -> None:
    before = written.read_bytes()
    larger = replace(make_bundle(), model=bytes(1 << 20))
    with full_disk(1 << 16), pytest.raises(BundleError, match=r"The bundle cannot be written to .*: File too large"):
        write(written, larger)
    assert written.read_bytes() == before
    assert list(written.parent.iterdir()) == [written]


@pytest.mark.parametrize("place", ["file/small.rentgen", "folder"])
def test_a_place_that_cannot_be_written_is_named(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(BundleError, match=f"The bundle cannot be written to .*{place}"):
        write(tmp_path / place, make_bundle())
    with pytest.raises(BundleError, match=f"The bundle cannot be written to .*{place}"):
        check_place(tmp_path / place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    check_place(tmp_path / "new" / "small.rentgen")
    assert list((tmp_path / "new").iterdir()) == []


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(1, 255)), min_size=1, max_size=3))
@example(flips=[(0, 1)])
def test_flipped_bytes_never_load_as_something_else(flips: list[tuple[int, int]], written: Path) -> None:
    """A zip has a few bytes that say nothing (times, attributes): with those flipped it is the same bundle still."""
    content = bytearray(written.read_bytes())
    for place, mask in flips:
        content[place % len(content)] ^= mask
    damaged = written.with_name("damaged.rentgen")
    damaged.write_bytes(content)
    try:
        came = read(damaged)
    except BundleError:
        return
    good = read(written)
    assert came.bundle_id == good.bundle_id
    assert (came.model, came.split, came.card.to_dict()) == (good.model, good.split, good.card.to_dict())


def test_every_byte_of_every_header_may_be_flipped(written: Path) -> None:
    """All headers are a small share of the file, so that chance alone would seldom hit them."""
    content = written.read_bytes()
    good = read(written).bundle_id
    damaged = written.with_name("damaged.rentgen")
    headers = [place for place in range(len(content)) if content.startswith((b"PK\x01\x02", b"PK\x03\x04"), place)]
    for place in (byte for start in headers for byte in range(start, min(start + 46, len(content)))):
        damaged.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            assert read(damaged).bundle_id == good
        except BundleError:
            continue
