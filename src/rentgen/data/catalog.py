"""Public sets of radiographs: where they are, what may be done with them, and what is wrong with them.

A value of None, and the word "unknown", mean that no source could be found; nothing here is guessed.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path, PurePosixPath

from rentgen.errors import DataError, SettingError
from rentgen.records import Split

LABELS_NAME = "labels.csv"
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom"})


class Client(StrEnum):
    """How a set is fetched."""

    KAGGLE = "kaggle"
    """A Kaggle data set, by kagglehub."""
    KAGGLE_COMPETITION = "kaggle-competition"
    """The data of a Kaggle competition, by kagglehub; its rules must be accepted first."""
    HTTPS = "https"
    """Files on a public server."""
    GENERATED = "generated"
    """Drawn on this machine."""


class Published(StrEnum):
    """How the publisher wrote the labels down."""

    FOLDERS = "folders"
    """A folder for each class: nothing to convert."""
    NIH = "nih"
    """`Data_Entry_2017.csv`, with `test_list.txt` for the split."""
    RSNA = "rsna"
    """`stage_2_train_labels.csv` and `stage_2_detailed_class_info.csv`."""
    TB_NAMES = "tb-names"
    """The file's name ends with `_0` (normal) or `_1` (tuberculosis)."""
    IMAGE_FOLDERS = "image-folders"
    """A folder for each class with `images` and `masks` inside."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a set on a public server.

    Attributes:
        name: what to call it on this machine.
        urls: where it is, the preferred place first.
        size_bytes: exact, or None where unknown.
        sha256: in hexadecimal, or None where unknown.
        md5: in hexadecimal, or None where unknown.
    """

    name: str
    urls: tuple[str, ...]
    size_bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None

    def __post_init__(self) -> None:
        if not self.urls:
            raise SettingError(f"Expected at least one URL for the file {self.name!r}, but got none.")
        if self.name != Path(self.name).name or self.name in ("", ".", ".."):
            raise SettingError(f"Expected a plain file name, but got {self.name!r}.")


