"""Whether the workers of a pool have what its driver has."""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version

from rentgen.errors import PeerError

SAME = ("rentgen", "numpy", "openvino", "pillow", "pydicom", "pyjpegls", "pylibjpeg-openjpeg", "python-gdcm")
"""What reads, prepares and computes: other versions in a worker could give other values under the same key."""
TAUGHT = (*SAME, "torch", "timm")
"""What trains, too."""


def own_versions(names: Iterable[str] = SAME) -> dict[str, str]:
    """Return the versions of this process, of Python and of those packages that it has."""
    found = {"python": ".".join(map(str, sys.version_info[:2]))}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def check_same(versions: Mapping[str, str]) -> None:
    """Check that this process has the driver's versions.

    Raises:
        PeerError: it has others.
    """
    own = own_versions(versions)
    other = [f"{name} {own.get(name, 'missing')} (here {wanted})" for name, wanted in versions.items()]
    other = [line for line, (name, wanted) in zip(other, versions.items(), strict=True) if own.get(name) != wanted]
    if other:
        raise PeerError(
            f"The Ray worker on {platform.node()} has other versions: {', '.join(other)}. Results would differ; "
            "install the same on every node."
        )
