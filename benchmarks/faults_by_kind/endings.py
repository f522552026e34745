"""How a case ends, and the judge of a call in Python."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TypeAlias

from faults_world import REFUSED, RIGHT, TRACEBACK, WRONG, one_sentence

from secateur.system.errors import UserError

VERDICTS = (REFUSED, RIGHT, WRONG, TRACEBACK)
Outcome: TypeAlias = tuple[str, str, str, str]
"""The row of the table, the verdict, the case, and its message."""


def ending(call: Callable[[], str]) -> tuple[str, str]:
    """(verdict, message) of a call that returns what is wrong with its result, "" if nothing is."""
    try:
        fault = call()
    except UserError as refusal:
        return (REFUSED if one_sentence(str(refusal)) else WRONG), str(refusal)
    except Exception:
        return TRACEBACK, traceback.format_exc()
    return (WRONG if fault else RIGHT), fault
