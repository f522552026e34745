"""The diagnosis of a machine and an environment, for reports of bugs."""

from __future__ import annotations

from secateur.cli.done_by import done_by
from secateur.cli.options import Json


@done_by("doctor_work")
def doctor(as_json: Json = False) -> None:
    """Show what this machine and this environment can do, for a report of a bug.

    Processor, GPU and memory, runtimes and dtypes, versions beside those that are tested, and free disk. Nothing is
    measured, and what is missing is no error.
    """
