"""The road of `get`: a local server, a stand-in for kagglehub, archives that a person put there."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Site, closed_port, pack_zip, serve

from rentgen.data.catalog import DataSet, RemoteFile, find
from rentgen.data.download import Patience
from rentgen.data.fetch import GetOptions, by_hand, get
from rentgen.data.listing import list_images
from rentgen.errors import DataError, MissingExtraError, PeerError, SettingError

QUICK = GetOptions(patience=Patience(timeout_s=2.0, attempts=3, backoff_s=0.01))


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as state:
        yield state


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
    assert data_set.file is not None
    file = RemoteFile(data_set.file.name, (site.url,), sha256=hashlib.sha256(site.body).hexdigest())
    return dataclasses.replace(data_set, file=file)


def test_get_leaves_a_folder_to_train_on(site: Site, tmp_path: Path) -> None:
    data_set = served(site, "kermany", KERMANY_LIKE, tmp_path)
    out = tmp_path / "kermany"
    seen: list[tuple[int, int]] = []
    assert get(data_set, out, progress=lambda done, total: seen.append((done, total)), options=QUICK) == out
    assert (len(site.body), len(site.body)) in seen
    assert sorted(path.name for path in out.iterdir()) == ["SOURCE.txt", "films"]
    assert list_images(out).classes == ("NORMAL", "PNEUMONIA")
    assert "CC BY 4.0" in (out / "SOURCE.txt").read_text(encoding="utf-8")
    get(data_set, out)
    assert len(site.asked) == 1
    with pytest.raises(SettingError, match=r"an empty folder for 'shenzhen', but .* holds 'kermany'"):
        get(find("shenzhen"), out)


def test_get_writes_labels_where_the_publisher_has_no_class_folders(site: Site, tmp_path: Path) -> None:
    members = {"MontgomerySet/CXR_png/MCUCXR_0001_0.png": b"1", "MontgomerySet/CXR_png/MCUCXR_0104_1.png": b"2"}
    data_set = served(site, "montgomery", members, tmp_path)
    table = get(data_set, tmp_path / "out", options=QUICK)
    assert table == tmp_path / "out" / "labels.csv"
    assert list_images(table).classes == ("Normal", "Tuberculosis")


def test_get_takes_an_archive_that_a_person_put_there_and_keeps_it(site: Site, tmp_path: Path) -> None:
    data_set = served(site, "kermany", KERMANY_LIKE, tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    (out / "ChestXRay2017.zip").write_bytes(site.body)
    get(data_set, out, options=QUICK)
    assert site.asked == []
    assert (out / "ChestXRay2017.zip").exists()
    assert len(list_images(out)) == 4


def test_an_archive_of_the_publishers_name_is_checked_and_a_mirrors_is_taken(site: Site, tmp_path: Path) -> None:
    data_set = served(site, "kermany", KERMANY_LIKE, tmp_path)
    other = {name: content + b"other" for name, content in KERMANY_LIKE.items()}
    pack_zip(tmp_path / "ChestXRay2017.zip", other)
    (tmp_path / "served.zip").unlink()
    with pytest.raises(PeerError, match=r"to have sha256 .* was moved to .*rejected(.|\n)*By hand:"):
        get(data_set, tmp_path, options=QUICK)
    pack_zip(tmp_path / "archive.zip", other)
    assert len(list_images(get(data_set, tmp_path, options=QUICK))) == 4
    assert site.asked == []


def test_films_that_a_person_put_there_are_taken(tmp_path: Path) -> None:
    for name in KERMANY_LIKE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert list_images(get(find("kermany"), tmp_path)).classes == ("NORMAL", "PNEUMONIA")


def test_a_broken_archive_leaves_no_half_set(site: Site, tmp_path: Path) -> None:
    data_set = served(site, "kermany", {"README.md": b"", **KERMANY_LIKE, "../evil": b""}, tmp_path)
    with pytest.raises(DataError, match="to stay inside its folder"):
        get(data_set, tmp_path / "out", options=QUICK)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ChestXRay2017.zip"]


def test_without_network_the_message_says_what_to_do_by_hand(tmp_path: Path) -> None:
    file = RemoteFile("ChestXRay2017.zip", (f"http://127.0.0.1:{closed_port()}/file",))
    data_set = dataclasses.replace(find("kermany"), file=file)
    with pytest.raises(PeerError) as caught:
        get(data_set, tmp_path / "out", options=QUICK)
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


class FakeKaggle:
    """Fills a folder of its own like kagglehub, and remembers how it was asked."""

    def __init__(self, cache: Path, *names: str, fails: Exception | None = None) -> None:
        self.cache, self.names, self.fails = cache, names, fails
        self.calls: list[tuple[str, str]] = []

    def dataset_download(self, handle: str) -> str:
        return self.fill("dataset", handle)

    def competition_download(self, handle: str) -> str:
        return self.fill("competition", handle)

    def fill(self, kind: str, handle: str) -> str:
        self.calls.append((kind, handle))
        if self.fails is not None:
            raise self.fails
        for name in self.names:
            (self.cache / name).parent.mkdir(parents=True, exist_ok=True)
            (self.cache / name).write_bytes(b"")
        return str(self.cache)


COVID = tuple(
    f"Covid19-dataset/{part}/{label}/{part}.png" for part in ("train", "test") for label in ("Covid", "Normal")
)


def test_kaggle_sets_come_by_their_handle_and_stay_in_its_cache(tmp_path: Path) -> None:
    client = FakeKaggle(tmp_path / "cache", *COVID)
    out = get(find("covid19-3class"), tmp_path / "out", client=client)
    assert client.calls == [("dataset", "pranavraikokte/covid19-image-dataset")]
    assert list_images(out).classes == ("Covid", "Normal")
    assert (tmp_path / "cache" / COVID[0]).samefile(out / "films" / COVID[0])


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")  # noqa: S108
def test_films_are_copied_from_a_cache_on_another_disk(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as cache:
        out = get(find("covid19-3class"), tmp_path / "out", client=FakeKaggle(Path(cache), *COVID))
    assert len(list_images(out)) == 4


def test_competitions_come_by_their_own_call(tmp_path: Path) -> None:
    client = FakeKaggle(tmp_path / "cache", fails=RuntimeError("403 Client Error"))
    with pytest.raises(PeerError, match=r"RuntimeError: 403 Client Error\n\nBy hand:\n1\. Open https://www\.kaggle"):
        get(find("rsna-pneumonia"), tmp_path, client=client)
    assert client.calls == [("competition", "rsna-pneumonia-detection-challenge")]


def test_an_answer_without_films_is_refused(tmp_path: Path) -> None:
    client = FakeKaggle(tmp_path / "cache", "README.md")
    with pytest.raises(PeerError, match=r"Expected films of COVID-19 Image Dataset.*, but none came\.\n\nBy hand:"):
        get(find("covid19-3class"), tmp_path / "out", client=client)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    with pytest.raises(DataError, match=r"Expected films in .*films, but there are none\. Delete it, or choose"):
        get(find("covid19-3class"), tmp_path)


def test_a_zip_from_kaggles_page_needs_no_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    pack_zip(tmp_path / "archive.zip", dict.fromkeys(COVID[:4], b""))
    assert len(list_images(get(find("covid19-3class"), tmp_path))) == 4
    other = tmp_path / "other"
    other.mkdir()
    for name in ("a.zip", "b.zip"):
        (other / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"at most one zip in .*, but got a\.zip, b\.zip"):
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
