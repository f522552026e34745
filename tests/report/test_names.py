"""Names of models and data on pages: of a path the last part, wherever the page is made."""

from dataclasses import replace

from made_up_run import REPORT
from page_reader import Reader

from secateur.report.names import paths_in, shown, without_paths
from secateur.report.report_text import subject
from secateur.report.run_log import RunLog
from secateur.report.run_page import to_html

RECIPE = {**REPORT.recipe, "model": "models/bert-sst2", "data": {"source": "glue/sst2", "texts": ["texts/a.txt"]}}


def test_a_relative_path_is_shortened_where_its_folder_is_not(tmp_path, monkeypatch):
    """A report is made in the folder of the run, and rendered again from anywhere."""
    for folder in ("models/bert-sst2", "texts/a.txt"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    paths = paths_in(RECIPE)
    assert paths == ["models/bert-sst2", "texts/a.txt"]
    monkeypatch.chdir(tmp_path / "texts")
    report = replace(REPORT, recipe=RECIPE, paths=paths)
    assert subject(report) == "bert-sst2 on glue/sst2"
    short = without_paths(RECIPE, paths)
    assert (short["model"], short["data"]) == ("bert-sst2", {"source": "glue/sst2", "texts": ["a.txt"]})
    assert "models/bert-sst2" not in Reader(to_html(report, RunLog((), None, None, 0))).text


def test_a_report_of_before_asks_the_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert subject(replace(REPORT, recipe=RECIPE)) == "models/bert-sst2 on glue/sst2"
    (tmp_path / "models" / "bert-sst2").mkdir(parents=True)
    assert shown("models/bert-sst2") == "bert-sst2" == without_paths(RECIPE)["model"]
    assert shown("/a/b", ()) == "b" and shown("a/b", ()) == "a/b" and shown("a/b", ["a/b"]) == "b"
