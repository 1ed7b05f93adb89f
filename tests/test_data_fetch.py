"""Downloads from a real server on loopback with faults, unpacking of hostile archives, and the road of `get`."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import socket
import stat
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rentgen.data.catalog import DataSet, RemoteFile, find
from rentgen.data.fetch import GetOptions, Limits, Transfer, by_hand, download, get, unpack
from rentgen.data.listing import list_images
from rentgen.errors import DataError, MissingExtraError, PeerError, SettingError

BODY = bytes(range(256)) * 1200
SHA256 = hashlib.sha256(BODY).hexdigest()
QUICK = Transfer(timeout_s=2.0, attempts=3, backoff_s=0.01)


@dataclass
class Site:
    """What the server does, and what it was asked for."""

    url: str = ""
    body: bytes = BODY
    etag: str | None = '"one"'
    ranges: bool = True
    statuses: list[int] = field(default_factory=list)
    drops: list[int] = field(default_factory=list)
    announced: int | None = None
    shift: int = 0
    chunked: bool = False
    asked: list[str | None] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.close_connection = True
        if self.path in ("/loop", "/out"):
            target = "/loop" if self.path == "/loop" else "http://example.invalid/file"
            self.answer(302, {"Location": target, "Content-Length": "0"})
            return
        site = self.site
        site.asked.append(self.headers["Range"])
        if site.statuses:
            self.answer(site.statuses.pop(0), {"Content-Length": "0", "Retry-After": "0"})
            return
        self.send_file(site)

    def send_file(self, site: Site) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        same = self.headers["If-Range"] in (None, site.etag)
        start = int(asked[1]) if asked and site.ranges and same else 0
        if start and start >= len(site.body):
            self.answer(416, {"Content-Range": f"bytes */{len(site.body)}", "Content-Length": "0"})
            return
        start += site.shift if start else 0
        part = site.body[start:]
        headers = {"Content-Length": str(site.announced or len(part))}
        if site.chunked:
            headers = {"Transfer-Encoding": "chunked"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(site.body) - 1}/{len(site.body)}"
        if site.etag:
            headers["ETag"] = site.etag
        self.answer(206 if start else 200, headers)
        part = part[: site.drops.pop(0)] if site.drops else part
        if site.chunked:
            part = b"%x\r\n" % len(part) + part + b"\r\n0\r\n\r\n"
        self.wfile.write(part)

    def answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def site() -> Iterator[Site]:
    state = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"site": state}))
    state.url = f"http://127.0.0.1:{server.server_port}/file"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def remote(site: Site, **changes: object) -> RemoteFile:
    return dataclasses.replace(RemoteFile("films.zip", (site.url,), sha256=SHA256), **changes)  # type: ignore[arg-type]


def test_a_file_is_downloaded_checked_and_left_without_traces(site: Site, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = download(
        remote(site, size_bytes=len(BODY), md5=hashlib.md5(BODY, usedforsecurity=False).hexdigest()),
        tmp_path,
        progress=lambda done, total: seen.append((done, total)),
        transfer=QUICK,
    )
    assert path.read_bytes() == BODY
    assert [entry.name for entry in tmp_path.iterdir()] == ["films.zip"]
    assert seen[0] == (0, len(BODY))
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_file_that_is_there_is_only_checked(site: Site, tmp_path: Path) -> None:
    (tmp_path / "films.zip").write_bytes(BODY)
    download(remote(site), tmp_path, transfer=QUICK)
    assert site.asked == []


def test_a_dropped_connection_is_continued(site: Site, tmp_path: Path) -> None:
    site.drops = [100_000, 50_000]
    path = download(remote(site, sha256=None), tmp_path, transfer=QUICK)
    assert path.read_bytes() == BODY
    assert site.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_run_continues_the_part(site: Site, tmp_path: Path) -> None:
    site.drops = [100_000]
    with pytest.raises(PeerError, match=r"100000 of 307200 bytes came, then the connection closed \(1 attempts\)"):
        download(remote(site, sha256=None), tmp_path, transfer=dataclasses.replace(QUICK, attempts=1))
    assert (tmp_path / "films.zip.part").stat().st_size == 100_000
    assert download(remote(site, sha256=None), tmp_path, transfer=QUICK).read_bytes() == BODY
    assert site.asked[-1] == "bytes=100000-"


def test_a_part_of_another_copy_is_not_kept(site: Site, tmp_path: Path) -> None:
    site.drops = [100_000]
    with pytest.raises(PeerError):
        download(remote(site, sha256=None), tmp_path, transfer=dataclasses.replace(QUICK, attempts=1))
    site.body, site.etag = BODY[::-1], '"two"'
    assert download(remote(site, sha256=None), tmp_path, transfer=QUICK).read_bytes() == BODY[::-1]


def test_a_part_without_validator_or_hash_is_not_kept(site: Site, tmp_path: Path) -> None:
    site.etag = None
    (tmp_path / "films.zip.part").write_bytes(b"x" * 10)
    assert download(remote(site, sha256=None), tmp_path, transfer=QUICK).read_bytes() == BODY
    assert site.asked == [None]


def test_a_weak_entity_tag_is_no_validator(site: Site, tmp_path: Path) -> None:
    site.etag, site.drops = 'W/"one"', [100_000]
    assert download(remote(site, sha256=None), tmp_path, transfer=QUICK).read_bytes() == BODY
    assert site.asked == [None, None]


def test_a_server_without_ranges_starts_over(site: Site, tmp_path: Path) -> None:
    site.ranges, site.drops = False, [100_000, 200_000]
    assert download(remote(site), tmp_path, transfer=QUICK).read_bytes() == BODY
    assert len(site.asked) == 3


def test_another_range_than_the_one_asked_starts_over(site: Site, tmp_path: Path) -> None:
    site.drops, site.shift = [100_000], 7
    assert download(remote(site), tmp_path, transfer=QUICK).read_bytes() == BODY
    assert site.asked == [None, "bytes=100000-", None]


def test_a_part_that_is_too_long_starts_over(site: Site, tmp_path: Path) -> None:
    (tmp_path / "films.zip.part").write_bytes(BODY + b"more")
    assert download(remote(site), tmp_path, transfer=QUICK).read_bytes() == BODY
    assert site.asked == [f"bytes={len(BODY) + 4}-", None]


def test_a_complete_part_needs_no_server(tmp_path: Path) -> None:
    (tmp_path / "films.zip.part").write_bytes(BODY)
    url = f"http://127.0.0.1:{closed_port()}/file"
    file = RemoteFile("films.zip", (url,), size_bytes=len(BODY), sha256=SHA256)
    assert download(file, tmp_path, transfer=QUICK).read_bytes() == BODY


def test_a_busy_server_is_asked_again(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 429]
    assert download(remote(site), tmp_path, transfer=QUICK).read_bytes() == BODY
    assert len(site.asked) == 3


def test_a_server_that_stays_busy_is_given_up(site: Site, tmp_path: Path) -> None:
    site.statuses = [503] * 9
    with pytest.raises(PeerError, match=r"HTTP 503 \(3 attempts\)"):
        download(remote(site), tmp_path, transfer=QUICK)
    assert len(site.asked) == 3


def test_a_missing_file_is_not_asked_for_twice(site: Site, tmp_path: Path) -> None:
    site.statuses = [404]
    with pytest.raises(PeerError, match=r"films\.zip could not be downloaded\. .* answered HTTP 404 Not Found"):
        download(remote(site), tmp_path, transfer=QUICK)
    assert len(site.asked) == 1


def test_the_next_address_is_tried(site: Site, tmp_path: Path) -> None:
    file = remote(site, urls=(f"http://127.0.0.1:{closed_port()}/file", site.url))
    assert download(file, tmp_path, transfer=QUICK).read_bytes() == BODY


def test_a_wrong_hash_is_moved_aside(site: Site, tmp_path: Path) -> None:
    with pytest.raises(PeerError, match=f"to have sha256 {'0' * 64}, but {SHA256} came. It was moved to .*rejected"):
        download(remote(site, sha256="0" * 64), tmp_path, transfer=QUICK)
    assert [entry.name for entry in tmp_path.iterdir()] == ["films.zip.rejected"]


def test_a_wrong_md5_and_a_wrong_size_are_found(site: Site, tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="to have md5 0000"):
        download(remote(site, sha256=None, md5="0" * 32), tmp_path, transfer=QUICK)
    with pytest.raises(PeerError, match="expected 5 bytes, but the server announced 307200"):
        download(remote(site, size_bytes=5), tmp_path, transfer=QUICK)
    (tmp_path / "films.zip").write_bytes(b"page")
    with pytest.raises(PeerError, match="to have bytes 307200, but 4 came"):
        download(remote(site, size_bytes=len(BODY)), tmp_path, transfer=QUICK)


def test_a_server_that_announces_too_much_is_given_up(site: Site, tmp_path: Path) -> None:
    site.announced, site.ranges = len(BODY) + 10, False
    with pytest.raises(PeerError, match=r"307200 of 307210 bytes came, then the connection closed \(3 attempts\)"):
        download(remote(site), tmp_path, transfer=QUICK)


def test_a_file_of_unknown_length_is_taken_and_bounded(site: Site, tmp_path: Path) -> None:
    site.chunked = True
    assert download(remote(site), tmp_path, transfer=QUICK).read_bytes() == BODY
    (tmp_path / "films.zip").unlink()
    small = dataclasses.replace(QUICK, max_bytes=1000)
    with pytest.raises(PeerError, match="at most 1000 bytes, but the server sent more"):
        download(remote(site), tmp_path, transfer=small)


def test_a_file_that_is_too_large_is_not_begun(site: Site, tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="at most 1000 bytes, but the server announced 307200"):
        download(remote(site), tmp_path, transfer=dataclasses.replace(QUICK, max_bytes=1000))


def test_a_redirect_loop_and_a_redirect_away_from_https_are_refused(site: Site, tmp_path: Path) -> None:
    loop = remote(site, urls=(site.url.replace("/file", "/loop"),))
    with pytest.raises(PeerError, match="HTTP 302"):
        download(loop, tmp_path, transfer=QUICK)
    out = remote(site, urls=(site.url.replace("/file", "/out"),))
    with pytest.raises(PeerError, match=r"Expected an https address, but got http://example\.invalid/file"):
        download(out, tmp_path, transfer=QUICK)


@pytest.mark.parametrize("url", ["http://example.invalid/a", "file:///etc/passwd", "ftp://127.0.0.1/a"])
def test_other_schemes_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(PeerError, match=f"Expected an https address, but got {url}"):
        download(RemoteFile("a", (url,)), tmp_path, transfer=QUICK)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_not_the_networks_fault(site: Site, tmp_path: Path) -> None:
    (tmp_path / "films.zip.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"films\.zip\.part cannot be written: No space left on device"):
        download(remote(site), tmp_path, transfer=QUICK)
    assert len(site.asked) == 1


def test_an_impatient_transfer_is_not_built() -> None:
    with pytest.raises(SettingError, match="Expected a positive timeout"):
        Transfer(timeout_s=0)


def pack_zip(path: Path, members: dict[str, bytes], mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return path


def pack_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_a_zip_is_unpacked_with_safe_names_and_without_junk(tmp_path: Path) -> None:
    members = {
        "set/train/Viral Pneumonia/a.png": b"1",
        "set\\train\\NORMAL\\b.png": b"2",
        "./set/aux.txt": b"3",
        "set/what?.png. ": b"4",
        f"set/{'n' * 400}.png": b"5",
        "__MACOSX/set/._a.png": b"x",
        "set/.DS_Store": b"x",
        "set/empty/": b"",
    }
    seen: list[tuple[int, int | None]] = []
    archive = pack_zip(tmp_path / "a.zip", members)
    out = unpack(archive, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert found == {
        "set/train/Viral Pneumonia/a.png",
        "set/train/NORMAL/b.png",
        "set/_aux.txt",
        "set/what_.png",
        f"set/{'n' * 236}.png",
    }
    assert (out / "set" / "empty").is_dir()
    assert seen[-1] == (5, 7)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "out"]
    assert unpack(tmp_path / "gone.zip", out) == out


def test_a_tar_is_unpacked(tmp_path: Path) -> None:
    folder = tarfile.TarInfo("set/empty")
    folder.type = tarfile.DIRTYPE
    archive = pack_tar(tmp_path / "a.tar.gz", (tarfile.TarInfo("set/a.png"), b"film"), (folder, b""))
    out = unpack(archive, tmp_path / "out")
    assert (out / "set" / "a.png").read_bytes() == b"film"
    assert (out / "set" / "empty").is_dir()


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "\\evil", "C:\\evil", "..\\evil"])
def test_members_that_leave_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    archive = pack_zip(tmp_path / "a.zip", {"good.png": b"1", name: b"evil"})
    with pytest.raises(DataError, match="to stay inside its folder, but a member is named"):
        unpack(archive, tmp_path / "out")
    info = tarfile.TarInfo(name)
    with pytest.raises(DataError, match="to stay inside its folder, but a member is named"):
        unpack(pack_tar(tmp_path / "a.tar.gz", (info, b"evil")), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "a.zip"]
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_links_and_devices_of_a_tar_are_refused(kind: bytes, tmp_path: Path) -> None:
    info = tarfile.TarInfo("link")
    info.type, info.linkname = kind, "/etc/passwd"
    archive = pack_tar(tmp_path / "a.tar.gz", (info, b""))
    with pytest.raises(DataError, match=r"Expected only files and folders in .*, but 'link' is a link or a device"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_of_a_zip_are_refused(tmp_path: Path) -> None:
    archive = pack_zip(tmp_path / "a.zip", {"link": b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777)
    with pytest.raises(DataError, match="but 'link' is a link or a device"):
        unpack(archive, tmp_path / "out")


def test_bombs_are_refused(tmp_path: Path) -> None:
    zeros = bytes(20_000_000)
    with pytest.raises(DataError, match=r"at most .* bytes, but it holds more\. It may be a zip bomb"):
        unpack(pack_zip(tmp_path / "a.zip", {"a.png": zeros}), tmp_path / "out")
    with pytest.raises(DataError, match="It may be a zip bomb"):
        unpack(pack_tar(tmp_path / "a.tar.gz", (tarfile.TarInfo("a.png"), zeros)), tmp_path / "out")
    many = pack_zip(tmp_path / "many.zip", {f"{index}.png": b"" for index in range(11)})
    with pytest.raises(DataError, match="at most 10 members"):
        unpack(many, tmp_path / "out", limits=Limits(members=10))
    some = pack_zip(tmp_path / "some.zip", {"a.png": b"12345", "b.png": b"12345"})
    with pytest.raises(DataError, match="to unpack to at most 9 bytes"):
        unpack(some, tmp_path / "out", limits=Limits(total_bytes=9))
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_small_text_that_shrinks_well_is_no_bomb(tmp_path: Path) -> None:
    archive = pack_zip(tmp_path / "a.zip", {"a.csv": b"0," * 200_000})
    assert (unpack(archive, tmp_path / "out") / "a.csv").stat().st_size == 400_000


def test_broken_and_foreign_archives_are_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.zip"
    page.write_bytes(b"<!DOCTYPE html><html>Sign in</html>")
    with pytest.raises(DataError, match="to be a zip or tar archive, but it starts with b'<!DOCTYPE html>"):
        unpack(page, tmp_path / "out")
    whole = pack_tar(tmp_path / "whole.tar.gz", (tarfile.TarInfo("a.png"), BODY)).read_bytes()
    (tmp_path / "short.tar.gz").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DataError, match=r"short\.tar\.gz cannot be unpacked"):
        unpack(tmp_path / "short.tar.gz", tmp_path / "out")
    packed = bytearray(pack_zip(tmp_path / "crc.zip", {"a.png": b"film" * 9}).read_bytes())
    packed[40] ^= 0xFF
    (tmp_path / "crc.zip").write_bytes(packed)
    with pytest.raises(DataError, match=r"crc\.zip cannot be unpacked"):
        unpack(tmp_path / "crc.zip", tmp_path / "out")
    twice = tmp_path / "twice.zip"
    with zipfile.ZipFile(twice, "w") as archive:
        archive.writestr("a?.png", b"1")
        archive.writestr("a*.png", b"2")
    with pytest.raises(DataError, match="cannot be unpacked: File exists"):
        unpack(twice, tmp_path / "out")
    assert not (tmp_path / "out").exists()


KERMANY_LIKE = {
    "chest_xray/train/NORMAL/IM-0115-0001.jpeg": b"1",
    "chest_xray/train/PNEUMONIA/person1_bacteria_1.jpeg": b"2",
    "chest_xray/test/NORMAL/IM-0001-0001.jpeg": b"3",
    "chest_xray/test/PNEUMONIA/person1_virus_6.jpeg": b"4",
    "__MACOSX/chest_xray/._train": b"x",
}


def served(site: Site, name: str, members: dict[str, bytes], tmp_path: Path) -> DataSet:
    """Return the set `name` with its archive on the test server."""
    site.body = pack_zip(tmp_path / "served.zip", members).read_bytes()
    data_set = find(name)
    file = RemoteFile(data_set.files[0].name, (site.url,), sha256=hashlib.sha256(site.body).hexdigest())
    return dataclasses.replace(data_set, files=(file,))


def test_get_leaves_a_folder_to_train_on(site: Site, tmp_path: Path) -> None:
    data_set = served(site, "kermany", KERMANY_LIKE, tmp_path)
    out = tmp_path / "kermany"
    assert get(data_set, out, options=GetOptions(transfer=QUICK)) == out
    assert sorted(path.name for path in out.iterdir()) == [".rentgen-source.json", "test", "train"]
    assert list_images(out).classes == ("NORMAL", "PNEUMONIA")
    note = json.loads((out / ".rentgen-source.json").read_text(encoding="utf-8"))
    assert note["licence"] == "CC BY 4.0"
    get(data_set, out)
    assert len(site.asked) == 1
    with pytest.raises(SettingError, match=r"an empty folder for 'shenzhen', but .* holds 'kermany'"):
        get(find("shenzhen"), out)
    (out / ".rentgen-source.json").write_text("[]", encoding="utf-8")
    with pytest.raises(DataError, match="to name a data set, but it is damaged"):
        get(data_set, out)


def test_get_writes_labels_where_the_publisher_has_no_class_folders(site: Site, tmp_path: Path) -> None:
    members = {"MontgomerySet/CXR_png/MCUCXR_0001_0.png": b"1", "MontgomerySet/CXR_png/MCUCXR_0104_1.png": b"2"}
    data_set = served(site, "montgomery", members, tmp_path)
    table = get(data_set, tmp_path / "out", options=GetOptions(transfer=QUICK))
    assert table == tmp_path / "out" / "labels.csv"
    assert list_images(table).classes == ("Normal", "Tuberculosis")


def test_get_takes_an_archive_that_a_person_put_there_and_keeps_it(site: Site, tmp_path: Path) -> None:
    data_set = served(site, "kermany", KERMANY_LIKE, tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    (out / "ChestXRay2017.zip").write_bytes(site.body)
    get(data_set, out, options=GetOptions(transfer=QUICK))
    assert site.asked == []
    assert (out / "ChestXRay2017.zip").exists()
    assert len(list_images(out)) == 4


def test_without_network_the_message_says_what_to_do_by_hand(tmp_path: Path) -> None:
    file = RemoteFile("ChestXRay2017.zip", (f"http://127.0.0.1:{closed_port()}/file",))
    data_set = dataclasses.replace(find("kermany"), files=(file,))
    with pytest.raises(PeerError) as caught:
        get(data_set, tmp_path / "out", options=GetOptions(transfer=QUICK))
    lines = str(caught.value).splitlines()
    assert "Connection refused (3 attempts)" in lines[0]
    assert lines[2:] == [
        "By hand:",
        "1. Open https://data.mendeley.com/datasets/rscbjbr9sj/2 in a browser.",
        "2. Fetch ChestXRay2017.zip (about 1.2 GB).",
        f"3. Put it into {tmp_path / 'out'}, packed as it is.",
        f"4. Run: rentgen data get kermany {tmp_path / 'out'}",
        f"Then go on with: rentgen train {tmp_path / 'out'} --out kermany.rentgen",
        "The same films are at https://www.kaggle.com/datasets/paultimothymooney/chest-xray-pneumonia too.",
    ]


def test_by_hand_tells_of_tokens_and_rules() -> None:
    text = by_hand(find("rsna-pneumonia"), Path("set"))
    assert "Accept the rules at https://www.kaggle.com/competitions/rsna-pneumonia-detection-challenge/rules." in text
    assert "~/.kaggle/access_token" in text
    assert "rentgen train set/labels.csv --out rsna-pneumonia.rentgen" in text
    assert by_hand(find("phantom"), Path("set")).startswith("Run: rentgen data get phantom set")


class FakeKaggle:
    """Fills the folder like kagglehub, and remembers how it was asked."""

    def __init__(self, *names: str, fails: Exception | None = None, elsewhere: Path | None = None) -> None:
        self.names, self.fails, self.elsewhere = names, fails, elsewhere
        self.calls: list[tuple[str, str]] = []

    def dataset_download(self, handle: str, *, output_dir: str) -> str:
        return self.fill("dataset", handle, Path(output_dir))

    def competition_download(self, handle: str, *, output_dir: str) -> str:
        return self.fill("competition", handle, Path(output_dir))

    def fill(self, kind: str, handle: str, folder: Path) -> str:
        self.calls.append((kind, handle))
        if self.fails is not None:
            raise self.fails
        folder = self.elsewhere or folder
        for name in self.names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"")
        return str(folder)


COVID = (
    *(f"Covid19-dataset/{part}/{label}/{part}.png" for part in ("train", "test") for label in ("Covid", "Normal")),
    ".complete/bundle.complete",
)


def test_kaggle_sets_come_by_their_handle(tmp_path: Path) -> None:
    client = FakeKaggle(*COVID)
    out = get(find("covid19-3class"), tmp_path / "out", client=client)
    assert client.calls == [("dataset", "pranavraikokte/covid19-image-dataset")]
    assert list_images(out).classes == ("Covid", "Normal")
    assert not (tmp_path / "out" / ".incoming.part").exists()


def test_a_kaggle_notebook_attaches_a_copy(tmp_path: Path) -> None:
    client = FakeKaggle(*COVID, elsewhere=tmp_path / "input")
    out = get(find("covid19-3class"), tmp_path / "out", client=client)
    assert len(list_images(out)) == 4
    assert (tmp_path / "input" / COVID[0]).exists()


def test_competitions_come_by_their_own_call(tmp_path: Path) -> None:
    client = FakeKaggle(fails=RuntimeError("403 Client Error"))
    with pytest.raises(PeerError, match=r"RuntimeError: 403 Client Error\n\nBy hand:\n1\. Open https://www\.kaggle"):
        get(find("rsna-pneumonia"), tmp_path, client=client)
    assert client.calls == [("competition", "rsna-pneumonia-detection-challenge")]


def test_an_answer_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="Kaggle gave no images of pranavraikokte/covid19-image-dataset"):
        get(find("covid19-3class"), tmp_path, client=FakeKaggle("README.md"))


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=r"not to have 'train' yet\. Choose an empty folder"):
        get(find("covid19-3class"), tmp_path, client=FakeKaggle(*COVID))


def test_a_zip_from_kaggles_page_needs_no_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    pack_zip(tmp_path / "archive.zip", dict.fromkeys(COVID[:4], b""))
    assert len(list_images(get(find("covid19-3class"), tmp_path))) == 4
    other = tmp_path / "other"
    other.mkdir()
    for name in ("a.zip", "b.tar.gz"):
        (other / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"at most one archive in .*, but got a\.zip, b\.tar\.gz"):
        get(find("covid19-3class"), other)


def test_kagglehub_is_asked_for_by_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(MissingExtraError, match=r"kagglehub, which is not installed.*rentgen\[download\]"):
        get(find("covid19-3class"), tmp_path)


def test_the_phantom_set_is_drawn(tmp_path: Path) -> None:
    out = get(find("phantom"), tmp_path / "out", options=GetOptions(films=2, seed=1))
    listing = list_images(out)
    assert listing.classes == find("phantom").classes
    assert len(listing) == 6
