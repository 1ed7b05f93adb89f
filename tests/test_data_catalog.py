"""The catalogue's own consistency."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from rentgen.data.catalog import DATA_SETS, Client, DataSet, Published, find
from rentgen.errors import SettingError
from rentgen.images.phantom import Finding


def test_names_are_those_of_the_documentation() -> None:
    text = (Path(__file__).parent.parent / "docs" / "datasets.md").read_text(encoding="utf-8")
    for data_set in DATA_SETS:
        assert f"`{data_set.name}`" in text
    assert len({data_set.name for data_set in DATA_SETS}) == len(DATA_SETS)


@pytest.mark.parametrize("data_set", DATA_SETS, ids=lambda entry: entry.name)
def test_every_entry_is_complete(data_set: DataSet) -> None:
    assert data_set.notes
    assert data_set.classes
    assert (data_set.page is None) == (data_set.client is Client.GENERATED)
    assert (data_set.file is not None) == (data_set.client is Client.HTTPS)
    assert data_set.handle or data_set.client in (Client.HTTPS, Client.GENERATED)
    addresses = [data_set.page] if data_set.page else []
    if data_set.file is not None:
        assert data_set.file.name == Path(data_set.file.name).name
        assert data_set.file.name.endswith(".zip")
        assert data_set.file.urls
        assert data_set.file.sha256 is None or len(bytes.fromhex(data_set.file.sha256)) == 32
        addresses += data_set.file.urls
    assert all(urlsplit(url).scheme == "https" and urlsplit(url).hostname for url in addresses)


def test_every_way_of_publishing_is_in_use() -> None:
    assert {data_set.published for data_set in DATA_SETS} == set(Published)


def test_the_phantoms_classes_are_the_generators() -> None:
    assert set(find("phantom").classes) <= {str(finding) for finding in Finding}


def test_find_knows_names_in_any_case_and_suggests_the_nearest() -> None:
    assert find(" Kermany ").name == "kermany"
    with pytest.raises(SettingError, match=r"got 'kermani'\. Did you mean 'kermany'\? Known: phantom, "):
        find("kermani")
    with pytest.raises(SettingError, match=r"got 'zzzzzz'\. Known: phantom, "):
        find("zzzzzz")
