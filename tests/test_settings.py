"""How an installation is set up: defaults, the environment, and what does not fit together."""

from __future__ import annotations

from pathlib import Path

import pytest

from rentgen.errors import SettingError
from rentgen.service.research import check_offers
from rentgen.settings import Auth, load

KEY = "a" * 43 + "="
EVERYWHERE = "192.0.2.7"
"""An address that is not loopback."""


def test_defaults_are_for_one_machine() -> None:
    found = load()
    assert (found.host, found.resolved_auth, found.on_loopback, found.keep_files) == (
        "127.0.0.1",
        Auth.NONE,
        True,
        False,
    )
    assert load(host=EVERYWHERE).resolved_auth is Auth.KEYS


def test_what_is_given_goes_before_the_environment_and_lists_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENTGEN_PORT", "9000")
    monkeypatch.setenv("RENTGEN_MODELS", "one.rentgen, two.rentgen,")
    assert load().port == 9000
    assert load(port=9001).port == 9001
    assert load().models == ("one.rentgen", "two.rentgen")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"host": EVERYWHERE, "auth": "none"},
            r"^The settings are not allowed: host 192.0.2.7 can be reached.*keys add",
        ),
        ({"auth": "keys", "store": False}, "auth needs the store"),
        ({"auth": "oidc"}, "oidc needs oidc_issuer and oidc_audience"),
        ({"tls_key": "k.pem"}, "tls_certificate and tls_key go together"),
        ({"max_bodies_mb": 10, "max_body_mb": 20}, "max_bodies_mb must be at least max_body_mb"),
        ({"keep_files": True}, "openssl rand -base64 32"),
        ({"port": 70000}, r"port: .*65535"),
        ({"colour": "blue"}, "colour: Extra inputs"),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, object], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        load(**given)


def test_secrets_are_in_no_message_and_no_repr() -> None:
    found = load(key=KEY, database="postgresql+psycopg://u:hidden@h/n")
    assert KEY not in repr(found)
    assert "hidden" not in repr(found)
    with pytest.raises(SettingError) as caught:
        load(key=KEY, port="hidden", keep_days="hidden")
    assert KEY not in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [({"sets": "films"}, "NAME=PATH"), ({"sets": "a=/nowhere/here"}, "NAME=PATH"), ({"reports": "/nowhere"}, "folder")],
)
def test_sets_and_reports_that_are_not_there_are_refused_at_the_start(given: dict[str, str], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        check_offers(load(**given))


def test_sets_and_reports_that_are_there(tmp_path: Path) -> None:
    check_offers(load(sets=f"films={tmp_path}", reports=tmp_path))
