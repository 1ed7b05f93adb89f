"""What `rentgen gateway check` finds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import peers
import pytest

from rentgen.gateway.check import check_all
from rentgen.gateway.nouns import CheckResult, Destination, GatewayConfig, Source, Wire
from rentgen.gateway.reconcile import Instance, reconcile
from rentgen.records.results import Kind

# pynetdicom's requestor leaves a socket whose peer hung up to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def by_name(results: list[CheckResult]) -> dict[str, CheckResult]:
    return {result.name: result for result in results}


def test_all_is_well(tmp_path: Path) -> None:
    with peers.storescp(tmp_path) as port:
        pacs = Destination("pacs", Wire.DIMSE, (Kind.STRUCTURED_REPORT,), "127.0.0.1", port, "ANY")
        config = GatewayConfig(
            folder=tmp_path / "spool", min_free_mb=0, database=f"sqlite:///{tmp_path}/a.db", destinations=(pacs,)
        )
        results = check_all(config)
    assert [result for result in results if not result.ok] == []
    assert list(by_name(results)) == ["disk", "database", "pacs"]


def test_what_is_wrong_is_said_with_what_to_do(tmp_path: Path) -> None:
    gone = Destination("pacs", Wire.DIMSE, (Kind.STRUCTURED_REPORT,), "127.0.0.1", peers.free_port(), "ANY")
    web = Source("web", Wire.STOW, url=f"http://127.0.0.1:{peers.free_port()}")
    config = GatewayConfig(folder=tmp_path, min_free_mb=1e12, destinations=(gone,), sources=(web,))
    results = by_name(check_all(config))
    assert not any(result.ok for result in results.values())
    assert "min_free_mb" in results["disk"].detail
    assert "gateway.database" in results["database"].detail
    assert "check host, port" in results["pacs"].detail
    assert "not reached" in results["web"].detail


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = replace(GatewayConfig(), folder=tmp_path / "file" / "spool")
    assert "gateway.folder" in by_name(check_all(config))["disk"].detail


def test_reconciliation_is_a_difference() -> None:
    theirs = [Instance("1.1", "1.2", f"1.3.{number}") for number in (3, 1, 2, 1)]
    difference = reconcile(theirs, {"1.3.2", "1.9"})
    assert [each.sop_instance_uid for each in difference.missing] == ["1.3.1", "1.3.3"]
    assert difference.known == 1
    assert difference.studies == ("1.1",)
