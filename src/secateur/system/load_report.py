"""The report that transformers logs when a checkpoint and a model do not have the same weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

LOGGER = "transformers.modeling_utils"


@contextmanager
def without_load_report() -> Iterator[None]:
    """Inside, the report is not logged: for callers that compare the weights themselves and add heads on purpose.

    Everything else that transformers logs stays. The text was read in transformers 5.23.
    """
    logger = logging.getLogger(LOGGER)
    logger.addFilter(_is_no_report)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_report)


def _is_no_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()
