"""What the shipped bundle `pneumonia` does, measured again: nothing here is taken from its card but to compare with.

    python bench/pneumonia.py --data KERMANY_TRAIN [--other FOLDER] [--native FOLDER]

`--data` is Kermany's training folder: the fixed tenth of its patients that never trained nor chose is found by content.
`--other` is a folder of films of another population: how many are refused, as they are and after all films were packed
and resized alike. `--native` holds some of the films at their native size: whether film and copy get the same answer.
What is no chest film comes from packages that the tests install, or is drawn.
"""

from __future__ import annotations

import argparse
import io
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from pydicom.data import get_testdata_file
from sklearn.datasets import load_sample_images

from rentgen import bundle as bundles
from rentgen.data.audit import examine
from rentgen.data.listing import find_films, list_images
from rentgen.engine.predictor import Predictor
from rentgen.errors import BundleError, SettingError
from rentgen.evaluate.judge import judge, select_part
from rentgen.images.prepare import to_uint8
from rentgen.images.read import read
from rentgen.parallel.local import cores
from rentgen.records import Listing, Precision, Split, Status, UInt8

NAME = "pneumonia"
FIGURES = ("accuracy", "auroc", "f1", "ece")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="Kermany's training folder")
    parser.add_argument("--other", type=Path, help="films of another population")
    parser.add_argument("--native", type=Path, help="films of the training folder at their native size")
    arguments = parser.parse_args()
    path = bundles.find(NAME)
    print(f"bundle: {path.stat().st_size / 1e6:.1f} MB; {platform.processor() or platform.machine()}")
    exact = Predictor.load(NAME, precision=Precision.F32)
    listing = list_images(arguments.data)
    held = select_part(listing, exact, Split.TEST, examine(listing).hashes)
    for precision in (Precision.F32, Precision.BF16):
        try:
            predictor = Predictor.load(NAME, precision=precision)
        except (BundleError, SettingError) as error:
            print(f"{precision}: {error}")
            continue
        print_figures(predictor, held)
    print_latency(exact)
    print_refused("held-out films of the same hospital", exact, [record.path for record in held.records])
    print_strangers(exact, [record.path for record in held.records])
    if arguments.other:
        for folder in sorted({path.parent for path in find_films(arguments.other)}):
            print_refused(folder.relative_to(arguments.other.parent).as_posix(), exact, find_films(folder))
    if arguments.native:
        print_copies(exact, arguments.native, arguments.data)


def print_figures(predictor: Predictor, held: Listing) -> None:
    """Print the figures of the held-out tenth, and what the card says of it."""
    found = judge(predictor, held, gallery=0).evaluation
    said = predictor.card.test or {}
    print(f"{found.n} films of {found.patients} held-out patients, {predictor.session.precision}; leak: {found.leak}")
    for name in FIGURES:
        measured, card = found.metrics[name], said[name]["value"]
        exact = predictor.session.precision is Precision.F32
        same = (
            "as the card says"
            if abs(measured.value - card) < 0.002
            else f"{'THE CARD SAYS' if exact else 'in f32'} {card:.4f}"
        )
        print(f"  {name:<10} {measured.value:.4f} ({measured.low:.4f}-{measured.high:.4f}) {same}")


def print_latency(exact: Predictor) -> None:
    """Print the time of one prediction on one core, the film being read already."""
    film = exact.bundle.golden.prepared[:1]
    for precision in (Precision.F32, Precision.BF16):
        try:
            session = Predictor.load(NAME, precision=precision, streams=1).session
        except (BundleError, SettingError) as error:
            print(f"latency {precision}: {error}")
            continue
        times = []
        for _ in range(150):
            start = time.perf_counter()
            session.run(film)
            times.append(time.perf_counter() - start)
        median = 1000 * statistics.median(times[50:])
        print(f"latency {precision}, batch 1, {cores()} cores (taskset -c 0 gives one): {median:.1f} ms")


