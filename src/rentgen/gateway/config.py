"""What `gateway.toml` says: every key is checked, and one that nobody knows is an error that names the nearest."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rentgen.errors import SettingError
from rentgen.gateway.nouns import Destination, GatewayConfig, Route, Source, Tls, Wire
from rentgen.gateway.syslog import SyslogTarget
from rentgen.outputs.fhir import Systems
from rentgen.outputs.hl7 import Addresses
from rentgen.outputs.wording import Language
from rentgen.records.results import Kind

Read = Callable[[Any, str], Any]
"""Turns a value of the file into one of the configuration; it is told where the value stands."""

_MOST_BYTES = 1_000_000
_AE_TITLE = re.compile(r"[!-\[\]-~](?:[ -\[\]-~]{0,14}[!-\[\]-~])?", re.ASCII)
_HASH = re.compile("[0-9a-f]{64}", re.ASCII)


def load_config(path: str | Path) -> GatewayConfig:
    """Return the configuration that a file holds; its relative paths are meant from the file's folder.

    Args:
        path: of `gateway.toml`.

    Raises:
        SettingError: the file cannot be read, or holds a key or value that is not allowed.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise SettingError(f"The configuration {path} cannot be read; check that it exists and may be read.") from error
    if len(data) > _MOST_BYTES:
        raise SettingError(f"The configuration {path} is longer than {_MOST_BYTES} bytes; is it the right file?")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise SettingError(f"The configuration {path} is not UTF-8; save it as such.") from error
    return parse_config(text, folder=Path(path).parent)


def parse_config(text: str, *, folder: Path = Path()) -> GatewayConfig:
    """Return the configuration that TOML text holds.

    Args:
        text: TOML.
        folder: from which relative paths are meant.

    Raises:
        SettingError: it is no TOML, or holds a key or value that is not allowed; the message never shows a secret.
    """
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        # The parser's own message may quote a letter, never a value.
        raise SettingError(f"The configuration is not TOML: {error}.") from error
    tls = partial(_tls, folder=folder)
    secret = partial(_secret, folder=folder)
    tables: dict[str, Read] = {
        "gateway": partial(_table, keys=_gateway_keys(folder, tls, secret)),
        "http": partial(_table, keys={"port": _integer(0, 65_535), "keys": _listed(_hash)}),
        "route": _listed(partial(_route, folder=folder)),
        "destination": _listed(partial(_destination, tls=tls, secret=secret)),
        "source": _listed(partial(_source, tls=tls, secret=secret)),
        "audit": partial(_audit, folder=folder),
    }
    found = _table(document, "", keys=tables)
    fields = dict(found.get("gateway", {}))
    fields |= {f"http_{key}": value for key, value in found.get("http", {}).items()}
    for table, field in (("route", "routes"), ("destination", "destinations"), ("source", "sources"), ("audit",) * 2):
        if table in found:
            fields[field] = found[table]
    fields.setdefault("folder", folder / "gateway")
    config = GatewayConfig(**fields)
    _check_whole(config)
    return config


def _check_whole(config: GatewayConfig) -> None:
    for kind, named in (("destination", config.destinations), ("source", config.sources)):
        names = [each.name for each in named]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise SettingError(f"`{kind}.name`: expected each name once, but {twice!r} comes twice.")
    if not config.routes:
        raise SettingError("`route`: expected at least one route, or the table left out.")
    if config.http_port is not None and not config.http_keys and not ipaddress.ip_address(config.host).is_loopback:
        raise SettingError(
            "`http.keys`: expected at least one SHA-256 of a bearer key, since `gateway.host` is not loopback; "
            "give the output of `printf %s KEY | sha256sum`."
        )
    if config.http_port and config.http_port == config.port:
        raise SettingError("`http.port`: expected another port than `gateway.port`.")
    longest = max((source.days for source in config.sources), default=-1)
    if longest >= config.keep_days:
        raise SettingError(
            f"`gateway.keep_days`: expected more than the {longest} days that a source looks back, or films that are "
            "done would be fetched again."
        )
    if not ipaddress.ip_address(config.host).is_loopback and not config.allow_addresses:
        raise SettingError(
            "`gateway.allow_addresses`: expected the networks that may send, such as ['10.1.0.0/16'], since "
            "`gateway.host` is not loopback."
        )


def _gateway_keys(folder: Path, tls: Read, secret: Read) -> dict[str, Read]:
    return {
        "ae_title": _ae_title,
        "host": _address,
        "port": _integer(0, 65_535),
        "tls": tls,
        "allow_ae_titles": _listed(_ae_title),
        "allow_addresses": _listed(_network),
        "folder": partial(_path, folder=folder),
        "database": secret,
        "max_object_mb": _number(0.001, 4_000),
        "max_associations": _integer(1, 1_000),
        "min_free_mb": _number(0, 1e9),
        "quiet_s": _number(0, 86_400),
        "dry_run": _flag,
        "keep_days": _integer(0, 36_500),
        "keep_films": _flag,
        "readers": _integer(1, 64),
        "reader_memory_mb": _number(100, 1e6),
        "reader_timeout_s": _number(1, 3_600),
        "language": _one_of(Language),
    }


