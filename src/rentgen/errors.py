"""The errors that Rentgen raises on purpose.

::

    RentgenError                  anything below; the command line prints it and exits with 1
      InputError                  a file that cannot be read as a radiograph
        UnsupportedImageError     a sound file of a kind that is not analysed (colour, multi-frame, ...)
      DataError                   a listing, a label, a split: something about the set as a whole
        LeakError                 a patient or an image stands on both sides of a split
      SettingError                a recipe or an argument with a value that is not allowed
      BundleError                 a bundle that is damaged, changed or too new
      WeightsError                weights that cannot be had, or that do not fit the network
      StoreError                  the database refused, failed, or does not hold what it should
      PeerError                   another system (a download site, a PACS, a cloud) refused or failed
      MissingExtraError           an optional dependency is not installed

A message names what was expected, what came and what to do. It never holds a patient's name or number.
"""

from __future__ import annotations

from pathlib import Path


class RentgenError(Exception):
    """The root of the tree."""


class InputError(RentgenError):
    """A file that cannot be read as a radiograph.

    Attributes:
        source: the file's path, or what stands for it when the bytes came from elsewhere.
        reason: why it was refused, without the path.
    """

    def __init__(self, source: str | Path, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = str(source)
        self.reason = reason

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str]]:
        """Return what makes the same error in another process."""
        return type(self), (self.source, self.reason)


class UnsupportedImageError(InputError):
    """A sound file of a kind that is not analysed; the reason says which."""


class DataError(RentgenError):
    """Something about a set of images as a whole."""


class LeakError(DataError):
    """A patient or an image stands on both sides of a split."""


class SettingError(RentgenError):
    """A recipe or an argument with a value that is not allowed."""


class BundleError(RentgenError):
    """A bundle that is damaged, changed or too new."""


class WeightsError(RentgenError):
    """Weights that cannot be had, or that do not fit the network."""


class StoreError(RentgenError):
    """The database refused, failed, or does not hold what it should."""


class PeerError(RentgenError):
    """Another system refused or failed."""


class MissingExtraError(RentgenError):
    """An optional dependency is not installed.

    Example:
        >>> print(MissingExtraError("torch", "train", "training"))
        training needs torch, which is not installed. Install it with: pip install 'rentgen[train]'
    """

    def __init__(self, module: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {module}, which is not installed. Install it with: pip install 'rentgen[{extra}]'"
        )
        self.module = module
        self.extra = extra
        self.purpose = purpose

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        """Return what makes the same error in another process."""
        return type(self), (self.module, self.extra, self.purpose)
