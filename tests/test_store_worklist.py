"""The order in which studies should be read, and its pages; on both databases."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import kept
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kept import ADMIN, KEY, add, answer, film

from rentgen.errors import SettingError
from rentgen.records.studies import Urgency
from rentgen.store.studies import Store
from rentgen.store.worklist import Place, decode, encode


@pytest.fixture(params=kept.KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return kept.fresh(request, tmp_path)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store.open(url, key=KEY, keep_files=True)
    yield opened
    opened.close()


def test_a_study_is_as_urgent_as_its_films_newest_answers(store: Store) -> None:
    one, two = add(store, "one", film()), add(store, "two", film())
    early, late = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)

    def placed() -> tuple[Urgency, float]:
        study = store.study(one.study_id)
        assert study is not None
        return study.urgency, study.score

    def say(image_id: str, bundle: str, at: datetime, urgency: Urgency, score: float) -> None:
        store.add_prediction(
            image_id, answer(bundle_id=bundle, created_at=at, urgency=urgency, score=score), actor=ADMIN
        )

    assert placed() == (Urgency.DOUBT, 0.0)
    say(one.image_id, "old", early, Urgency.URGENT, 0.9)
    assert placed() == (Urgency.URGENT, 0.9)
    say(one.image_id, "new", late, Urgency.ROUTINE, 0.2)
    assert placed() == (Urgency.ROUTINE, 0.2)
    say(two.image_id, "new", late, Urgency.ROUTINE, 0.3)
    assert placed() == (Urgency.ROUTINE, 0.3)
    say(two.image_id, "older", early, Urgency.URGENT, 1.0)
    assert placed() == (Urgency.ROUTINE, 0.3)


STUDIES = st.lists(
    st.tuples(st.sampled_from(Urgency), st.sampled_from((0.0, 0.1 + 0.2, 0.3, 1.0)), st.booleans()), max_size=8
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(added=STUDIES, limit=st.integers(1, 9), waiting=st.sampled_from((True, False, None)))
def test_pages_give_the_order_of_a_plain_sort(
    store: Store, added: list[tuple[Urgency, float, bool]], limit: int, waiting: bool | None
) -> None:
    already = len(list(pages(store, None, 500)))
    for number, (urgency, score, read) in enumerate(added, already):
        image = add(store, f"film {number}")
        store.add_prediction(image.image_id, answer(urgency=urgency, score=score), actor=ADMIN)
        if read:
            store.mark_read(image.study_id, read=True, actor=ADMIN)
    everything = [store.study(study_id) for study_id in pages(store, None, 500)]
    assert len(everything) == already + len(added)
    wanted = sorted(
        (s.read_at is not None, s.urgency, -s.score, s.received_at, s.study_id)
        for s in everything
        if s is not None and waiting in (None, s.read_at is None)
    )
    assert list(pages(store, waiting, limit)) == [place[-1] for place in wanted]


def pages(store: Store, waiting: bool | None, limit: int) -> Iterator[str]:
    """Yield the ids of the worklist, page by page."""
    cursor = None
    while True:
        found, cursor = store.worklist(waiting=waiting, limit=limit, cursor=cursor)
        assert len(found) <= limit
        yield from (study.study_id for study in found)
        if cursor is None:
            return


def test_the_order_uses_its_index(url: str) -> None:
    Store.open(url).close()
    query = (
        "SELECT id FROM studies WHERE state = 0 AND (state, urgency, negative_score, received_at, id) > "
        "(0, 0, -0.5, '2026-01-01 00:00:00', 'a') ORDER BY state, urgency, negative_score, received_at, id LIMIT 5"
    )
    if url.startswith("sqlite"):
        plan = kept.run(url, f"EXPLAIN QUERY PLAN {query}")
    else:
        plan = kept.run(url, "SET enable_seqscan = off", "SET enable_bitmapscan = off", f"EXPLAIN {query}")
    assert "ix_studies_worklist" in str(plan)
    assert "Sort" not in str(plan)
    assert "TEMP B-TREE" not in str(plan)


@pytest.mark.parametrize("limit", [0, 501, -1])
def test_limits_of_pages(store: Store, limit: int) -> None:
    with pytest.raises(SettingError, match=r"limit in \[1, 500\]"):
        store.worklist(limit=limit)


PLACES = st.builds(
    Place,
    st.integers(0, 1),
    st.integers(0, 2),
    st.floats(-1, 0),
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
    st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=26, max_size=26),
)


@given(PLACES)
def test_cursors_lead_back(place: Place) -> None:
    assert decode(encode(place)) == place


@given(st.one_of(st.text(max_size=80), st.binary(max_size=60).map(lambda raw: raw.hex())))
def test_cursors_of_strangers(text: str) -> None:
    with pytest.raises(SettingError, match="cursor that came with the page before"):
        decode(text)


@pytest.mark.parametrize(
    "place",
    [
        '[0,0,0,0,"a","b"]',
        '[0,0,NaN,0,"a"]',
        '[9,0,0,0,"a"]',
        "[0,0,0,0,1]",
        '[0,0,0,1e999,"a"]',
        "{}",
        "[" * 9000,
        '[0,0,0,99999999999999999999999,"a"]',
    ],
)
def test_cursors_made_up(place: str) -> None:
    with pytest.raises(SettingError, match="cursor that came with the page before"):
        decode(base64.urlsafe_b64encode(place.encode()).decode().rstrip("="))
