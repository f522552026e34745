"""The report of missing weights is hidden where it is checked, and nothing else is."""

import logging

import pytest
from small_world import write_model
from transformers import BertForSequenceClassification

from secateur.system.load_report import LOGGER, without_load_report


@pytest.fixture
def logged(monkeypatch):
    logger, lines = logging.getLogger(LOGGER), []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    monkeypatch.setattr(logger, "level", logging.WARNING)
    logger.manager._clear_cache()
    yield lines
    logger.removeHandler(handler)
    logger.manager._clear_cache()


def test_only_the_report_is_hidden_and_only_inside(logged, tmp_path):
    folder = write_model(tmp_path / "encoder")
    with without_load_report():
        BertForSequenceClassification.from_pretrained(folder)
        logging.getLogger(LOGGER).warning("something else")
    assert logged == ["something else"]
    BertForSequenceClassification.from_pretrained(folder)
    assert len(logged) == 2 and "LOAD REPORT" in logged[1]
