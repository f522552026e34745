"""Shows what can be named, and the structure of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur.cli import output
from secateur.cli.output import show_captions, show_lines, show_table, show_text_table
from secateur.measure.inspected_model import Inspection
from secateur.report import inspection_text
from secateur.report.size_text import megabytes


def show_names(names: Mapping[str, Mapping[str, str]]) -> None:
    """What is registered: kind -> name -> one line about it."""
    for kind, entries in names.items():
        show_text_table((kind, ""), list(entries.items()))


def show_inspection(inspection: Inspection) -> None:
    """What each layer keeps, the counts, the possible savings, and the kinds of units of a dense model."""
    ascii_only = output.out().options.ascii_only
    show_table(*inspection_text.layer_table(inspection, ascii_only), inspection_text.title(inspection))
    show_captions(inspection_text.captions(inspection, ascii_only))
    show_table(*inspection_text.count_table(inspection))
    show_lines(inspection_text.storage(inspection), inspection_text.sizes(inspection), "")
    show_table(*inspection_text.saving_table(inspection), inspection_text.SAVINGS_TITLE)
    if inspection.units:
        show_table(*inspection_text.unit_table(inspection))


def show_vocabulary(facts: Mapping[str, Any]) -> None:
    """What a cut vocabulary changes, and how it splits the texts that it was made from."""
    rows = [
        ("pieces", f"{facts['size']:,}", f"{facts['kept']:,}"),
        ("weights, MB", megabytes(facts["bytes_before"]), megabytes(facts["bytes_after"])),
    ]
    covered = facts.get("coverage")
    if covered is not None:
        rows.append(("unknown pieces", f"{covered['unknown_before']:.2%}", f"{covered['unknown_after']:.2%}"))
    show_table(("", "before", "after"), rows)
    if covered is not None:
        show_lines(f"{covered['same']:.1%} of the {covered['texts']:,} texts are split as before.")
