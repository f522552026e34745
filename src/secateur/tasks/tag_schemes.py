"""Schemes of tags that mark entities, and their common form, which seqeval scores.

Read are IO, IOB1, BIO, BIOES, BILOU, BMES and BMEW, with the part of an entity before its kind (B-PER), after it
(PER-B), or alone (B).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

OUTSIDE = "O"
COMMON = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "W": "S"}
"""The part of an entity in any scheme -> in BIOES: begin, inside, end, single."""
SCHEMES = ("BIES", "BILU", "BMES", "BMEW", "BIEW", "BIEU")
ALONE = "entity"
"""The kind of entities whose tags name none."""

BEFORE, AFTER = re.compile(r"([BILUMESW])[-_](.+)"), re.compile(r"(.+)[-_]([BILUMESW])")


def common_tags(labels: Sequence[str]) -> tuple[str, ...] | None:
    """Each tag as O, or as the part and the kind of an entity in BIOES ("E-PER"); None if the tags mark no entities."""
    marks = [label for label in labels if label != OUTSIDE]
    for read in (_before, _after, _alone):
        pairs = [read(label) for label in marks]
        if None not in pairs and _is_scheme({pair[0] for pair in pairs if pair}, read is _alone, OUTSIDE in labels):
            common = {label: f"{COMMON[pair[0]]}-{pair[1]}" for label, pair in zip(marks, pairs, strict=True) if pair}
            return tuple(common.get(label, OUTSIDE) for label in labels)
    return None


def _before(label: str) -> tuple[str, str] | None:
    match = BEFORE.fullmatch(label)
    return (match[1], match[2]) if match else None


def _after(label: str) -> tuple[str, str] | None:
    match = AFTER.fullmatch(label)
    return (match[2], match[1]) if match else None


def _alone(label: str) -> tuple[str, str] | None:
    return (label, ALONE) if label in COMMON else None


def _is_scheme(parts: set[str], alone: bool, outside: bool) -> bool:
    """Whether these are the parts of one scheme; letters alone may be other tags, unless enough of them are there."""
    if not any(parts <= set(scheme) for scheme in SCHEMES):
        return False
    return not alone or ("I" in parts and outside) or len(parts) == 4


def rank(label: str) -> tuple[bool, str, str]:
    """Sort key of a tag: O first, then by kind of entity, B before I; tags that do not mark entities by name."""
    reads: tuple[Callable[[str], tuple[str, str] | None], ...] = (_before, _after)
    part, kind = next((pair for read in reads if (pair := read(label))), ("", label))
    return label != OUTSIDE, kind, part
