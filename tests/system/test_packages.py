"""A missing optional package is one sentence that names the extra to install, before anything is read or trained."""

import re
import sys
from pathlib import Path

import pytest
from small_world import recipe_values, write_data, write_model, write_pairs
from typer.testing import CliRunner

from secateur.cli import app
from secateur.run import pipeline, recipe
from secateur.system.errors import MissingPackage, UserError
from secateur.system.packages import EXTRAS, installing, require

EXPORTS = [("onnx", ".onnx", "onnx"), ("onnxruntime", ".onnx", "onnx"), ("openvino", ".xml", "openvino")]


def test_an_installed_package_is_accepted(monkeypatch):
    require(["json", "torch"], "onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingPackage, match=r"^onnx and nncf is not installed: run pip install onnx openvino nncf$"):
        require(["onnx", "json", "nncf"], "openvino")


def test_what_an_extra_installs_is_what_pyproject_says():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    block = text.partition("[project.optional-dependencies]")[2].partition("[project.scripts]")[0]
    lists = {
        name: re.findall(r'"([^"]+)"', items) for name, items in re.findall(r"^(\w+) = \[(.*?)\]", block, re.M | re.S)
    }
    assert {name: tuple(items) for name, items in lists.items() if name not in ("dev", "docs", "release")} == EXTRAS
    assert installing("sweep") == "pip install 'optuna>=5'"  # a shell would take what is not quoted for a file


def test_no_text_installs_secateur_by_a_name_that_is_not_published():
    root = Path(__file__).parents[2]
    pages = [root / "README.md", *root.glob("docs/**/*.md"), *root.glob("src/**/*.py")]
    assert not [page for page in pages if re.search(r"pip install '?secateur", page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("package", "suffix", "extra"), EXPORTS)
def test_export_names_it_before_the_model_is_opened(package, suffix, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    output = tmp_path / f"model{suffix}"
    result = CliRunner().invoke(app.app, ["export", str(tmp_path / "no-model"), "--output", str(output)])
    said = " ".join(result.output.split())
    assert result.exit_code == 2 and f"{package} is not installed: run {installing(extra)}" in said


@pytest.mark.parametrize(("task", "package"), [("translation", "sacrebleu"), ("summarisation", "rouge_score")])
def test_a_run_names_what_scores_its_texts(task, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    model = write_model(tmp_path / "model", ["bad", "good"])
    values = recipe_values(model, write_pairs(tmp_path / "data.jsonl")) | {"data.task": task}
    refuse(values, tmp_path / "run", f"run pip install {package.replace('_', '-')}$")


def test_a_run_names_what_its_tracker_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "comet_ml", None)
    model = write_model(tmp_path / "model", ["bad", "good"])
    values = recipe_values(model, write_data(tmp_path / "data.csv")) | {"training.report_to": ["comet_ml"]}
    refuse(values, tmp_path / "run", r"Run `pip install comet-ml.*`\): follow that, or name another tracker$")


def refuse(values: dict, folder: Path, message: str) -> None:
    """Nothing is written, and the message is one line."""
    with pytest.raises(UserError, match=message) as refusal:
        pipeline.run(recipe.make(values), folder)
    assert "\n" not in str(refusal.value)
    assert not [path for path in folder.glob("*") if path.is_dir()]