def alike(path: Path) -> bytes:
    """Return a film packed and resized as all others: 160 x 160, JPEG of quality 50."""
    pixels = Image.fromarray(to_uint8(read(path).pixels)).resize((160, 160), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    pixels.save(buffer, "JPEG", quality=50)
    return buffer.getvalue()


def print_refused(title: str, predictor: Predictor, paths: Sequence[Path]) -> None:
    """Print how many films are refused, as they are and after all were made alike."""
    shares = []
    for sources in (paths, [alike(path) for path in paths]):
        statuses = [prediction.status for prediction in predictor.predict_many(sources)]
        shares.append(sum(status is Status.OUT_OF_SCOPE for status in statuses) / len(statuses))
    print(f"refused: {title}: {shares[0]:.3f} of {len(paths)}; packed and resized alike {shares[1]:.3f}")


def print_strangers(predictor: Predictor, paths: Sequence[Path]) -> None:
    """Print how many of what is no chest film are refused, by kind; a file that is not read is refused, too."""
    kinds = {**changed(paths), **drawn(), **packaged()}
    for kind, sources in kinds.items():
        statuses = [prediction.status for prediction in predictor.predict_many(sources)]
        refused = sum(status in (Status.OUT_OF_SCOPE, Status.ERROR) for status in statuses)
        print(f"refused: {kind}: {refused} of {len(statuses)}")


def changed(paths: Sequence[Path]) -> dict[str, list[bytes]]:
    """Return films that are none any more: turned, upside down, negative, a quarter, scrambled."""
    kinds: dict[str, list[bytes]] = {}
    for path in paths[:: max(1, len(paths) // 60)]:
        film = to_uint8(read(path).pixels)
        rows, columns = (side // 2 for side in film.shape)
        upper, lower = film[:rows], film[rows : 2 * rows]
        scrambled = np.vstack([np.hstack([part[:, columns:], part[:, :columns]]) for part in (lower, upper)])
        for kind, image in (
            ("films turned by 90 degrees", np.rot90(film)),
            ("films upside down", film[::-1]),
            ("negatives", 255 - film),
            ("quarters of films", film[:rows, :columns]),
            ("films in scrambled quarters", scrambled),
        ):
            kinds.setdefault(kind, []).append(png(image))
    return kinds


def drawn() -> dict[str, list[bytes]]:
    """Return pages of text, noise and gradients."""
    rng = np.random.default_rng(0)
    pages, grain, slopes = [], [], []
    for number in range(20):
        page = Image.new("L", (600, 800), 245)
        words = [" ".join(rng.choice(("lorem", "ipsum", "dolor", "sit", "amet"), 9)) for _ in range(40)]
        ImageDraw.Draw(page).multiline_text((40, 40), "\n".join(words), fill=20)
        pages.append(png(np.asarray(page)))
        grain.append(png(rng.integers(0, 256, (300, 300)).astype(np.uint8)))
        down, across = np.mgrid[:300, :300] / 300
        slope = down * np.cos(number) + across * np.sin(number)
        slopes.append(png((255 * (slope - slope.min()) / np.ptp(slope)).astype(np.uint8)))
    return {"pages of text": pages, "noise": grain, "gradients": slopes}


def packaged() -> dict[str, list[bytes]]:
    """Return photographs of scikit-learn, grey, whole and in random parts, and CT, MR and US of pydicom."""
    kinds: dict[str, list[bytes]] = {"photographs": []}
    rng = np.random.default_rng(1)
    for photo in load_sample_images().images:
        grey = np.asarray(Image.fromarray(photo).convert("L"))
        kinds["photographs"].append(png(grey))
        for _ in range(20):
            side = int(rng.integers(150, 400))
            top, left = rng.integers(0, grey.shape[0] - side), rng.integers(0, grey.shape[1] - side)
            kinds["photographs"].append(png(grey[top : top + side, left : left + side]))
    for name in (
        "CT_small.dcm",
        "MR_small.dcm",
        "693_J2KI.dcm",
        "MR-SIEMENS-DICOM-WithOverlays.dcm",
        "examples_ybr_color.dcm",
    ):
        path = get_testdata_file(name, download=False)
        if path is not None:
            kinds.setdefault("CT, MR and ultrasound of pydicom", []).append(Path(str(path)).read_bytes())
    return kinds


def png(image: UInt8) -> bytes:
    """Return an image as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG")
    return buffer.getvalue()


def print_copies(predictor: Predictor, native: Path, data: Path) -> None:
    """Print whether native films and their small copies get the same answer."""
    copies = {path.name: path for path in find_films(data)}
    pairs = [(path, copies[path.name]) for path in find_films(native) if path.name in copies]
    positive = str(predictor.card.positive)
    told = [
        [prediction.probabilities[positive] for prediction in predictor.predict_many(side)]
        for side in zip(*pairs, strict=True)
    ]
    first, second = (np.array(values) for values in told)
    same = int(((first >= 0.5) == (second >= 0.5)).sum())
    near = int((np.abs(first - second) <= 0.05).sum())
    print(f"native and copy: same class {same} of {len(pairs)}, within 0.05 in {near}")


if __name__ == "__main__":
    main()
