"""Every command of `rentgen gateway`, through the front door."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import gateways
import httpx
import kept
import peers
import pytest
from gateways import Archive, Command
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from rentgen.gateway.config import parse_config
from rentgen.gateway.nouns import GatewayConfig
from rentgen.gateway.stow import create_stow
from rentgen.store.gateway import Held

CONFIG = ("--config", "gateway.toml")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where the commands are given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RENTGEN_DATABASE", gateways.database(tmp_path))
    monkeypatch.delenv("RENTGEN_KEY", raising=False)
    return tmp_path


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


class Moody:
    """An archive that refuses for good until it changes its mind, and takes its time."""

    def __init__(self, folder: Path, seconds: float = 0.0) -> None:
        self.refuses = False
        self.seconds = seconds
        self.archive = Archive()
        self._stow = create_stow(GatewayConfig(folder=folder, min_free_mb=0), self.archive)

    async def refuse(self, request: Request) -> Response:
        return Response(status_code=422)

    @contextmanager
    def listening(self) -> Iterator[dict[str, object]]:
        refusing = Starlette(routes=[Route("/{path:path}", self.refuse, methods=["GET", "POST"])])

        async def answer(scope, receive, send):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            await asyncio.sleep(self.seconds)
            await (refusing if self.refuses else self._stow)(scope, receive, send)

        with peers.serving(Starlette(routes=[Mount("/", answer)])) as port:
            yield {"name": "archive", "wire": "stow", "kinds": ["sr"], "url": f"http://127.0.0.1:{port}"}


def started_and_ended(folder: Path, *options: object, **given: str) -> tuple[int, str]:
    """Return exit code and words of a gateway that does not come to run."""
    done = subprocess.run(
        gateways.command("run", "--precision", "f32", *options),
        cwd=folder,
        env=gateways.environment(folder, **given),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, " ".join(done.stderr.split())


def test_the_example_is_a_configuration(folder: Path, gateway: Command) -> None:
    said = gateway("gateway", "example")
    config = parse_config(said.out, folder=folder)
    assert said.code == 0
    assert config.destinations[0].name == "pacs"
    assert config.dry_run


@pytest.mark.parametrize(
    "arguments", [("run",), ("check",), ("status",), ("dead-letters",), ("retry", "--all"), ("discard", "1")]
)
def test_a_configuration_that_is_not_there_is_missed_by_name(
    folder: Path, gateway: Command, arguments: tuple[str, ...]
) -> None:
    said = gateway("gateway", *arguments, "--config", "missing.toml")
    assert said.code == 1
    assert "There is no missing.toml" in said.words
    assert "rentgen gateway example" in said.words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[gateway", "not TOML"),
        ("[gateway]\nprt = 1", "nearest key is `port`"),
        ("[gateway]\nport = 70000", "whole number from 0 to 65535"),
        ('[gateway]\nhost = "0.0.0.0"', "allow_addresses"),
        ('[[destination]]\nname = "a"\nwire = "fhir"\nkinds = ["sr"]\nurl = "http://a"', "fhir can carry"),
    ],
)
def test_a_configuration_that_is_wrong_says_where(folder: Path, gateway: Command, text: str, words: str) -> None:
    (folder / "gateway.toml").write_text(text)
    said = gateway("gateway", "run")
    assert said.code == 1
    assert words in said.words


def test_check_says_what_each_peer_says(folder: Path, gateway: Command) -> None:
    gone = {"name": "gone", "wire": "dimse", "kinds": ["sr"], "host": "127.0.0.1", "port": peers.free_port()}
    gone["ae_title"] = "GONE"
    with peers.storescp(folder) as port:
        well = gone | {"name": "pacs", "port": port}
        gateways.configure(folder, well)
        fine = gateway("gateway", "check", "--json", "-")
        gateways.configure(folder, well, gone)
        wrong = gateway("gateway", "check", "--json", "checks.json")
    assert fine.code == 0, fine.words
    assert {each["name"]: each["ok"] for each in json.loads(fine.out)["checks"]} == dict.fromkeys(
        ("disk", "database", "destination pacs", "models", "readers"), True
    )
    assert wrong.code == 1
    assert "gone" in wrong.words
    assert "check host, port, AE titles" in wrong.words
    told = {each["name"]: each for each in json.loads((folder / "checks.json").read_text())["checks"]}
    assert [name for name, each in told.items() if not each["ok"]] == ["destination gone"]
    assert "no network, no programs" in told["readers"]["detail"]


def test_check_says_which_model_is_none(folder: Path, gateway: Command) -> None:
    gateways.configure(folder, model="no-such-model")
    said = gateway("gateway", "check")
    assert said.code == 1
    assert "no-such-model" in said.words
    code, words = started_and_ended(folder)
    assert code == 1
    assert "no-such-model" in words
    assert "listens" not in words


def test_an_empty_queue_has_nothing_to_tell(folder: Path, gateway: Command) -> None:
    gateways.configure(folder)
    assert "Objects received: 0" in gateway("gateway", "status", "--alarm").words
    assert json.loads(gateway("gateway", "status", "--json", "-").out)["dead_letters"] == 0
    assert "Nothing was given up" in gateway("gateway", "dead-letters").words
    for arguments in (("retry", "7"), ("retry", "--all"), ("retry", "--destination", "pacs"), ("discard", "7")):
        said = gateway("gateway", *arguments)
        assert said.code == 1
        assert "There is no such dead letter" in said.words
    for options in ((), ("7", "--all"), ("--all", "--destination", "pacs")):
        said = gateway("gateway", "retry", *options)
        assert said.code == 1
        assert "Expected one of JOB" in said.words


def test_the_alarm_goes_off_for_what_is_overdue(folder: Path, gateway: Command) -> None:
    gateways.configure(folder)
    then = datetime.now(UTC) - timedelta(hours=1)
    with gateways.queue(folder) as queue:
        queue.receive(Held("1.2.3.4", "1.2.3", kept.sha("a"), "stow", {}), then)
        queue.close_quiet(then + timedelta(minutes=1), 10)
    said = gateway("gateway", "status")
    assert said.code == 0
    assert re.search(r"has been due for 3[56]\d\d s", said.words)
    assert gateway("gateway", "status", "--alarm").code == 2
    assert gateway("gateway", "status", "--alarm", "--json", "-").code == 2


def test_what_was_given_up_is_told_tried_again_or_dropped(folder: Path, gateway: Command) -> None:
    moody = Moody(folder / "inbox")
    moody.refuses = True
    with moody.listening() as destination:
        ports = (peers.free_port(), peers.free_port())
        gateways.configure(folder, destination, ports=ports)
        with gateways.gateway(folder) as running, gateways.queue(folder) as queue:
            for study in (1, 2, 3):
                assert running.stow(gateways.made(study)).status_code == 200
            gateways.until(lambda: len(queue.dead_letters()) == 3, 30)
            jobs = [letter.job_id for letter in queue.dead_letters()]
            listed, shown = gateway("gateway", "dead-letters", "--json", "-"), gateway("gateway", "dead-letters")
            alarm, plain = gateway("gateway", "status", "--alarm"), gateway("gateway", "status", "--json", "-")
            moody.refuses = False
            dropped = gateway("gateway", "discard", jobs[0])
            again = gateway("gateway", "retry", jobs[1])
            gateways.until(lambda: len(moody.archive.contents) == 1, 20)
            rest = gateway("gateway", "retry", "--destination", "archive")
            gateways.until(lambda: gateways.is_idle(queue) and not queue.dead_letters(), 20)
            quiet = gateway("gateway", "status", "--alarm")
            code, words = started_and_ended(folder)
            elsewhere = folder / "elsewhere"
            gateways.configure(elsewhere, destination, ports=ports)
            busy_code, busy = started_and_ended(elsewhere)
            assert running.get("/healthz").status_code == 200
            assert running.stop() == 0
    letters = json.loads(listed.out)["dead_letters"]
    assert [(each["job"], each["step"], each["destination"]) for each in letters] == [
        (job, "deliver", "archive") for job in jobs
    ]
    assert {each["reason"] for each in letters} == {"HTTP status 422"}
    assert "HTTP status 422" in shown.words
    assert alarm.code == 2
    assert "Given up: 3" in alarm.words
    assert json.loads(plain.out)["dead_letters"] == 3
    assert (dropped.code, again.code, rest.code, quiet.code) == (0, 0, 0, 0)
    assert "Tried again: 1" in again.words
    assert "Tried again: 1" in rest.words
    assert set(moody.archive.came) == {gateways.uids(study)["StudyInstanceUID"] for study in (2, 3)}
    assert (code, busy_code) == (1, 1)
    assert "Another gateway works in" in words
    assert f"Cannot listen on 127.0.0.1:{ports[0]}" in busy
    trail = json.loads(gateway("audit-log", "show", "--json", "-").out)["entries"]
    assert {each["action"] for each in trail} >= {
        f"gateway.{action}" for action in ("start", "stop", "receive", "bury", "retry", "discard", "deliver")
    }


def test_a_signal_to_all_processes_finishes_the_film_in_hand(folder: Path, gateway: Command) -> None:
    # So slow that not all can have gone before the signals come, however busy the machine is.
    moody = Moody(folder / "inbox", seconds=2)
    with moody.listening() as destination:
        gateways.configure(folder, destination)
        with gateways.gateway(folder) as running, gateways.queue(folder) as queue:
            films = [gateways.made(study, size=(900, 800)) for study in range(1, 5)]
            assert running.stow(*films).status_code == 200
            gateways.until(lambda: any(state == "leased" for _, _, state in queue.counts().steps), 20, 0.001)
            # As Ctrl-C and service managers do.
            os.killpg(running.process.pid, signal.SIGINT)
            os.killpg(running.process.pid, signal.SIGTERM)
            assert running.process.wait(60) == 0
            assert not any(state == "leased" for _, _, state in queue.counts().steps)
            said = running.text()
        assert "Stopping" in said
        assert "reader was replaced" not in said
        with pytest.raises(httpx.HTTPError):
            running.get("/healthz")
        with gateways.gateway(folder, "--dry-run") as running, gateways.queue(folder) as queue:
            before = len(moody.archive.contents)
            gateways.until(lambda: gateways.is_idle(queue), 30)
            assert running.stop() == 0
            assert queue.dead_letters() == ()
        assert "Dry run" in running.text()
        assert len(moody.archive.contents) == before < len(films)


def test_a_demonstration_shows_all_of_it(folder: Path) -> None:
    with peers.own_network():
        peers.tool("storescu")
        if not peers.ORTHANC.exists() or not peers.PLUGIN.exists():
            pytest.skip("Orthanc with its DICOMweb plugin is not installed")
        done = subprocess.run(
            gateways.command("demo", "--out", folder / "made"),
            env=gateways.environment(folder),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "Study 1 in Orthanc" in done.stdout
    assert "MSH|" in done.stdout
    assert "All of it is stopped" in done.stdout
