"""STOW to another gateway's door: what it answers, and what that means for a delivery."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import answers
import peers
import pytest
from peers import FolderIntake

from rentgen.gateway.deliver import sender_of
from rentgen.gateway.nouns import Destination, GatewayConfig, Outcome, Result, Sender, Wire
from rentgen.gateway.stow import StowLimits, create_stow
from rentgen.outputs.documents import documents
from rentgen.records.results import Document, Kind

KINDS = (Kind.STRUCTURED_REPORT, Kind.KEY_OBJECT)


@pytest.fixture(scope="module")
def made() -> tuple[Document, ...]:
    return documents(answers.study(), KINDS)


@pytest.fixture
def config(tmp_path: Path) -> GatewayConfig:
    (tmp_path / "kept").mkdir()
    return GatewayConfig(folder=tmp_path / "spool", min_free_mb=0)


@contextmanager
def door(
    config: GatewayConfig, limits: StowLimits | None = None, **headers: str
) -> Iterator[tuple[Sender, FolderIntake]]:
    intake = FolderIntake(config.folder.parent / "kept")
    with peers.serving(create_stow(config, intake, limits=limits or StowLimits())) as port:
        sender = sender_of(Destination("web", Wire.STOW, KINDS, url=f"http://127.0.0.1:{port}", headers=headers))
        yield sender, intake
        sender.close()


def test_all_arrive_and_the_same_again_does_no_harm(config: GatewayConfig, made: tuple[Document, ...]) -> None:
    with door(config) as (sender, intake):
        assert [sender.send(made).result for _ in range(2)] == [Result.DELIVERED] * 2
        assert sender.check().detail == "it takes POST, and answers no queries"
    assert {path.stem: path.read_bytes() for path in intake.files} == {each.uid: each.content for each in made}


def test_a_key_that_is_not_taken_may_be_put_right(config: GatewayConfig, made: tuple[Document, ...]) -> None:
    told = replace(config, http_keys=(hashlib.sha256(b"open").hexdigest(),))
    with door(told, Authorization="Bearer shut") as (sender, _):
        assert sender.send(made) == Outcome(Result.RETRY, "HTTP status 401")
    with door(told, Authorization="Bearer open") as (sender, _):
        assert sender.send(made).result is Result.DELIVERED


def test_a_peer_that_is_full_says_when_to_come_back(config: GatewayConfig, made: tuple[Document, ...]) -> None:
    with door(replace(config, min_free_mb=1e12)) as (sender, _):
        assert sender.send(made) == Outcome(Result.RETRY, "HTTP status 503", 30.0)
    with door(config, StowLimits(requests=0)) as (sender, _):
        assert sender.send(made) == Outcome(Result.RETRY, "HTTP status 429", 30.0)


def test_what_is_too_large_never_fits(config: GatewayConfig, made: tuple[Document, ...]) -> None:
    with door(config, StowLimits(body_bytes=100)) as (sender, intake):
        assert sender.send(made) == Outcome(Result.DEAD, "HTTP status 413")
    assert intake.files == []


def test_an_address_that_is_wrong_is_named(config: GatewayConfig) -> None:
    with peers.serving(create_stow(config, FolderIntake(config.folder))) as port:
        sender = sender_of(Destination("web", Wire.STOW, KINDS, url=f"http://127.0.0.1:{port}/nothing"))
        found = sender.check()
        sender.close()
    assert (found.ok, found.detail) == (False, "HTTP status 404; check `url` and the credentials")
