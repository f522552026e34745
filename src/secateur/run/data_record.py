"""RUN/fingerprint.json: the fingerprint of the data with which a run began, so that it does not go on with others."""

from __future__ import annotations

from secateur.run.context import Context
from secateur.run.records import FINGERPRINT, FORMAT
from secateur.system.errors import UserError

KEY = "fingerprint"


def check(context: Context) -> None:
    """Check that an interrupted run has the data with which it began, of which a run of an older version has no record.

    Raises:
        UserError: a row, a label or the order of rows has changed, or other rows are split off for validation.
    """
    begun = FORMAT.read_if_any(context.folder / FINGERPRINT).get(KEY)
    if begun is not None and begun != (now := context.data.task_as_read.fingerprint()):
        raise UserError(
            f"the data has changed since the run in {context.folder} began (fingerprint {begun}, now {now}): restore "
            "it to go on, or choose another output folder"
        )


def record(context: Context) -> None:
    """Write the fingerprint of the data of a run that begins."""
    path = context.folder / FINGERPRINT
    if not path.is_file():
        FORMAT.write(path, {KEY: context.data.task_as_read.fingerprint()})
