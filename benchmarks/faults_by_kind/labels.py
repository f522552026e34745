"""Labels in every form, for heads of every kind: each label is found among the outputs, or the pair is refused.

The models are right on every row, so that another score than 1 means that a label was taken for another one. Whether
data, head and option together say which output each label is, is known for every case: where they do, a refusal is
wrong, and where they do not, so is a score.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, List, Value
from faults_world import REFUSED, RIGHT, TRACEBACK, WRONG
from typer.testing import CliRunner

from faults_by_kind.endings import Outcome
from faults_by_kind.exact_models import CLASS_NAMES, class_sets, exact_model, text_of, with_outputs, words
from faults_by_kind.label_cases import ABSENT_CLASS, CSV_FORMS, Case, cases
from secateur.cli import app

METRICS = {"classification": "accuracy", "multilabel": "subset_accuracy", "tokens": "accuracy"}
SINGLE, MULTI = "single_label_classification", "multi_label_classification"


def labels(root: Path, scale: float) -> Iterator[Outcome]:
    """A sample by the scale of all cases, the settled ones and the others in equal parts."""
    draw, every = random.Random(0), list(cases())
    for settled in (True, False):
        alike = [case for case in every if case.settled == settled]
        row = "labels that say their outputs" if settled else "labels that do not say their outputs"
        for case in draw.sample(alike, min(len(alike), max(1, round(300 * scale)))):
            yield row, *_judged(case, root / "case")
            shutil.rmtree(root / "case")


def _judged(case: Case, folder: Path) -> tuple[str, str, str]:
    """(verdict, case, message)"""
    _write_model(case, folder / "model")
    _write_data(case, folder / "data")
    done = CliRunner().invoke(app.app, _command(case, folder))
    if done.exit_code == 2 and done.stderr.splitlines()[-1].startswith("error: "):
        return (WRONG if case.settled else REFUSED), str(case), done.stderr
    if done.exit_code:
        return TRACEBACK, str(case), done.stderr + repr(done.exception)
    right = case.settled and json.loads(done.stdout)["scores"].get(METRICS[case.task]) == 1
    return (RIGHT if right else WRONG), str(case), done.stdout + done.stderr


def _command(case: Case, folder: Path) -> list[str]:
    command = ["eval", str(folder / "model"), "--data", str(folder / "data"), "--task", case.task, "--json"]
    command += ["--max-length", "16"]
    if case.form == "columns":
        command += ["--label", ",".join(CLASS_NAMES[one] for one in case.order)]
    return command + (["--labels", ",".join(case.labels_option)] if case.option else [])


def _write_model(case: Case, folder: Path) -> None:
    model = with_outputs(exact_model(case.task, case.count), case.outputs, case.names)
    if case.task != "tokens":
        several = (case.task == "multilabel") != (case.head == "other task")
        model.config.update({"problem_type": MULTI if several else SINGLE})
    model.save_pretrained(folder)
    words().save_pretrained(folder)


def _write_data(case: Case, folder: Path) -> None:
    folder.mkdir()
    for split in ("training", "validation"):
        absent = case.absent in ("everywhere", split)
        rows = [row for row in class_sets(case.task, case.count) if not (absent and ABSENT_CLASS in row)]
        table = [_row(case, row) for row in rows * 2]
        if case.form == "ClassLabel":
            Dataset.from_list(table, features=_features(case)).to_parquet(folder / f"{split}.parquet")
        elif case.form in CSV_FORMS:
            Dataset.from_list(table).to_csv(folder / f"{split}.csv", index=False)
        else:
            (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, table)))


def _row(case: Case, classes: tuple[int, ...]) -> dict[str, Any]:
    """A row of the data with these classes."""
    text = text_of(classes)
    if case.task == "tokens":
        return {"tokens": text.split(), "tags": [case.label(one) for one in classes]}
    if case.form == "columns":
        return {"text": text} | {CLASS_NAMES[one]: int(one in classes) for one in case.order}
    if case.form == "marks":
        marked = {case.number(one) for one in classes}
        return {"text": text, "label": [int(number in marked) for number in range(case.count)]}
    several = [case.label(one) for one in classes]
    return {"text": text, "label": several if case.task == "multilabel" else several[0]}


def _features(case: Case) -> Features:
    names, text = ClassLabel(names=[CLASS_NAMES[one] for one in case.order]), Value("string")
    if case.task == "tokens":
        return Features({"tokens": List(text), "tags": List(names)})
    return Features({"text": text, "label": List(names) if case.task == "multilabel" else names})
