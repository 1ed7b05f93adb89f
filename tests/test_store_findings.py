"""What a physician says of several findings: kept, sealed, exported, deleted; and an older store brought up to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import kept
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from kept import ADMIN, KEY, OTHER_KEY, add, answer

from rentgen.errors import SettingError, StoreError
from rentgen.records.studies import Feedback
from rentgen.store.studies import Store

FINDINGS = {"Pleural effusion": True, "Вогнище": False, "No Finding": False}
MARK = b"Pleural effusion"


@pytest.fixture(params=kept.KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return kept.fresh(request, tmp_path)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store.open(url, key=KEY, keep_files=True)
    yield opened
    opened.close()


def say(store: Store, name: str = "film", **more: object) -> Feedback:
    """Return feedback with findings on an answer, as it is kept."""
    image = add(store, name)
    prediction = store.add_prediction(image.image_id, answer(), actor=ADMIN)
    values = {"agree": False, "label": None, "comment": "", "findings": FINDINGS} | more
    return store.add_feedback(image.image_id, prediction_id=prediction.prediction_id, actor=ADMIN, **values)  # type: ignore[arg-type]


def only(store: Store, feedback: Feedback) -> Feedback:
    image = store.image(feedback.image_id)
    assert image is not None
    study = store.study(image.study_id)
    assert study is not None
    return study.feedback[0]


def test_what_was_said_of_each_comes_out_in_order(store: Store) -> None:
    said = say(store)
    assert said.findings == FINDINGS
    found = only(store, said)
    assert found == said
    assert list(found.findings or ()) == list(FINDINGS)
    assert [feedback for _, _, feedback in store.all_feedback()] == [said]
    # Who agrees with findings names no class, and nothing said is not the same as nothing known.
    agreed = say(store, agree=True, findings={})
    assert (agreed.label, agreed.findings) == (None, {})
    assert say(store, agree=True, findings=None).findings is None
    with pytest.raises(SettingError, match="a class or with findings, but got both"):
        say(store, label="NORMAL")


def test_it_is_sealed_and_gets_a_new_key(store: Store, url: str, request: pytest.FixtureRequest) -> None:
    said = say(store)
    say(store, "other", findings=None)
    assert not kept.bytes_on_disk(url, request.config)(MARK)
    store.close()
    Store.change_key(url, old=KEY, new=OTHER_KEY, actor=ADMIN)
    again = Store.open(url, key=OTHER_KEY)
    assert only(again, said).findings == FINDINGS
    again.close()


def test_it_cannot_be_moved_to_other_feedback(store: Store, url: str) -> None:
    one, two = say(store, "one"), say(store, "two", findings={"Nodule": True})
    kept.run(
        url,
        f"UPDATE feedback SET findings = (SELECT findings FROM feedback WHERE id = '{one.feedback_id}') "  # noqa: S608
        f"WHERE id = '{two.feedback_id}'",
    )
    with pytest.raises(StoreError, match=r"feedback\.findings .* cannot be decrypted: it was changed or moved"):
        only(store, two)


def test_a_store_that_gets_a_key_seals_it(url: str, request: pytest.FixtureRequest) -> None:
    plain = Store.open(url)
    said = say(plain)
    assert kept.bytes_on_disk(url, request.config)(MARK)
    plain.close()
    sealed = Store.open(url, key=KEY)
    assert only(sealed, said).findings == FINDINGS
    sealed.close()
    (value,) = kept.run(url, "SELECT findings FROM feedback")[0]
    assert MARK not in bytes(value)


def test_export_and_deletion_reach_it(url: str, request: pytest.FixtureRequest) -> None:
    store = Store.open(url)
    image = store.image(say(store).image_id)
    assert image is not None
    told = store.export_study(image.study_id, actor=ADMIN)
    assert told["feedback"][0]["findings"] == FINDINGS
    assert not any("effusion" in str(entry).lower() for entry in store.audit_entries())
    store.delete_study(image.study_id, actor=ADMIN)
    assert kept.run(url, "SELECT count(*) FROM feedback") == [(0,)]
    if url.startswith("sqlite"):
        assert not kept.bytes_on_disk(url, request.config)(MARK)
    store.close()


@pytest.mark.parametrize("kind", kept.KINDS)
def test_feedback_of_an_older_version_has_no_findings(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    request.param = kind
    url = kept.fresh(request, tmp_path, empty=True)
    (tmp_path / "kept").mkdir(exist_ok=True)
    engine = sa.create_engine(url)
    config = Config()
    config.set_main_option("script_location", "rentgen.store:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
    engine.dispose()
    at, no = "'2026-03-04 05:06:07'", "false" if kind == "postgresql" else "0"
    empty = r"'\x00'" if kind == "postgresql" else "X'00'"
    kept.run(
        url,
        f"INSERT INTO studies (id, received_at, state, urgency, negative_score) VALUES ('s', {at}, 0, 1, 0)",  # noqa: S608
        "INSERT INTO images (id, study_id, content_hash, name, notes, received_at, file_kept) "  # noqa: S608
        f"VALUES ('i', 's', 'h', {empty}, '[]', {at}, {no})",
        "INSERT INTO feedback (id, image_id, agree, label, comment, actor, created_at) "  # noqa: S608
        f"VALUES ('f', 'i', {no}, 'NORMAL', {empty}, 'somebody', {at})",
    )
    store = Store.open(url)
    study = store.study("s")
    assert study is not None
    assert [(said.label, said.findings) for said in study.feedback] == [("NORMAL", None)]
    assert store.add_feedback(
        "i", prediction_id=None, agree=False, label=None, comment="", actor=ADMIN, findings=FINDINGS
    ).findings == FINDINGS  # fmt: skip
    store.close()