def _route(value: object, where: str, *, folder: Path) -> Route:
    keys: dict[str, Read] = {
        "model": partial(_model, folder=folder),
        "modalities": _listed(_code),
        "body_parts": _listed(_code),
        "views": _listed(_code),
        "min_age_years": _number(0, 150),
        "max_age_years": _number(0, 150),
    }
    route = Route(**_table(value, where, keys=keys, needed=("model",)))
    if route.min_age_years is not None and route.max_age_years is not None:
        _expect(route.min_age_years <= route.max_age_years, f"{where}.min_age_years", "no age above `max_age_years`")
    return route


def _destination(value: object, where: str, *, tls: Read, secret: Read) -> Destination:
    keys = _peer_keys(tls, secret) | {
        "wire": _one_of(Wire),
        "kinds": _listed(_one_of(Kind)),
        "commitment": _flag,
        "oidc_token_url": _url,
        "oidc_client": _text,
        "oidc_secret": secret,
        "timeout_s": _number(0.1, 3_600),
        "systems": partial(_texts, noun=Systems),
        "addresses": partial(_texts, noun=Addresses),
    }
    destination = Destination(**_table(value, where, keys=keys, needed=("name", "wire", "kinds")))
    _check_destination(destination, value, where)
    return destination


def _check_destination(destination: Destination, found: Any, where: str) -> None:  # noqa: ANN401
    needed = ("url",) if destination.wire in (Wire.STOW, Wire.FHIR) else ("host", "port")
    _need(found, where, (*needed, "ae_title") if destination.wire is Wire.DIMSE else needed)
    _expect(bool(destination.kinds), f"{where}.kinds", "at least one kind of document")
    dicom = destination.wire in (Wire.DIMSE, Wire.STOW)
    for kind in destination.kinds:
        fits = kind is Kind.FHIR if destination.wire is Wire.FHIR else kind is Kind.HL7
        fits = kind not in (Kind.FHIR, Kind.HL7) if dicom else fits
        _expect(fits, f"{where}.kinds", f"kinds that {destination.wire} can carry; {kind} is none")
    if destination.oidc_token_url:
        _need(found, where, ("oidc_client", "oidc_secret"))


def _texts(value: object, where: str, *, noun: type[Systems] | type[Addresses]) -> Systems | Addresses:
    """Return a noun whose fields are all texts."""
    return noun(**_table(value, where, keys={each.name: _text for each in fields(noun)}))


def _audit(value: object, where: str, *, folder: Path) -> SyslogTarget:
    path = partial(_path, folder=folder)
    keys: dict[str, Read] = {"host": _text, "port": _integer(1, 65_535), "ca": path, "certificate": path, "key": path}
    found = _table(value, where, keys=keys, needed=("host",))
    _expect(("certificate" in found) == ("key" in found), where, "`certificate` and `key` together, or neither")
    return SyslogTarget(**found)


def _source(value: object, where: str, *, tls: Read, secret: Read) -> Source:
    keys = _peer_keys(tls, secret) | {
        "wire": _one_of((Wire.DIMSE, Wire.STOW)),
        "orthanc_url": _url,
        "every_s": _number(1, 86_400),
        "reconcile_s": _number(1, 86_400),
        "days": _integer(0, 3_650),
        "modalities": _listed(_code),
    }
    found = _table(value, where, keys=keys, needed=("name", "wire"))
    _need(found, where, ("host", "port", "ae_title") if found["wire"] is Wire.DIMSE else ("url",))
    return Source(**found)


def _peer_keys(tls: Read, secret: Read) -> dict[str, Read]:
    return {
        "name": _text,
        "host": _text,
        "port": _integer(1, 65_535),
        "ae_title": _ae_title,
        "url": _url,
        "tls": tls,
        "headers": partial(_headers, secret=secret),
    }


def _table(value: object, where: str, *, keys: Mapping[str, Read], needed: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a table's values, each read by what `keys` says."""
    if not isinstance(value, dict):
        raise _wrong(where, "a table")
    for key in value:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1, 0.0)[0]
            raise SettingError(
                f"`{_below(where, key)}` is not known; the nearest key is `{near}`. Allowed: {', '.join(keys)}."
            )
    _need(value, where, needed)
    return {key: keys[key](item, _below(where, key)) for key, item in value.items()}


def _need(table: Mapping[str, object], where: str, needed: tuple[str, ...]) -> None:
    for key in needed:
        _expect(key in table, _below(where, key), "to be given: it has no default")


