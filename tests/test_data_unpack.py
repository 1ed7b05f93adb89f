"""Unpacking of hostile and broken archives."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from served import BODY, pack_zip

from rentgen.data.unpack import unpack
from rentgen.errors import DataError


def test_a_zip_is_unpacked(tmp_path: Path) -> None:
    members = {
        "set/train/Viral Pneumonia/a.png": b"1",
        "set\\train\\NORMAL\\b.png": b"2",
        "__MACOSX/set/._a.png": b"x",
        "set/empty/": b"",
    }
    seen: list[tuple[int, int]] = []
    out = tmp_path / "out"
    unpack(pack_zip(tmp_path / "a.zip", members), out, progress=lambda done, total: seen.append((done, total)))
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert found == {"set/train/Viral Pneumonia/a.png", "set/train/NORMAL/b.png"}
    assert (out / "set" / "empty").is_dir()
    assert seen[-1] == (3, 3)


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "\\evil", "C:\\evil", "..\\evil"])
def test_members_that_leave_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    archive = pack_zip(tmp_path / "a.zip", {"good.png": b"1", name: b"evil"})
    with pytest.raises(DataError, match="to stay inside its folder, but a member is named"):
        unpack(archive, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(kind: int, tmp_path: Path) -> None:
    archive = pack_zip(tmp_path / "a.zip", {"link": b"/etc/passwd"}, mode=kind | 0o777)
    with pytest.raises(DataError, match=r"Expected only files and folders in .*, but 'link' is a link or a device"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bombs_are_refused(tmp_path: Path) -> None:
    archive = pack_zip(tmp_path / "a.zip", {"a.png": bytes(20_000_000)})
    with pytest.raises(DataError, match=r"at most .* bytes, but got 20000000\. It may be a zip bomb"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bomb_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    archive = pack_zip(tmp_path / "a.zip", {"a.png": bytes(20_000_000)})
    content = archive.read_bytes()
    archive.write_bytes(content.replace((20_000_000).to_bytes(4, "little"), (9).to_bytes(4, "little")))
    with pytest.raises(DataError, match="cannot be unpacked: BadZipFile"):
        unpack(archive, tmp_path / "out")
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*")) <= 9


def test_small_text_that_shrinks_well_is_no_bomb(tmp_path: Path) -> None:
    unpack(pack_zip(tmp_path / "a.zip", {"a.csv": b"0," * 200_000}), tmp_path / "out")
    assert (tmp_path / "out" / "a.csv").stat().st_size == 400_000


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>Sign in</html>", b""])
def test_what_is_no_zip_is_refused(content: bytes, tmp_path: Path) -> None:
    page = tmp_path / "page.zip"
    page.write_bytes(content)
    with pytest.raises(DataError, match=r"to be a whole zip, but it is not.*Delete it and fetch it again"):
        unpack(page, tmp_path / "out")


def test_broken_archives_are_refused(tmp_path: Path) -> None:
    whole = pack_zip(tmp_path / "a.zip", {"a.png": BODY, "b.png": b"film" * 9}).read_bytes()
    broken = tmp_path / "broken.zip"
    for place in (len(whole) // 2, 40):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        broken.write_bytes(damaged)
        with pytest.raises(DataError, match=r"broken\.zip cannot be unpacked"):
            unpack(broken, tmp_path / "out")
    broken.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DataError, match="to be a whole zip, but it is not"):
        unpack(broken, tmp_path / "out")


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    archive = pack_zip(tmp_path / "a.zip", {"a.png": b"film"})
    content = bytearray(archive.read_bytes())
    # Bit 0 of the general purpose flags, in the local and in the central header.
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be unpacked: RuntimeError: .*encrypted"):
        unpack(archive, tmp_path / "out")
