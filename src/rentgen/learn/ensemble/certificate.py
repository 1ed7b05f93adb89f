"""The certificate of an ensemble: what any member learned from, it learned from.

Films are known by plain hashes, so those of the members are simply put together. Patients are hashed with a salt of
each certificate's own, which nobody can undo to hash them anew with one for all: so the members' certificates are
carried along, with their salts and patients, and a set is asked against each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rentgen.data.split import certify
from rentgen.learn.ensemble.agree import Seat
from rentgen.learn.ensemble.films import SortedFilms
from rentgen.records import Split, SplitCertificate


def pool(seats: Sequence[Seat], films: SortedFilms, salt: str) -> SplitCertificate:
    """Return the certificate of the ensemble.

    Its training films are those of any member; its validation films, those that chose a member or the ensemble and
    trained none; its test films, those that measured the ensemble.

    Args:
        seats: the members.
        films: of the set that the ensemble was chosen and measured by.
        salt: hexadecimal, fresh.
    """
    made = [seat.bundle.split for seat in seats]
    # What is in DATA and trained a member stands in that member's certificate already.
    records = tuple(record for record in films.listing.records if record.split is not Split.TRAIN)
    own = certify(
        replace(films.listing, records=records),
        films.examined.hashes,
        films.audit,
        salt,
        pixels=films.examined.pixel_hashes,
    )
    carried = [replace(one, images={}, pixels={}, members=()) for one in made]
    carried += [member for one in made for member in one.members]
    return replace(
        own,
        images=_pooled([one.images for one in made], own.images),
        pixels=_pooled([one.pixels for one in made], own.pixels),
        members=tuple(carried),
    )


def _pooled(
    made: Sequence[Mapping[Split, tuple[str, ...]]], own: Mapping[Split, tuple[str, ...]]
) -> dict[Split, tuple[str, ...]]:
    taught = {item for one in made for item in one.get(Split.TRAIN, ())}
    chose = {item for one in (*made, own) for item in one.get(Split.VALIDATION, ())} - taught
    measured = set(own.get(Split.TEST, ())) - chose - taught
    return {
        Split.TRAIN: tuple(sorted(taught)),
        Split.VALIDATION: tuple(sorted(chose)),
        Split.TEST: tuple(sorted(measured)),
    }
