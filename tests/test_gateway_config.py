"""`gateway.toml`: what it allows, and what it says of a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

import rentgen.gateway
from rentgen.errors import SettingError
from rentgen.gateway.config import load_config, parse_config
from rentgen.gateway.nouns import GatewayConfig, Wire
from rentgen.records.results import Kind

EXAMPLE = Path(rentgen.gateway.__file__).parent / "example.toml"
PEER = '[[destination]]\nname = "a"\nwire = "dimse"\nkinds = ["sr"]\nhost = "h"\nport = 1\nae_title = "A"\n'


def test_the_example_is_allowed() -> None:
    config = load_config(EXAMPLE)
    assert config.dry_run
    assert config.folder == EXAMPLE.parent / "spool"
    assert config.destinations[0].kinds == (Kind.STRUCTURED_REPORT, Kind.PRESENTATION_STATE, Kind.SECONDARY_CAPTURE)
    assert config.sources[0].wire is Wire.STOW


def test_nothing_said_gives_the_defaults() -> None:
    assert parse_config("") == GatewayConfig()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[gateway]\nae_titel = 'A'", r"`gateway.ae_titel` is not known; the nearest key is `ae_title`"),
        ("[gatway]", r"nearest key is `gateway`"),
        ("[gateway]\nport = 70000", r"`gateway.port`: expected a whole number from 0 to 65535"),
        ("[gateway]\nport = true", "gateway.port"),
        ("[gateway]\nae_title = 'SEVENTEEN LETTERS'", "gateway.ae_title"),
        ("[gateway]\nhost = '0.0.0.0'", "gateway.allow_addresses"),
        ("[gateway]\nallow_addresses = ['10.1.2.3/8']", r"allow_addresses\[0\]"),
        ("[http]\nkeys = ['plain']", r"http.keys\[0\]"),
        ("[gateway]\nquiet_s = nan", "gateway.quiet_s"),
        ("[gateway.tls]\nauthority = 'ca.crt'", "gateway.tls.certificate"),
        ("[[route]]\nviews = ['PA']", r"route\[0\].model"),
        (PEER + "colour = 1", r"destination\[0\].colour"),
        (PEER + PEER, "comes twice"),
        (PEER.replace('"sr"', '"fhir"'), r"destination\[0\].kinds"),
        (PEER.replace('host = "h"\n', ""), r"destination\[0\].host"),
        (PEER + "url = 'http://user:hush@h'", r"destination\[0\].url"),
        ("[", "not TOML"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(text: str, says: str) -> None:
    with pytest.raises(SettingError, match=says) as caught:
        parse_config(text)
    assert "hush" not in str(caught.value)


def test_secrets_come_from_elsewhere_and_are_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_TOKEN", "hush-1")
    (tmp_path / "secret").write_text("hush-2\n")
    text = PEER + "oidc_secret = 'file:secret'\nheaders = { Authorization = 'env:THE_TOKEN' }\n"
    (tmp_path / "gateway.toml").write_text(text)
    config = load_config(tmp_path / "gateway.toml")
    assert config.destinations[0].oidc_secret == "hush-2"  # noqa: S105
    assert config.destinations[0].headers == {"Authorization": "hush-1"}
    assert "hush" not in repr(config)


def test_a_secret_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingError, match="NO_SUCH_NAME"):
        parse_config(PEER + "oidc_secret = 'env:NO_SUCH_NAME'")


def test_a_model_is_a_name_or_a_file_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text('[[route]]\nmodel = "ours.rentgen"\n[[route]]\nmodel = "pneumonia"\n')
    routes = load_config(tmp_path / "gateway.toml").routes
    assert [route.model for route in routes] == [str(tmp_path / "ours.rentgen"), "pneumonia"]
