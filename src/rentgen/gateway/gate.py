"""What an object is to the gateway, by its header alone: a film to read, another image, or none of its business.

What a header says is not believed where it says yes: the engine's own gate looks at the film itself.
"""

from __future__ import annotations

from pydicom.uid import UID

from rentgen.gateway.nouns import Header
from rentgen.outputs.dicom_common import MANUFACTURER

FILMS = frozenset({"1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"})
"""Computed Radiography, and Digital X-Ray for presentation: the classes whose grey values mean what they show."""
_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"


def concerns_us(header: Header) -> bool:
    """Return whether an object gets a result: an image that is not itself a result of ours.

    Reports, presentation states, key objects and the like are no images, and never get one.
    """
    if header.sop_class_uid in FILMS:
        return True
    name = UID(header.sop_class_uid).name
    is_known_other = name != header.sop_class_uid and "Image Storage" not in name
    return header.manufacturer != MANUFACTURER and not is_known_other


def refusal(header: Header) -> str:
    """Return why an image is not read, whatever model there is; empty where it may be. It names nothing of a patient.

    Example:
        >>> refusal(Header("1.1", "1.2", "1.3", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"))
        'objects of class CT Image Storage are not read; only CR and DX for presentation are'
    """
    if header.sop_class_uid in FILMS:
        return ""
    if header.sop_class_uid == _FOR_PROCESSING:
        return "a DX film for processing has grey values of the detector; send the one for presentation"
    name = UID(header.sop_class_uid).name
    told = name if name != header.sop_class_uid else "that is not of the standard"
    return f"objects of class {told} are not read; only CR and DX for presentation are"
