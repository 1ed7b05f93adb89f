"""From a body to films: JSON of every client, and what is no film."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rentgen.service.incoming import parse_instances, parse_lines
from rentgen.service.problems import Problem

FILM = b"\x89PNG film"
B64 = base64.b64encode(FILM).decode()


@pytest.mark.parametrize(
    "instance",
    [{"content": B64}, {"b64": B64}, {"image_bytes": {"b64": B64}}, B64, {"content": B64, "mimeType": "x/y"}],
)
def test_every_way_to_send_base64(instance: object) -> None:
    batch = parse_instances(json.dumps({"instances": [instance]}).encode(), 4)
    assert [film.data for film in batch.films] == [FILM]
    assert not batch.films[0].heatmap


def test_id_heat_map_and_parameters_come_along() -> None:
    body = {"instances": [{"content": B64, "id": "a", "heatmap": True}, B64], "parameters": {"format": "vertex-automl"}}
    batch = parse_instances(json.dumps(body).encode(), 4)
    assert [(film.id, film.heatmap) for film in batch.films] == [("a", True), (None, False)]
    assert batch.parameters == {"format": "vertex-automl"}
    everywhere = {"instances": [B64, B64], "parameters": {"heatmap": True}}
    assert all(film.heatmap for film in parse_instances(json.dumps(everywhere).encode(), 4).films)


@pytest.mark.parametrize(
    ("instance", "fault"),
    [
        ({"content": "no base64!"}, "not base64"),
        ({"content": "é"}, "not base64"),
        ({"content": ""}, "empty"),
        ({"content": 7}, "expected an instance"),
        ({"image_bytes": B64}, "expected an instance"),
        (None, "expected an instance"),
        ([B64], "expected an instance"),
    ],
)
def test_a_bad_instance_leaves_the_others_alone(instance: object, fault: str) -> None:
    batch = parse_instances(json.dumps({"instances": [B64, instance, B64]}).encode(), 4)
    assert [film.data for film in batch.films] == [FILM, None, FILM]
    assert fault in str(batch.films[1].fault)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "Expected JSON"),
        (b"\xff\xfe", "Expected JSON"),
        (b"[" * 100_000, "Expected JSON"),
        (b"[]", "instances"),
        (b"{}", "instances"),
        (b'{"instances": {}}', "instances"),
        (b'{"instances": []}', "at least one"),
        (json.dumps({"instances": [B64] * 5}).encode(), "at most 4 films"),
    ],
)
def test_a_body_that_asks_nothing_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(Problem, match=words) as caught:
        parse_instances(body, 4)
    assert caught.value.status == 422


def test_json_lines() -> None:
    body = f'"{B64}"\n\n{{"content": "{B64}", "id": "b"}}\nbroken\n{{"instances": ["{B64}"]}}\n'.encode()
    films = parse_lines(body, 8).films
    assert [film.data for film in films] == [FILM, FILM, None, FILM]
    assert "not JSON" in str(films[2].fault)
    with pytest.raises(Problem, match="at most 2"):
        parse_lines(body, 2)
    with pytest.raises(Problem, match="at least one"):
        parse_lines(b"\n\n", 2)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_gives_films_or_a_clean_error(document: object) -> None:
    for parse in (parse_instances, parse_lines):
        try:
            films = parse(json.dumps(document).encode(), 8).films
        except Problem as error:
            problem = error
        else:
            assert 1 <= len(films) <= 8
            assert all((film.data is None) != (film.fault is None) for film in films)
            continue
        assert problem.status == 422


@given(st.lists(st.binary(min_size=1, max_size=64), min_size=1, max_size=8))
def test_what_goes_in_comes_out(films: list[bytes]) -> None:
    body = {"instances": [{"content": base64.b64encode(film).decode()} for film in films]}
    assert [film.data for film in parse_instances(json.dumps(body).encode(), 8).films] == films
