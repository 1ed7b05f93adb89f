"""Downloads from a real server on loopback with faults."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import BODY, Site, closed_port, serve

from rentgen.data.catalog import RemoteFile
from rentgen.data.download import Patience, download
from rentgen.errors import DataError, PeerError

SHA256 = hashlib.sha256(BODY).hexdigest()
QUICK = Patience(timeout_s=2.0, attempts=3, backoff_s=0.01)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as state:
        yield state


def remote(site: Site, *, urls: tuple[str, ...] | None = None, sha256: str | None = SHA256) -> RemoteFile:
    return RemoteFile("films.zip", urls or (site.url,), sha256=sha256)


def test_a_file_is_downloaded_checked_and_left_without_traces(site: Site, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = download(
        remote(site),
        tmp_path,
        progress=lambda done, total: seen.append((done, total)),
        patience=QUICK,
    )
    assert path.read_bytes() == BODY
    assert [entry.name for entry in tmp_path.iterdir()] == ["films.zip"]
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_file_that_is_there_is_only_checked(site: Site, tmp_path: Path) -> None:
    (tmp_path / "films.zip").write_bytes(BODY)
    download(remote(site), tmp_path, patience=QUICK)
    assert site.asked == []


def test_a_dropped_connection_is_continued(site: Site, tmp_path: Path) -> None:
    site.drops = [100_000, 50_000]
    path = download(remote(site, sha256=None), tmp_path, patience=QUICK)
    assert path.read_bytes() == BODY
    assert site.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_run_continues_the_part(site: Site, tmp_path: Path) -> None:
    site.drops = [100_000]
    with pytest.raises(PeerError, match=r"100000 of 307200 bytes came, then the connection closed \(1 attempts\)"):
        download(remote(site, sha256=None), tmp_path, patience=dataclasses.replace(QUICK, attempts=1))
    assert (tmp_path / "films.zip.part").stat().st_size == 100_000
    assert download(remote(site, sha256=None), tmp_path, patience=QUICK).read_bytes() == BODY
    assert site.asked[-1] == "bytes=100000-"


def test_a_part_of_another_copy_is_not_kept(site: Site, tmp_path: Path) -> None:
    site.drops = [100_000]
    with pytest.raises(PeerError):
        download(remote(site, sha256=None), tmp_path, patience=dataclasses.replace(QUICK, attempts=1))
    site.body, site.etag = BODY[::-1], '"two"'
    assert download(remote(site, sha256=None), tmp_path, patience=QUICK).read_bytes() == BODY[::-1]


def test_a_part_without_validator_is_not_kept(site: Site, tmp_path: Path) -> None:
    site.etag = None
    (tmp_path / "films.zip.part").write_bytes(b"x" * 10)
    assert download(remote(site, sha256=None), tmp_path, patience=QUICK).read_bytes() == BODY
    assert site.asked == [None]


def test_a_weak_entity_tag_is_no_validator(site: Site, tmp_path: Path) -> None:
    site.etag, site.drops = 'W/"one"', [100_000]
    assert download(remote(site, sha256=None), tmp_path, patience=QUICK).read_bytes() == BODY
    assert site.asked == [None, None]


def test_a_server_without_ranges_starts_over(site: Site, tmp_path: Path) -> None:
    site.ranges, site.drops = False, [100_000, 200_000]
    assert download(remote(site), tmp_path, patience=QUICK).read_bytes() == BODY
    assert len(site.asked) == 3


def test_another_range_than_the_one_asked_starts_over(site: Site, tmp_path: Path) -> None:
    site.drops, site.shift = [100_000], 7
    assert download(remote(site), tmp_path, patience=QUICK).read_bytes() == BODY
    assert site.asked == [None, "bytes=100000-", None]


def test_a_busy_server_is_asked_again(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 429]
    assert download(remote(site), tmp_path, patience=QUICK).read_bytes() == BODY
    assert len(site.asked) == 3


def test_a_server_that_stays_busy_is_given_up(site: Site, tmp_path: Path) -> None:
    site.statuses = [503] * 9
    with pytest.raises(PeerError, match=r"HTTP 503 \(3 attempts\)"):
        download(remote(site), tmp_path, patience=QUICK)
    assert len(site.asked) == 3


def test_a_missing_file_is_not_asked_for_twice(site: Site, tmp_path: Path) -> None:
    site.statuses = [404]
    with pytest.raises(PeerError, match=r"films\.zip could not be downloaded\. .* answered HTTP 404 Not Found"):
        download(remote(site), tmp_path, patience=QUICK)
    assert len(site.asked) == 1


def test_the_next_address_is_tried(site: Site, tmp_path: Path) -> None:
    file = remote(site, urls=(f"http://127.0.0.1:{closed_port()}/file", site.url))
    assert download(file, tmp_path, patience=QUICK).read_bytes() == BODY


def test_a_wrong_hash_is_moved_aside(site: Site, tmp_path: Path) -> None:
    with pytest.raises(PeerError, match=f"to have sha256 {'0' * 64}, but {SHA256} came. It was moved to .*rejected"):
        download(remote(site, sha256="0" * 64), tmp_path, patience=QUICK)
    assert [entry.name for entry in tmp_path.iterdir()] == ["films.zip.rejected"]


def test_a_redirect_loop_and_a_redirect_away_from_https_are_refused(site: Site, tmp_path: Path) -> None:
    loop = remote(site, urls=(site.url.replace("/file", "/loop"),))
    with pytest.raises(PeerError, match="HTTP 302"):
        download(loop, tmp_path, patience=QUICK)
    out = remote(site, urls=(site.url.replace("/file", "/out"),))
    with pytest.raises(PeerError, match=r"Expected an https address, but got http://example\.invalid/file"):
        download(out, tmp_path, patience=QUICK)


@pytest.mark.parametrize("url", ["http://example.invalid/a", "file:///etc/passwd", "ftp://127.0.0.1/a"])
def test_other_schemes_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(PeerError, match=f"Expected an https address, but got {url}"):
        download(RemoteFile("a", (url,)), tmp_path, patience=QUICK)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_not_the_networks_fault(site: Site, tmp_path: Path) -> None:
    (tmp_path / "films.zip.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"films\.zip\.part cannot be written: No space left on device"):
        download(remote(site), tmp_path, patience=QUICK)
    assert len(site.asked) == 1


def test_a_part_that_is_too_long_starts_over(site: Site, tmp_path: Path) -> None:
    (tmp_path / "films.zip.part").write_bytes(BODY + b"more")
    (tmp_path / "films.zip.part.etag").write_text('"one"', encoding="utf-8")
    assert download(remote(site), tmp_path, patience=QUICK).read_bytes() == BODY
    assert site.asked == [f"bytes={len(BODY) + 4}-", None]


def test_a_file_of_unknown_length_is_taken(site: Site, tmp_path: Path) -> None:
    site.chunked, site.drops = True, [100_000]
    seen: list[tuple[int, int]] = []
    download(remote(site), tmp_path, progress=lambda done, total: seen.append((done, total)), patience=QUICK)
    assert seen[-1] == (len(BODY), 0)
    assert len(site.asked) == 2
