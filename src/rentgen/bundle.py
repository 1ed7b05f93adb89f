"""The bundle: one file that holds all that serving needs to know of a model, and nothing that runs code.

A zip archive with::

    manifest.json    format, version, and the SHA-256 of each other member
    model.onnx       uint8 film in; logits, embedding, activation maps out
    card.json        what the model is, how it was made and how good it is (`records.Card`)
    split.json       which images and patients made it (`records.SplitCertificate`)
    golden.npz       films, their prepared form, and what the graph answered: replayed on loading
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rentgen.errors import BundleError, SettingError
from rentgen.records import Card, Float32, SplitCertificate, UInt8

SUFFIX = ".rentgen"
FORMAT = "rentgen-bundle"
VERSION = 1
MEMBERS = ("model.onnx", "card.json", "split.json", "golden.npz")
MAX_MEMBER_BYTES = 2 << 30
"""More, ONNX cannot hold: it is a protocol buffer."""
MAX_JSON_BYTES = 512 << 20
HASH_BYTES = 71
"""Of one film's or patient's hash in a certificate, as it is written."""
MAX_GOLDEN_BYTES = 1 << 30
MAX_MANIFEST_BYTES = 1 << 20
EPOCH = (2020, 1, 1, 0, 0, 0)
"""Written as the time of every member, so that the same content makes the same file."""

_UNPACKING = (OSError, zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, EOFError, MemoryError)
"""What zipfile and the layers below it raise for a damaged archive."""


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """Inputs and the answers to them, made in f32 where the model was made.

    Attributes:
        films: native grey films, uint8, each of its own shape.
        prepared: (films, height, width) uint8.
        logits: (films, classes).
        embedding: (films, features).
        activation_maps: (films, classes, rows, columns).
        distance: (films,) from the films that taught the model; None where the graph does not measure it.
    """

    films: tuple[UInt8, ...]
    prepared: UInt8
    logits: Float32
    embedding: Float32
    activation_maps: Float32
    distance: Float32 | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A bundle in memory.

    Attributes:
        card: what the model says of itself.
        model: the ONNX graph.
        split: what made it.
        golden: to be replayed.
        bundle_id: SHA-256 of the manifest: it changes when anything does. Empty before the bundle is written.
    """

    card: Card
    model: bytes = field(repr=False)
    split: SplitCertificate = field(repr=False)
    golden: Golden = field(repr=False)
    bundle_id: str = ""


def shipped() -> dict[str, Path]:
    """Return the bundles that come with the package: name to file, sorted."""
    folder = Path(__file__).parent / "models"
    return {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))}


def find(name_or_path: str | Path) -> Path:
    """Return the file of a bundle: a path, or the name of one that comes with the package.

    Raises:
        BundleError: there is neither.

    Example:
        >>> find("x")
        Traceback (most recent call last):
        rentgen.errors.BundleError: There is no file x, ...
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    models = shipped()
    if str(name_or_path) in models:
        return models[str(name_or_path)]
    raise BundleError(
        f"There is no file {path}, and no bundle of that name comes with the package ({', '.join(models) or 'none'}). "
        f"Expected a bundle (*{SUFFIX}); `rentgen train` makes one."
    )


def check_place(path: Path) -> None:
    """Find out before the work, not after it, that a bundle cannot be written.

    Raises:
        BundleError: the folder cannot be made or written in, or the path is a folder.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise BundleError(f"The bundle cannot be written to {path}: {error.strerror or error}.") from error


def check_certificate(split: SplitCertificate) -> None:
    """Find out before the work, not after it, that a certificate is larger than what is read of a bundle.

    Raises:
        BundleError: it names too many films and patients.
    """
    groups = (split.images, split.pixels, split.patients)
    hashes = sum(len(members) for group in groups for members in group.values())
    if hashes * HASH_BYTES > MAX_JSON_BYTES:
        raise BundleError(
            f"Expected at most {MAX_JSON_BYTES // HASH_BYTES} hashes of films and patients in a bundle's certificate, "
            f"two for each film and one for each patient, but got {hashes}. Train on a part of the films, by patient; "
            "the others may be predicted."
        )


