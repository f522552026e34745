"""The diagnosis of a machine and an environment, for reports of bugs."""

from __future__ import annotations

from secateur.cli.options import Json
from secateur.cli.output import show_json, show_text_table
from secateur.measure.doctor import diagnosis, to_dict


def doctor(as_json: Json = False) -> None:
    """Show what this machine and this environment can do, for a report of a bug.

    Processor, GPU and memory, runtimes and dtypes, versions beside those that are tested, and free disk. Nothing is
    measured, and what is missing is no error.
    """
    findings = diagnosis()
    if as_json:
        show_json(to_dict(findings))
        return
    rows, group = [], ""
    for one in findings:
        rows.append(("" if one.group == group else one.group, one.name, one.found, one.note))
        group = one.group
    show_text_table(("", "", "found", "which means"), rows)