@dataclass(frozen=True, slots=True)
class DataSet:
    """A set that Rentgen knows.

    Attributes:
        name: as the command line spells it.
        title: as its publisher spells it.
        client: how it is fetched.
        page: to open in a browser; None for a generated set.
        licence: in words; "unknown" where it could not be found.
        classes: as the folders or the converted CSV spell them.
        images: number of radiographs, or None where unknown.
        approx_bytes: of the download, approximately, or None where unknown.
        modality: kind of image.
        population: whom it shows.
        patients: what is known of who is who.
        citation: with a DOI where there is one.
        published: how the labels were written down.
        handle: on Kaggle, or None.
        files: on a public server.
        notes: what is wrong with the set, and what else to know before training on it.
    """

    name: str
    title: str
    client: Client
    page: str | None
    licence: str
    classes: tuple[str, ...]
    images: int | None
    approx_bytes: int | None
    modality: str
    population: str
    patients: str
    citation: str
    published: Published = Published.FOLDERS
    handle: str | None = None
    files: tuple[RemoteFile, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        on_kaggle = self.client in (Client.KAGGLE, Client.KAGGLE_COMPETITION)
        if on_kaggle and not self.handle:
            raise SettingError(f"Expected the Kaggle set {self.name!r} to have a handle, but got {self.handle!r}.")
        if self.client is Client.HTTPS and not self.files:
            raise SettingError(f"Expected the set {self.name!r} to have files to fetch, but got none.")


_CHEST = "chest radiographs"
_UNKNOWN = "unknown"
_NLM = "https://data.lhncbc.nlm.nih.gov/public/Tuberculosis-Chest-X-ray-Datasets"
_OPENI = "https://openi.nlm.nih.gov/imgs/collections"
_JAEGER = (
    "Jaeger et al., Two public chest X-ray datasets for computer-aided screening of pulmonary diseases,"
    " Quantitative Imaging in Medicine and Surgery 4(6), 2014, doi 10.3978/j.issn.2223-4292.2014.11.20"
)
_TB_LICENCE = (
    "unknown: the National Library of Medicine offers the set to the research community and asks for the citation;"
    " read the terms on its page"
)
_TB_ONE_FILM = "the name has a number for each film; whether a person has several films is unknown"
_WANG = (
    "Wang et al., ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks on Weakly-Supervised"
    " Classification and Localization of Common Thorax Diseases, CVPR 2017, pp. 3462-3471, arXiv 1705.02315"
)

DATA_SETS: tuple[DataSet, ...] = (
    DataSet(
        name="phantom",
        title="Synthetic chest films",
        client=Client.GENERATED,
        page=None,
        licence="none needed: drawn on this machine",
        classes=("consolidation", "effusion", "normal"),
        images=None,
        approx_bytes=None,
        modality="synthetic radiographs",
        population="nobody",
        patients="invented: personN_... in the name, two films each",
        citation="none",
        notes=("For trying out and testing only: a score on it says nothing about patients.",),
    ),
    DataSet(
        name="medical-scan-classification",
        title="Medical Scan Classification Dataset",
        client=Client.KAGGLE,
        page="https://www.kaggle.com/datasets/arjunbasandrai/medical-scan-classification-dataset",
        handle="arjunbasandrai/medical-scan-classification-dataset",
        licence=f"{_UNKNOWN}: see the page, and the sets that it was gathered from",
        classes=(
            "COVID-19: Normal, COVID, Viral Pneumonia",
            "Pneumonia: Normal, Pneumonia",
            "Tuberculosis: Normal, Tuberculosis",
        ),
        images=None,
        approx_bytes=None,
        modality="mixed: chest radiographs, and also CT, MRI, retina, microscopy",
        population=f"{_UNKNOWN}; the Pneumonia part is Kermany's: children of one to five years",
        patients="none given, but the names in the Pneumonia part are Kermany's and tell the patient",
        citation="A. Basandrai, Medical Scan Classification Dataset, Kaggle, 2023 (no DOI)",
        notes=(
            "A collection of unrelated tasks: train on one task's folder, never on the whole.",
            "Only the COVID-19, Pneumonia and Tuberculosis folders hold radiographs.",
            "Gathered from other public sets: do not test on them what was trained here (see kermany).",
        ),
    ),
    DataSet(
        name="kermany",
        title="Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for Classification (chest part)",
        client=Client.HTTPS,
        page="https://data.mendeley.com/datasets/rscbjbr9sj/2",
        handle="paultimothymooney/chest-xray-pneumonia",
        files=(
            RemoteFile(
                "ChestXRay2017.zip",
                (
                    "https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files/"
                    "f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded",
                ),
                size_bytes=1_235_512_464,
                # Not taken from the publisher: three public projects that fetched the file state the same value.
                sha256="13efc055629733dbab07877f8b3c9f81097840dbcdaa326a8542322c2281ce36",
            ),
        ),
        licence="CC BY 4.0",
        classes=("NORMAL", "PNEUMONIA"),
        images=5_856,
        approx_bytes=1_235_512_464,
        modality=f"{_CHEST}, anterior-posterior",
        population="children of one to five years, one hospital (Guangzhou Women and Children's Medical Center)",
        patients="in the name: personN_... (PNEUMONIA), IM-N-... and NORMAL2-IM-N-... (NORMAL)",
        citation=(
            "Kermany, Zhang, Goldbaum, Mendeley Data V2, 2018, doi 10.17632/rscbjbr9sj.2;"
            " Kermany et al., Cell 172(5), 2018, doi 10.1016/j.cell.2018.02.010"
        ),
        notes=(
            "Many patients have several films (up to 30): a split by image leaks.",
            "Children only: nothing it teaches is known to hold for adults.",
            "Normal films are larger and crisper: size and sharpness alone predict the class.",
            "The test part was visibly acquired otherwise, and has other proportions of the classes.",
            "Kaggle's copy splits off a val part of 16 films: too few to choose anything by.",
            "Version 3 of the record packs OCT and chest films into one archive of about 8 GB (ZhangLabData.zip).",
        ),
    ),
    DataSet(
        name="covid19-radiography",
        title="COVID-19 Radiography Database",
        client=Client.KAGGLE,
        page="https://www.kaggle.com/datasets/tawsifurrahman/covid19-radiography-database",
        handle="tawsifurrahman/covid19-radiography-database",
        published=Published.IMAGE_FOLDERS,
        licence=f"{_UNKNOWN}: see the page; each of its sources has terms of its own",
        classes=("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia"),
        images=21_165,
        approx_bytes=None,
        modality=f"{_CHEST}, with lung masks",
        population="adults and children, many sources",
        patients="none given",
        citation=(
            "Chowdhury et al., Can AI Help in Screening Viral and COVID-19 Pneumonia?, IEEE Access 8, 2020,"
            " doi 10.1109/ACCESS.2020.3010287; Rahman et al., Computers in Biology and Medicine 132, 2021,"
            " doi 10.1016/j.compbiomed.2021.104319"
        ),
        notes=(
            "Sources go with classes: COVID from PadChest and others, Lung_Opacity from RSNA, Normal from RSNA"
            " and Kermany, Viral Pneumonia from Kermany alone. A network can name the source instead of the disease"
            " (DeGrave et al., 2021, doi 10.1038/s42256-021-00338-7).",
            "Every Viral Pneumonia film shows a child, most others come from elsewhere: age alone may tell that class.",
            "Overlaps rsna-pneumonia, nih-chestxray14 and kermany: do not test on those.",
            "The masks lie beside the films; labels.csv lists the films only.",
        ),
    ),
    DataSet(
        name="covid19-3class",
        title="COVID-19 Image Dataset: 3 Way Classification",
        client=Client.KAGGLE,
        page="https://www.kaggle.com/datasets/pranavraikokte/covid19-image-dataset",
        handle="pranavraikokte/covid19-image-dataset",
        licence="CC BY-SA 4.0",
        classes=("Covid", "Normal", "Viral Pneumonia"),
        images=317,
        approx_bytes=None,
        modality=f"{_CHEST}, frontal",
        population="adults and children, many sources",
        patients="none given",
        citation=(
            "P. Raikote, COVID-19 Image Dataset, Kaggle, 2020 (no DOI); part of the films from"
            " Cohen et al., COVID-19 Image Data Collection, 2020, arXiv 2003.11597"
        ),
        notes=(
            "317 films: intervals are wide; a difference of a few percent means nothing.",
            "Sources go with classes, and results stay good with the lungs blacked out in sets made this way"
            " (Maguolo and Nanni, 2021, doi 10.1016/j.inffus.2021.04.008).",
            "No patients: films of one person may stand on both sides of its train and test folders.",
        ),
    ),
    DataSet(
        name="shenzhen",
        title="Shenzhen Hospital chest X-ray set",
        client=Client.HTTPS,
        page=f"{_NLM}/Shenzhen-Hospital-CXR-Set/index.html",
        files=(RemoteFile("ChinaSet_AllFiles.zip", (f"{_OPENI}/ChinaSet_AllFiles.zip",)),),
        published=Published.TB_NAMES,
        licence=_TB_LICENCE,
        classes=("Normal", "Tuberculosis"),
        images=662,
        approx_bytes=3_770_000_000,
        modality=f"{_CHEST}, frontal",
        population="routine care of one hospital (Shenzhen No. 3 People's Hospital, China)",
        patients=_TB_ONE_FILM,
        citation=_JAEGER,
        notes=(
            "326 normal, 336 tuberculosis; the label is in the name: CHNCXR_0001_0.png is normal, ..._1.png is not.",
            "One hospital: test a model of it on montgomery.",
            "Should the archive be gone, the page offers the folder CXR_png file by file; put that folder in place.",
        ),
    ),
    DataSet(
        name="montgomery",
        title="Montgomery County chest X-ray set",
        client=Client.HTTPS,
        page=f"{_NLM}/Montgomery-County-CXR-Set/MontgomerySet/index.html",
        files=(
            RemoteFile(
                "MontgomerySet.zip",
                (
                    f"{_NLM}/Montgomery-County-CXR-Set/MontgomerySet.zip",
                    f"{_OPENI}/NLM-MontgomeryCXRSet.zip",
                ),
            ),
        ),
        published=Published.TB_NAMES,
        licence=_TB_LICENCE,
        classes=("Normal", "Tuberculosis"),
        images=138,
        approx_bytes=617_000_000,
        modality=f"{_CHEST}, posterior-anterior, with lung masks",
        population="a tuberculosis control programme (Montgomery County, Maryland, USA)",
        patients=_TB_ONE_FILM,
        citation=_JAEGER,
        notes=(
            "80 normal, 58 tuberculosis: too few to train on; a good second site for shenzhen.",
            "The lung masks have the films' names; labels.csv leaves them out.",
        ),
    ),
    DataSet(
        name="nih-chestxray14",
        title="NIH ChestX-ray14",
        client=Client.KAGGLE,
        page="https://nihcc.app.box.com/v/ChestXray-NIHCC",
        handle="nih-chest-xrays/data",
        published=Published.NIH,
        licence=(
            "no restriction on use; cite Wang et al., name the NIH Clinical Center as the provider and link to its page"
        ),
        classes=("Finding", "No Finding"),
        images=112_120,
        approx_bytes=45_000_000_000,
        modality=f"{_CHEST}, frontal, 1024 x 1024 PNG",
        population="one hospital (NIH Clinical Center, USA)",
        patients="30,805, in Data_Entry_2017.csv",
        citation=_WANG,
        notes=(
            "Labels were mined from the reports' text. On review by a radiologist their positive predictive value was"
            " mostly 10 to 30 points lower than documented (Oakden-Rayner, 2020, doi 10.1016/j.acra.2019.10.006).",
            "Fourteen findings, several on one film: labels.csv asks one question, any finding by default, or"
            " one finding against the rest.",
            "Parents of rsna-pneumonia and of a part of covid19-radiography: do not test on those.",
        ),
    ),
    DataSet(
        name="rsna-pneumonia",
        title="RSNA Pneumonia Detection Challenge (2018)",
        client=Client.KAGGLE_COMPETITION,
        page="https://www.kaggle.com/competitions/rsna-pneumonia-detection-challenge",
        handle="rsna-pneumonia-detection-challenge",
        published=Published.RSNA,
        licence=(
            "on Kaggle: the competition's rules, to be accepted there; RSNA's own page allows academic, commercial and"
            " other use under its attribution terms"
        ),
        classes=("Lung Opacity", "No Lung Opacity / Not Normal", "Normal"),
        images=26_684,
        approx_bytes=None,
        modality=f"{_CHEST}, frontal, 1024 x 1024 DICOM",
        population="films of nih-chestxray14",
        patients=(
            "patientId is one for each film, not for each person; RSNA publishes a mapping to the NIH names"
            " (pneumonia-challenge-dataset-mappings_2018.json), which carry the patient"
        ),
        citation=(
            "Shih et al., Augmenting the National Institutes of Health Chest Radiograph Dataset with Expert Annotations"
            " of Possible Pneumonia, Radiology: Artificial Intelligence 1(1), 2019, doi 10.1148/ryai.2019180041;"
            f" {_WANG}"
        ),
        notes=(
            "8,851 Normal, 11,821 No Lung Opacity / Not Normal, 6,012 Lung Opacity; readers judged the films, without"
            " the patients' further course: an opacity is a possible pneumonia, not a proven one.",
            "Without the mapping a split by patientId is a split by image, and leaks.",
            "The 3,000 films of the challenge's own test part have no public label there and are not listed.",
        ),
    ),
)


def find(name: str) -> DataSet:
    """Return the set of this name.

    Args:
        name: as in `DataSet.name`; case does not matter.

    Raises:
        SettingError: there is none; the message has the nearest name and all of them.
    """
    sets = {entry.name: entry for entry in DATA_SETS}
    wanted = name.strip().lower()
    if wanted in sets:
        return sets[wanted]
    near = get_close_matches(wanted, sets, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise SettingError(f"Expected the name of a known data set, but got {name!r}.{hint} Known: {', '.join(sets)}.")


@dataclass(frozen=True, slots=True)
class LabelRow:
    """A line of `labels.csv`.

    Attributes:
        path: of the film, relative to the CSV, with forward slashes.
        label: its class.
        patient: whom it shows; empty where unknown.
        split: the part its source gave it; None where it gave none.
    """

    path: str
    label: str
    patient: str = field(default="", repr=False)
    split: Split | None = None


def nih_rows(
    data_entry: Iterable[str], paths: Iterable[str], *, finding: str | None = None, test: Collection[str] = ()
) -> list[LabelRow]:
    """Return a row for each film of ChestX-ray14 that is there, in the order of the published CSV.

    Args:
        data_entry: the lines of `Data_Entry_2017.csv` (or of its 2020 revision).
        paths: of the films that are there, relative to the CSV to be written.
        finding: asks for this finding against all other films; by default for any finding at all.
        test: file names of the published `test_list.txt`; all other films become the training part. None are split
            when it is empty.
    """
    where = {PurePosixPath(path).name: path for path in paths}
    rows = []
    known: set[str] = set()
    for line in _table(data_entry, ("Image Index", "Finding Labels", "Patient ID"), "Data_Entry_2017.csv"):
        name, findings = line["Image Index"], line["Finding Labels"].split("|")
        known.update(findings)
        if name not in where:
            continue
        if finding is None:
            label = "No Finding" if findings == ["No Finding"] else "Finding"
        else:
            label = finding if finding in findings else f"No {finding}"
        split = None if not test else Split.TEST if name in test else Split.TRAIN
        rows.append(LabelRow(where[name], label, line["Patient ID"], split))
    _check_finding(finding, known - {"No Finding"})
    return rows


def rsna_rows(
    labels: Iterable[str], paths: Iterable[str], *, detailed: Iterable[str] = (), finding: str | None = None
) -> list[LabelRow]:
    """Return a row for each film of the RSNA challenge that is there; a film with several boxes has one row.

    Args:
        labels: the lines of `stage_2_train_labels.csv`.
        paths: of the films that are there, named by `patientId`, relative to the CSV to be written.
        detailed: the lines of `stage_2_detailed_class_info.csv`; with it films get its three classes.
        finding: asks for this class against all other films.

    Raises:
        DataError: the two files contradict each other, or a column is missing.
    """
    where = {PurePosixPath(path).stem: path for path in paths}
    targets: dict[str, bool] = {}
    for line in _table(labels, ("patientId", "Target"), "stage_2_train_labels.csv"):
        targets[line["patientId"]] = targets.get(line["patientId"], False) or line["Target"] == "1"
    classes = {key: "Lung Opacity" if target else "No Lung Opacity" for key, target in targets.items()}
    lines = list(detailed)
    if lines:
        for line in _table(lines, ("patientId", "class"), "stage_2_detailed_class_info.csv"):
            if targets.get(line["patientId"], False) != (line["class"] == "Lung Opacity"):
                raise DataError(
                    "Expected stage_2_detailed_class_info.csv to say 'Lung Opacity' exactly where"
                    f" stage_2_train_labels.csv has Target 1, but a film is {line['class']!r}."
                    " Fetch both files from the same version."
                )
            classes[line["patientId"]] = line["class"]
    _check_finding(finding, set(classes.values()))
    return [
        LabelRow(where[key], label if finding in (None, label) else f"No {finding}", key)
        for key, label in classes.items()
        if key in where
    ]


_TB_NAME = re.compile(r"((?:CHNCXR|MCUCXR)_\d+)_([01])")


def tb_rows(paths: Iterable[str]) -> list[LabelRow]:
    """Return a row for each film of the Shenzhen and Montgomery sets; masks of the same name are left out.

    Args:
        paths: of the images that are there, relative to the CSV to be written.
    """
    rows = []
    for path in sorted(paths):
        pure = PurePosixPath(path)
        match = _TB_NAME.fullmatch(pure.stem)
        if match and not any("mask" in part.lower() for part in pure.parts[:-1]):
            rows.append(LabelRow(path, ("Normal", "Tuberculosis")[int(match[2])], match[1]))
    return rows


def image_folder_rows(paths: Iterable[str]) -> list[LabelRow]:
    """Return a row for each film in `.../CLASS/images/`; what lies in other folders is left out.

    Args:
        paths: of the images that are there, relative to the CSV to be written.
    """
    split = ((path, PurePosixPath(path).parts) for path in sorted(paths))
    return [LabelRow(path, parts[-3]) for path, parts in split if len(parts) >= 3 and parts[-2].lower() == "images"]


def write_labels(data_set: DataSet, directory: Path, *, finding: str | None = None) -> Path | None:
    """Return the `labels.csv` written for a set that lies in a folder, None where class folders are enough.

    Args:
        data_set: decides how the published labels are read.
        directory: of the set; its films may lie in any folder below.
        finding: asks for one finding against the rest; only for sets with a published table of findings.

    Raises:
        DataError: the published files, or all of the films, are missing.
    """
    if finding is not None and data_set.published not in (Published.NIH, Published.RSNA):
        raise SettingError(f"Expected no finding for the set {data_set.name!r}, but got {finding!r}.")
    if data_set.published is Published.FOLDERS:
        return None
    paths = [path.relative_to(directory).as_posix() for path in images_in(directory)]
    convert: Mapping[Published, Callable[[], list[LabelRow]]] = {
        Published.NIH: lambda: nih_rows(
            _read(directory, "Data_Entry_2017*.csv"),
            paths,
            finding=finding,
            test=frozenset(line.strip() for line in _read(directory, "test_list.txt", needed=False)),
        ),
        Published.RSNA: lambda: rsna_rows(
            _read(directory, "stage_2_train_labels.csv"),
            paths,
            detailed=_read(directory, "stage_2_detailed_class_info.csv", needed=False),
            finding=finding,
        ),
        Published.TB_NAMES: lambda: tb_rows(paths),
        Published.IMAGE_FOLDERS: lambda: image_folder_rows(paths),
    }
    rows = convert[data_set.published]()
    if not rows:
        raise DataError(f"Expected films of {data_set.title} in {directory}, but none of its published names is there.")
    target = directory / LABELS_NAME
    partial = target.with_name(target.name + ".part")
    with partial.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("path", "label", "patient", "split"))
        writer.writerows((row.path, row.label, row.patient, row.split or "") for row in rows)
    partial.replace(target)
    return target


def images_in(directory: Path) -> Iterator[Path]:
    """Yield the images below a folder, by their names' endings, sorted; hidden folders are left out."""
    for path in sorted(directory.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(directory).parts)
        if path.suffix.lower() in IMAGE_SUFFIXES and not hidden and path.is_file():
            yield path


def _read(directory: Path, pattern: str, *, needed: bool = True) -> list[str]:
    found = sorted(directory.rglob(pattern))
    if not found and needed:
        raise DataError(f"Expected the published file {pattern} in {directory}, but it is not there. Fetch it too.")
    return found[0].read_text(encoding="utf-8-sig").splitlines() if found else []


def _table(lines: Iterable[str], columns: Iterable[str], name: str) -> Iterable[dict[str, str]]:
    reader = csv.DictReader(lines, restval="")
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        raise DataError(f"Expected {name} to have the column {missing[0]!r}, but it has {reader.fieldnames}.")
    return reader


def _check_finding(finding: str | None, known: Collection[str]) -> None:
    if finding is not None and finding not in known:
        raise SettingError(f"Expected finding to be one of {', '.join(sorted(known))}, but got {finding!r}.")
