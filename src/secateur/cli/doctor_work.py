"""The diagnosis of a machine and an environment, for reports of bugs."""

from __future__ import annotations

from secateur.cli.output import show_json, show_text_table
from secateur.measure.doctor import diagnosis, to_dict


def doctor(*, as_json: bool) -> None:
    """What `secateur doctor` does; the options are described where it is declared."""
    findings = diagnosis()
    if as_json:
        show_json(to_dict(findings))
        return
    rows, group = [], ""
    for one in findings:
        rows.append(("" if one.group == group else one.group, one.name, one.found, one.note))
        group = one.group
    show_text_table(("", "", "found", "which means"), rows)
