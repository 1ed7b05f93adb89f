"""Stores for the tests, on either database; films, predictions and bytes to look for in them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import postgres
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from rentgen.records import Geometry, Radiograph, Status
from rentgen.records.studies import Point, Principal, Role, StoredImage, StoredPrediction, Urgency
from rentgen.store.database import Database
from rentgen.store.studies import Store

KINDS = ("sqlite", "postgresql")
ADMIN = Principal("somebody", Role.ADMIN)
BUNDLE = "b" * 64
KEY, OTHER_KEY = "x" * 43 + "=", "A" * 43 + "="
PATIENT_ID, STUDY_UID = "MADE-PATIENT-0001", "1.2.826.0.1.3680043.10.1.77"
GEOMETRY = Geometry(48, 40, 1, 2, 46, 37, 1.5, 0.1 + 0.2, 0.0, 3.25, 64, 64)


_made: dict[Path | str, Any] = {}
"""Databases with tables, to copy: of SQLite, and of each server."""


def fresh(request: pytest.FixtureRequest, folder: Path, *, empty: bool = False) -> str:
    """Return the URL of a new database of the kind that a fixture's parameter names.

    Args:
        request: of the fixture.
        folder: of the test.
        empty: without tables; otherwise with those that opening a store makes, which is quicker to copy than to make.
    """
    if request.param == "postgresql":
        server = postgres.server(request.config)
        if empty:
            return server.fresh()
        if server.folder not in _made:
            _made[server.folder] = make_url(_with_tables(server.fresh())).database
        return server.fresh(_made[server.folder])
    path = folder / "kept" / "rentgen.db"
    if not empty:
        if "sqlite" not in _made:
            _made["sqlite"] = request.getfixturevalue("tmp_path_factory").mktemp("tables") / "rentgen.db"
            _with_tables(f"sqlite:///{_made['sqlite']}")
        path.parent.mkdir()
        shutil.copy(_made["sqlite"], path)
    return f"sqlite:///{path}"


def _with_tables(url: str) -> str:
    Database.open(url).close()
    return url


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def film(**values: Any) -> Radiograph:  # noqa: ANN401
    """Return a small DICOM film of the patient."""
    told: dict[str, Any] = {
        "pixels": np.zeros((48, 40), np.uint16),
        "content_hash": sha("film"),
        "source_format": "dicom",
        "bits": 12,
        "pixel_hash": sha("pixels"),
        "spacing_mm": (0.143, 0.1 + 0.2),
        "patient_id": PATIENT_ID,
        "study_instance_uid": STUDY_UID,
        "modality": "DX",
        "body_part_examined": "CHEST",
        "view_position": "PA",
        "notes": ("lossy compression",),
    }
    return Radiograph(**told | values)


def answer(**values: Any) -> StoredPrediction:  # noqa: ANN401
    """Return a prediction with everything in it."""
    told: dict[str, Any] = {
        "prediction_id": "",
        "image_id": "",
        "bundle_id": BUNDLE,
        "model": "pneumonia",
        "created_at": datetime(2026, 3, 4, 5, 6, 7, 891011, UTC),
        "status": Status.OK,
        "label": "PNEUMONIA",
        "probabilities": {"PNEUMONIA": 0.1 + 0.2, "NORMAL": 0.7},
        "reasons": ("a reason", "ще одна"),
        "prediction_set": ("PNEUMONIA",),
        "distance": 1.25,
        "points": (
            Point(
                "youden",
                "PNEUMONIA",
                0.25,
                True,
                {"value": 0.9, "low": 0.8, "high": 0.95},
                {"value": 0.9, "low": None, "high": None},
            ),
        ),
        "urgency": Urgency.URGENT,
        "score": 0.1 + 0.2,
        "precision": "f32",
        "maps": np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5),
        "geometry": GEOMETRY,
    }
    return StoredPrediction(**told | values)


def add(store: Store, name: str = "film", shown: Radiograph | None = None, data: bytes | None = None) -> StoredImage:
    """Return a film that was added; a study of its own unless `shown` says otherwise."""
    shown = shown or film(study_instance_uid=None)
    return store.add_image(shown, content_hash=sha(name), name=f"{name}.dcm", data=data, actor=ADMIN)


def run(url: str, *statements: str) -> list[Any]:
    """Run SQL past the store and return the rows of the last."""
    engine = sa.create_engine(url)
    try:
        with engine.begin() as connection:
            results = [connection.execute(sa.text(statement)) for statement in statements]
            return list(results[-1]) if results[-1].returns_rows else []
    finally:
        engine.dispose()


def unguard(url: str) -> None:
    """Take away what forbids to change the audit trail."""
    if url.startswith("sqlite"):
        run(url, *(f"DROP TRIGGER audit_no_{what}" for what in ("update", "delete", "replace")))
    else:
        run(url, "DROP TRIGGER audit_no_change ON audit")


def bytes_on_disk(url: str, config: pytest.Config) -> Callable[[bytes], bool]:
    """Return whether some bytes stand in any file of the database."""
    if url.startswith("sqlite"):
        files = list(Path(url.removeprefix("sqlite:///")).parent.iterdir())
    else:
        run(url, "CHECKPOINT")
        number = run(url, "SELECT oid FROM pg_database WHERE datname = current_database()")[0][0]
        files = list((postgres.server(config).folder / "data" / "base" / str(number)).iterdir())
    content = [file.read_bytes() for file in files if file.is_file()]
    return lambda wanted: any(wanted in part for part in content)
