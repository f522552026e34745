"""Tables in Markdown: names of models and classes do not break them."""

from dataclasses import replace

from made_up_run import REPORT

from secateur.report import markdown
from secateur.report.report_text import to_markdown

SCORES = dict.fromkeys(("precision", "recall", "f1"), 0.5)


def test_bars_and_line_breaks_stay_within_a_cell():
    lines = markdown.table(("a|b", ""), [("one\ntwo\r\nthree", "|"), ("", "4")])
    assert lines == ["| a\\|b |  |", "| --- | --- |", "| one two three | \\| |", "|  | 4 |"]


def test_what_is_counted_of_a_class_has_its_name():
    classes = [{"name": "book|film", "rows": 7, "teacher": SCORES, "model": SCORES}]
    tags = {**REPORT.recipe, "data": {"source": "d", "task": "tokens"}}
    rows, words = replace(REPORT, classes=classes), replace(REPORT, classes=classes, recipe=tags)
    assert "| class | rows | precision" in to_markdown(rows) and "| book\\|film | 7 |" in to_markdown(rows)
    assert "| class | entities or words | precision" in to_markdown(words)