def write(path: Path, bundle: Bundle) -> str:
    """Write a bundle, whole or not at all, and return its id.

    Raises:
        BundleError: the place cannot be written, or the certificate could not be read again.
    """
    check_certificate(bundle.split)
    members = {
        "model.onnx": bundle.model,
        "card.json": _to_json(bundle.card.to_dict()),
        "split.json": _to_json(bundle.split.to_dict()),
        "golden.npz": _pack_golden(bundle.golden),
    }
    manifest = _to_json(
        {
            "format": FORMAT,
            "version": VERSION,
            "files": {name: hashlib.sha256(content).hexdigest() for name, content in members.items()},
        }
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(path, {"manifest.json": manifest, **members})
    except OSError as error:
        raise BundleError(f"The bundle cannot be written to {path}: {error.strerror or error}.") from error
    return hashlib.sha256(manifest).hexdigest()


def read(path: str | Path) -> Bundle:
    """Return the bundle in a file, or of a name that comes with the package, after checking the hash of every member.

    Raises:
        BundleError: there is no such file, or it is no bundle, was damaged or changed, or is of a newer kind.
    """
    path = find(path)
    try:
        with zipfile.ZipFile(path) as archive:
            manifest_bytes = _member(archive, path, "manifest.json", MAX_MANIFEST_BYTES)
            manifest = _check_manifest(path, manifest_bytes)
            contents = {name: _checked(archive, path, name, str(manifest["files"].get(name, ""))) for name in MEMBERS}
            _check_names(archive, path)
    except (ValueError, *_UNPACKING) as error:
        raise BundleError(
            f"{path} is no bundle, or is damaged: expected a zip archive. Fetch or train it anew."
        ) from error
    try:
        return Bundle(
            card=Card.from_dict(json.loads(contents["card.json"])),
            model=contents["model.onnx"],
            split=SplitCertificate.from_dict(json.loads(contents["split.json"])),
            golden=_unpack_golden(contents["golden.npz"]),
            bundle_id=hashlib.sha256(manifest_bytes).hexdigest(),
        )
    except (SettingError, ValueError, LookupError, TypeError, AttributeError, *_UNPACKING) as error:
        raise BundleError(
            f"{path} has a card, split or golden file of another shape than version {VERSION}'s."
        ) from error


def _write_whole(path: Path, members: Mapping[str, bytes]) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as draft:
        try:
            with zipfile.ZipFile(draft, "w") as archive:
                for name, content in members.items():
                    kind = zipfile.ZIP_DEFLATED if name.endswith(".json") else zipfile.ZIP_STORED
                    archive.writestr(zipfile.ZipInfo(name, EPOCH), content, compress_type=kind)
            draft.flush()
            os.fsync(draft.fileno())
            os.chmod(draft.name, 0o644)
            os.replace(draft.name, path)
        except BaseException:
            os.unlink(draft.name)
            raise


def _check_names(archive: zipfile.ZipFile, path: Path) -> None:
    names = archive.namelist()
    if len(names) != 1 + len(MEMBERS):
        strange = sorted(set(names) - {"manifest.json", *MEMBERS}) or ["a member twice"]
        raise BundleError(f"{path} holds what no bundle holds: {', '.join(map(repr, strange[:5]))}. Do not use it.")


def _check_manifest(path: Path, content: bytes) -> dict[str, Any]:
    manifest = json.loads(content)
    if (
        not isinstance(manifest, dict)
        or manifest.get("format") != FORMAT
        or not isinstance(manifest.get("files"), dict)
    ):
        raise BundleError(f"{path} is a zip archive, but no bundle: its manifest does not say {FORMAT!r}.")
    version = manifest.get("version")
    if not isinstance(version, int) or version < 1:
        raise BundleError(f"{path}: expected a bundle version of 1 or more, but got {version!r}.")
    if version > VERSION:
        raise BundleError(
            f"{path} is a bundle of version {version}, but this Rentgen reads up to {VERSION}. Upgrade Rentgen."
        )
    return manifest


def _checked(archive: zipfile.ZipFile, path: Path, name: str, expected: str) -> bytes:
    limit = MAX_JSON_BYTES if name.endswith(".json") else MAX_MEMBER_BYTES
    content = _member(archive, path, name, limit)
    came = hashlib.sha256(content).hexdigest()
    if came != expected:
        raise BundleError(
            f"{path}: {name} was changed after the bundle was made (expected SHA-256 {expected[:16]}..., but got "
            f"{came[:16]}...). Do not use it; fetch or train it anew."
        )
    return content


def _member(archive: zipfile.ZipFile, path: Path, name: str, limit: int) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError as error:
        raise BundleError(f"{path} is no bundle: it has no {name}.") from error
    if info.file_size > limit:
        raise BundleError(f"{path}: {name} says it holds {info.file_size} bytes; at most {limit} are read.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BundleError(f"{path}: {name} is packed by a method that no bundle uses ({info.compress_type}).")
    with archive.open(info) as stream:
        return stream.read(limit + 1)


def _to_json(values: Mapping[str, Any]) -> bytes:
    # A name from a foreign file system may hold bytes that are not UTF-8; \udcXX is its JSON spelling.
    return json.dumps(values, ensure_ascii=False, allow_nan=False, indent=1).encode(errors="backslashreplace")


def _pack_golden(golden: Golden) -> bytes:
    buffer = io.BytesIO()
    films: dict[str, UInt8 | Float32] = {f"film_{number}": film for number, film in enumerate(golden.films)}
    if golden.distance is not None:
        films["distance"] = golden.distance
    np.savez_compressed(
        buffer,
        allow_pickle=False,
        prepared=golden.prepared,
        logits=golden.logits,
        embedding=golden.embedding,
        activation_maps=golden.activation_maps,
        **films,
    )
    return buffer.getvalue()


def _unpack_golden(content: bytes) -> Golden:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        size = sum(info.file_size for info in archive.infolist())
        if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in archive.infolist()):
            raise BundleError("The golden file is packed by a method that no bundle uses.")
    if size > MAX_GOLDEN_BYTES:
        raise BundleError(f"The golden file says it holds {size} bytes; at most {MAX_GOLDEN_BYTES} are read.")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return Golden(
            films=tuple(arrays[f"film_{number}"] for number in range(len(arrays["prepared"]))),
            prepared=arrays["prepared"],
            logits=arrays["logits"],
            embedding=arrays["embedding"],
            activation_maps=arrays["activation_maps"],
            distance=arrays.get("distance"),
        )
