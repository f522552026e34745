"""Teachers that do not suit the model or the data: refused before the folder of the run exists, or followed.

The good teachers are right on every row. The run of an accepted teacher is right if its report has that score for the
teacher and the pruned model has the teacher's names for its outputs.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from faults_world import REFUSED, RIGHT, TRACEBACK, WRONG
from safetensors.torch import load_file, save_file
from small_world import WORDS, tokenizer
from tiny_models import random_masks
from transformers import BertForSequenceClassification, BertForTokenClassification, BertModel, PreTrainedModel
from typer.testing import CliRunner

import secateur as sec
from faults_by_kind.endings import Outcome
from faults_by_kind.exact_models import CLASS_NAMES, CLASS_WORDS, class_sets, exact_model, text_of, with_outputs, words
from secateur.cli import app

COUNT = 3
NAMES = CLASS_NAMES[:COUNT]
ORDERS = {"in the order of the data": (0, 1, 2), "in another order": (2, 0, 1)}
QUICK = ("training.epochs=1", "measurement.shapes=[]", "training.bf16=false", "distillation.start=model")


def _exact(order: tuple[int, ...], **shape: Any) -> PreTrainedModel:
    """A teacher that is right on every row, and names its outputs."""
    names = [NAMES[order.index(output)] for output in range(COUNT)]
    return with_outputs(exact_model("classification", COUNT, **shape), order, names)


def _save(model: PreTrainedModel, folder: Path) -> None:
    model.save_pretrained(folder)
    words().save_pretrained(folder)


# What is wrong with a teacher: functions of its folder, which holds a good one, and of the order of its outputs


def _other_words(own: tuple[str, ...], folder: Path, order: tuple[int, ...]) -> None:
    """The same function of a text, by another numbering of words, or without some."""
    model, old = BertForSequenceClassification.from_pretrained(folder), words().get_vocab()
    embeddings: Any = model.get_input_embeddings()
    table = embeddings.weight
    with torch.no_grad():
        table[: len(own)] = table[[old[word] for word in own]].clone()
    model.save_pretrained(folder)
    tokenizer(words=own).save_pretrained(folder)


def _renumbered(folder: Path, order: tuple[int, ...]) -> None:
    _other_words((*WORDS, *reversed(CLASS_WORDS)), folder, order)


def _fewer_words(folder: Path, order: tuple[int, ...]) -> None:
    _other_words((*WORDS, *CLASS_WORDS[1:]), folder, order)


def _without_tokenizer(folder: Path, order: tuple[int, ...]) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def _shaped(shape: dict[str, Any], folder: Path, order: tuple[int, ...]) -> None:
    _save(_exact(order, **shape), folder)


def _renamed(names: tuple[str, ...], folder: Path, order: tuple[int, ...]) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    (folder / "config.json").write_text(json.dumps(config))


def _of_classes(count: int, folder: Path, order: tuple[int, ...]) -> None:
    """A teacher of another number of classes, the first of which are those of the data."""
    _save(with_outputs(exact_model("classification", count), range(count), CLASS_NAMES[:count]), folder)


def _head(stock: type[PreTrainedModel], values: dict[str, Any], folder: Path, order: tuple[int, ...]) -> None:
    """The encoder with another head, or none."""
    config = _exact(order).config
    config.update(values)
    torch.manual_seed(0)
    model = stock(config)
    model.base_model.load_state_dict(_exact(order).base_model.state_dict(), strict=False)
    _save(model, folder)


def _weights(change: Callable[[dict[str, torch.Tensor]], Any], folder: Path, order: tuple[int, ...]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _random(state: dict[str, torch.Tensor]) -> None:
    draw = torch.Generator().manual_seed(0)
    state |= {name: 0.02 * torch.randn(value.shape, generator=draw) for name, value in state.items()}


def _constant(state: dict[str, torch.Tensor]) -> None:
    state["classifier.weight"] = torch.zeros_like(state["classifier.weight"])


def _rolled(state: dict[str, torch.Tensor]) -> None:
    """Outputs that are not what the config calls them."""
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name].roll(1, 0).contiguous()


def _not_finite(state: dict[str, torch.Tensor]) -> None:
    state["bert.encoder.layer.0.output.dense.weight"][0, 0] = float("nan")


def _without_head(state: dict[str, torch.Tensor]) -> None:
    del state["classifier.weight"], state["classifier.bias"]


def _with_adapter(state: dict[str, torch.Tensor]) -> None:
    state["bert.encoder.layer.0.adapter.weight"] = torch.zeros(2, 2)


def _compact(folder: Path, order: tuple[int, ...]) -> None:
    model = _exact(order)
    space = sec.Space(model, "ffn")
    masks = random_masks(space)
    masks[:] = 1
    masks[0] = 0
    sec.save(sec.cut(model, sec.Plan.of(space, masks)), folder, tokenizer=words())


def _low_precision(folder: Path, order: tuple[int, ...]) -> None:
    model: Any = _exact(order)
    _save(model.to(torch.bfloat16), folder)


def _none(folder: Path, order: tuple[int, ...]) -> None: ...


@dataclass(frozen=True)
class Teacher:
    """A change of a good teacher, whether it still suits, and the keys of a recipe with which it does."""

    change: Callable[[Path, tuple[int, ...]], None]
    suits: bool = False
    settings: tuple[str, ...] = ()


GENERIC = tuple(f"LABEL_{number}" for number in range(COUNT))
SEVERAL = {"problem_type": "multi_label_classification"}
TEACHERS = {
    "good": Teacher(_none, True),
    "wider": Teacher(partial(_shaped, {"hidden_size": 48}), True),
    "deeper": Teacher(partial(_shaped, {"num_hidden_layers": 3}), True, ("distillation.hidden=null",)),
    "without a tokenizer": Teacher(_without_tokenizer, True),
    "pruned": Teacher(_compact, True),
    "in bf16": Teacher(_low_precision, True),
    "another vocabulary": Teacher(_renumbered),
    "a vocabulary without some words": Teacher(_fewer_words),
    "other names": Teacher(partial(_renamed, ("x", "y", "z"))),
    "no names": Teacher(partial(_renamed, GENERIC)),
    "more classes": Teacher(partial(_of_classes, 5), True),
    "fewer classes": Teacher(partial(_of_classes, 2)),
    "one output": Teacher(partial(_head, BertForSequenceClassification, {"num_labels": 1})),
    "several labels a row": Teacher(partial(_head, BertForSequenceClassification, SEVERAL)),
    "a head for tokens": Teacher(partial(_head, BertForTokenClassification, {})),
    "no head": Teacher(partial(_head, BertModel, {})),
    "weights of the head missing": Teacher(partial(_weights, _without_head)),
    "weights left over": Teacher(partial(_weights, _with_adapter)),
    "random": Teacher(partial(_weights, _random)),
    "the same class always": Teacher(partial(_weights, _constant)),
    "outputs called wrongly": Teacher(partial(_weights, _rolled)),
    "not finite": Teacher(partial(_weights, _not_finite)),
}  # fmt: skip


def teachers(root: Path, scale: float) -> Iterator[Outcome]:
    """Every teacher, in two orders of its outputs, of an encoder and of a fine-tuned model; a sample by the scale."""
    _write_data(root / "data")
    _head(BertModel, {}, root / "an encoder", ORDERS["in another order"])
    _save(_exact(ORDERS["in the order of the data"]), root / "a classifier")
    every = list(product(TEACHERS, ORDERS, ("an encoder", "a classifier")))
    for name, order, student in random.Random(0).sample(every, min(len(every), max(1, round(len(every) * scale)))):
        folder = root / "teacher"
        _save(_exact(ORDERS[order]), folder)
        TEACHERS[name].change(folder, ORDERS[order])
        verdict, said = _judged(TEACHERS[name], root, root / student)
        row = "a teacher that suits" if TEACHERS[name].suits else "a teacher that does not suit"
        yield row, verdict, f"{name}, its outputs {order}, of {student}", said
        for left in (folder, root / "run"):
            shutil.rmtree(left, ignore_errors=True)


def _write_data(folder: Path) -> None:
    folder.mkdir()
    rows = [{"text": text_of(one), "label": NAMES[one[0]]} for one in class_sets("classification", COUNT)]
    for split, times in (("train", 8), ("validation", 2)):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows * times)))


def _judged(teacher: Teacher, root: Path, student: Path) -> tuple[str, str]:
    run = root / "run"
    command = ["prune", student, "--teacher", root / "teacher", "--data", root / "data", "--output", run]
    command += ["--density", 0.5, "--batch-size", 4, "--max-length", 16, "--json"]
    settings = [word for setting in (*QUICK, *teacher.settings) for word in ("--set", setting)]
    done = CliRunner().invoke(app.app, [str(word) for word in (*command, *settings)])
    if done.exit_code == 2 and done.stderr.splitlines()[-1].startswith("error: "):
        return (WRONG if teacher.suits or run.exists() else REFUSED), done.stderr
    if done.exit_code:
        return TRACEBACK, done.stderr + repr(done.exception)
    fault = _fault(root) if teacher.suits else "it taught"
    return (WRONG if fault else RIGHT), fault


def _fault(root: Path) -> str:
    """What is wrong with a run that has ended."""
    score = json.loads((root / "run" / "report.json").read_text())["teacher_scores"]["accuracy"]
    names, own = (
        json.loads((folder / "config.json").read_text())["id2label"]
        for folder in (root / "run" / "model", root / "teacher")
    )
    return "" if score == 1 and names == own else f"teacher {score}, outputs {names}, of the teacher {own}"
