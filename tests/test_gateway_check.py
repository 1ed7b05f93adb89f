"""What `rentgen gateway check` finds."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import peers
from pydicom.uid import EncapsulatedPDFStorage
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from rentgen.gateway.check import check_all, check_destination, check_source
from rentgen.gateway.nouns import CheckResult, Destination, GatewayConfig, Source, Wire
from rentgen.gateway.reconcile import Instance, reconcile
from rentgen.gateway.send_dimse import CLASSES
from rentgen.outputs import encapsulated_pdf, key_object, presentation_state, secondary_capture, structured_report
from rentgen.records.results import Kind


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
    assert list(by_name(results)) == ["disk", "database", "destination pacs"]


def test_what_is_wrong_is_said_with_what_to_do(tmp_path: Path) -> None:
    gone = Destination("pacs", Wire.DIMSE, (Kind.STRUCTURED_REPORT,), "127.0.0.1", peers.free_port(), "ANY")
    web = Source("web", Wire.STOW, url=f"http://127.0.0.1:{peers.free_port()}")
    config = GatewayConfig(folder=tmp_path, min_free_mb=1e12, destinations=(gone,), sources=(web,))
    results = by_name(check_all(config))
    assert not any(result.ok for result in results.values())
    assert "min_free_mb" in results["disk"].detail
    assert "gateway.database" in results["database"].detail
    assert "check host, port" in results["destination pacs"].detail
    assert "not reached" in results["source web"].detail


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = replace(GatewayConfig(), folder=tmp_path / "file" / "spool")
    assert "gateway.folder" in by_name(check_all(config))["disk"].detail


def test_classes_and_services_that_a_peer_does_not_take_are_named(tmp_path: Path) -> None:
    entity = AE("PACS")
    for each in (Verification, EncapsulatedPDFStorage):
        entity.add_supported_context(each)
    server = entity.start_server(("127.0.0.1", 0), block=False)
    assert server is not None
    kinds = (Kind.STRUCTURED_REPORT, Kind.PDF)
    pacs = Destination("pacs", Wire.DIMSE, kinds, "127.0.0.1", server.server_address[1], "PACS", commitment=True)
    config = GatewayConfig(folder=tmp_path)
    try:
        lacking = check_destination(pacs, config)
        well = check_destination(replace(pacs, kinds=(Kind.PDF,), commitment=False), config)
    finally:
        server.shutdown()
    assert (lacking.ok, well.ok) == (False, True)
    assert "Comprehensive 3D SR Storage" in lacking.detail
    assert "Storage Commitment" in lacking.detail
    assert "PDF" not in lacking.detail


def test_what_is_negotiated_is_what_is_sent() -> None:
    rooms = (structured_report, secondary_capture, presentation_state, key_object, encapsulated_pdf)
    assert {room.MAKE.kind: room.MAKE.sop_class_uid for room in rooms} == CLASSES


def test_a_source_that_answers_no_queries_is_named(tmp_path: Path) -> None:
    with peers.storescp(tmp_path) as port:
        found = check_source(Source("pacs", Wire.DIMSE, "127.0.0.1", port, "ANY"), GatewayConfig(), date(2026, 1, 1))
    assert not found.ok
    assert "Query/Retrieve" in found.detail or "does not offer" in found.detail


def test_reconciliation_is_a_difference() -> None:
    theirs = [Instance("1.1", "1.2", f"1.3.{number}") for number in (3, 1, 2, 1)]
    difference = reconcile(theirs, {"1.3.2", "1.9"})
    assert [each.sop_instance_uid for each in difference.missing] == ["1.3.1", "1.3.3"]
    assert difference.known == 1
    assert difference.studies == ("1.1",)
