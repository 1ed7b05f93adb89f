"""The command line: each command parses, calls one library function, and prints."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from rentgen import __version__
from rentgen.errors import RentgenError
from rentgen.records import DISCLAIMER, Evaluation, Prediction, Split, Status
from rentgen.records import Progress as ProgressCall