def _below(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _wrong(where: str, allowed: str) -> SettingError:
    return SettingError(f"`{where}`: expected {allowed}.")


def _expect(fits: bool, where: str, allowed: str) -> None:
    if not fits:
        raise _wrong(where, allowed)


def _text(value: object, where: str) -> str:
    if isinstance(value, str) and value.strip() and len(value) <= 2_000 and value.isprintable():
        return value
    raise _wrong(where, "a text of 1 to 2000 printable letters")


def _code(value: object, where: str) -> str:
    return _text(value, where).upper()


def _flag(value: object, where: str) -> bool:
    if isinstance(value, bool):
        return value
    raise _wrong(where, "true or false")


def _integer(low: int, high: int) -> Read:
    def read(value: object, where: str) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        raise _wrong(where, f"a whole number from {low} to {high}")

    return read


def _number(low: float, high: float) -> Read:
    def read(value: object, where: str) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
            return float(value)
        raise _wrong(where, f"a number from {low:g} to {high:g}")

    return read


def _one_of(allowed: Iterable[StrEnum]) -> Read:
    by_name = {member.value: member for member in allowed}

    def read(value: object, where: str) -> StrEnum:
        if isinstance(value, str) and value in by_name:
            return by_name[value]
        raise _wrong(where, f"one of {', '.join(by_name)}")

    return read


def _listed(read_one: Read) -> Read:
    def read(value: object, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _wrong(where, "a list")
        return tuple(read_one(item, f"{where}[{index}]") for index, item in enumerate(value))

    return read


def _ae_title(value: object, where: str) -> str:
    if isinstance(value, str) and _AE_TITLE.fullmatch(value):
        return value
    raise _wrong(where, "an AE title: 1 to 16 printable ASCII letters, no backslash, no blank at either end")


def _address(value: object, where: str) -> str:
    try:
        return str(ipaddress.ip_address(_text(value, where)))
    except ValueError as error:
        raise _wrong(where, "an address of this machine, such as 127.0.0.1; 0.0.0.0 for all") from error


def _network(value: object, where: str) -> str:
    try:
        return str(ipaddress.ip_network(_text(value, where)))
    except ValueError as error:
        raise _wrong(where, "a network without host bits, such as 10.1.0.0/16, or one address") from error


def _url(value: object, where: str) -> str:
    allowed = "an address that begins with http:// or https:// and holds no user, password, `?` or `#`"
    text = _text(value, where)
    try:
        parts = urlsplit(text)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise _wrong(where, allowed) from error
    # A password in an address ends up in logs; `headers` takes secrets.
    _expect(sound and "@" not in parts.netloc and not parts.query and not parts.fragment, where, allowed)
    return text.rstrip("/")


def _hash(value: object, where: str) -> str:
    if isinstance(value, str) and _HASH.fullmatch(value.lower()):
        return value.lower()
    raise _wrong(where, "the SHA-256 of a key, 64 hexadecimal digits, and never the key itself")


def _model(value: object, where: str, *, folder: Path) -> str:
    """Return the name of a bundle that ships, or the path of another's file."""
    text = _text(value, where)
    return str(folder / Path(text).expanduser()) if "/" in text or text.endswith(".rentgen") else text


def _path(value: object, where: str, *, folder: Path) -> Path:
    return folder / Path(_text(value, where)).expanduser()


def _secret(value: object, where: str, *, folder: Path) -> str:
    """Return a secret: from the environment (`env:NAME`), from a file (`file:PATH`), or as it stands."""
    text = _text(value, where)
    kind, _, name = text.partition(":")
    if kind == "env":
        secret = os.environ.get(name, "")
        _expect(bool(secret), where, f"the environment variable {name} to be set")
        return secret
    if kind == "file":
        try:
            secret = (folder / Path(name).expanduser()).read_text("utf-8").strip()
        except (OSError, ValueError) as error:
            raise _wrong(where, "the file after `file:` to exist, to be text and to be readable") from error
        _expect(bool(secret), where, "the file after `file:` not to be empty")
        return secret
    return text


def _headers(value: object, where: str, *, secret: Read) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _wrong(where, "a table of header names and values")
    return {_text(name, where): str(secret(item, _below(where, name))) for name, item in value.items()}


def _tls(value: object, where: str, *, folder: Path) -> Tls:
    path = partial(_path, folder=folder)
    keys: dict[str, Read] = {"certificate": path, "key": path, "authority": path, "demand_certificate": _flag}
    found = _table(value, where, keys=keys)
    _expect(("certificate" in found) == ("key" in found), where, "`certificate` and `key` together, or neither")
    if where.startswith("gateway"):
        _need(found, where, ("certificate", "key"))
        if found.get("demand_certificate", True):
            _need(found, where, ("authority",))
    return Tls(**found)
