"""Public sets of radiographs: where they are, what may be done with them, and what is wrong with them.

A value of None, and the word "unknown", mean that no source could be found; nothing here is guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

from rentgen.errors import SettingError


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
    """`stage_2_detailed_class_info.csv`."""
    TB_NAMES = "tb-names"
    """The file's name ends with `_0` (normal) or `_1` (tuberculosis)."""
    FINDINGS = "findings"
    """`labels.csv` with a column for each finding: nothing to convert."""
    IMAGE_FOLDERS = "image-folders"
    """A folder for each class with `images` and `masks` inside."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a set on a public server.

    Attributes:
        name: what to call it on this machine.
        urls: where it is, the preferred place first.
        sha256: in hexadecimal, or None where unknown.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str | None = None


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
        file: the archive on a public server, or None.
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
    file: RemoteFile | None = None
    notes: tuple[str, ...] = ()


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
        name="phantom-findings",
        title="Synthetic chest films with several findings",
        client=Client.GENERATED,
        page=None,
        licence="none needed: drawn on this machine",
        classes=("Consolidation", "Effusion", "Nodule", "No Finding"),
        images=None,
        approx_bytes=None,
        modality="synthetic radiographs",
        population="nobody",
        patients="invented: a column of labels.csv, two films each",
        citation="none",
        published=Published.FINDINGS,
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
        file=RemoteFile(
            "ChestXRay2017.zip",
            (
                "https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files/"
                "f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded",
            ),
            # Not taken from the publisher: three public projects that fetched the file state the same value.
            sha256="13efc055629733dbab07877f8b3c9f81097840dbcdaa326a8542322c2281ce36",
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
        file=RemoteFile("ChinaSet_AllFiles.zip", (f"{_OPENI}/ChinaSet_AllFiles.zip",)),
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
        file=RemoteFile(
            "MontgomerySet.zip",
            (f"{_NLM}/Montgomery-County-CXR-Set/MontgomerySet.zip", f"{_OPENI}/NLM-MontgomeryCXRSet.zip"),
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
