"""Odd data, and losses and gradients that are not finite."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from data_world import CASES, outcome, right
from faults_world import REFUSED, RIGHT, TRACEBACK, WRONG, one_sentence
from safetensors import safe_open
from test_trainer import QUIET, Breaking, Watch, trainer

from faults_by_kind.endings import Outcome
from secateur.system.errors import UserError
from secateur.training.objectives import Labels


def data(root: Path, scale: float) -> Iterator[Outcome]:
    """Data files as users have them, which are read, encoded and scored."""
    for number, (name, case) in enumerate(CASES.items()):
        folder = root / str(number)
        folder.mkdir()
        try:
            found = outcome(case, folder)
            verdict, said = (RIGHT if not case.said and right(case, found) else WRONG), "read otherwise"
        except UserError as refusal:
            verdict, said = (REFUSED if case.said and one_sentence(str(refusal)) else WRONG), str(refusal)
        except Exception as error:
            verdict, said = TRACEBACK, repr(error)
        yield f"data of {case.task}", verdict, name, said


def losses(root: Path, scale: float) -> Iterator[Outcome]:
    """A loss or a gradient that is not finite in one step of six: training must stop, name it and keep a checkpoint."""
    cases = product((2, 3, 4, 5, 6), (float("nan"), float("inf")), (False, True), (False, True), (1, 2))
    for number, (step, value, backward, bf16, accumulate) in enumerate(cases):
        folder = root / str(number)
        options = QUIET | {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
        options |= {"bf16": bf16, "gradient_accumulation_steps": accumulate}
        term = Breaking(step * accumulate, value, backward=backward)
        made = trainer(folder, [], Watch(), select=None, objective=[Labels(), term], **options)
        try:
            made.train()
            verdict, said = WRONG, "trained on"
        except UserError as refusal:
            said = str(refusal)
            kept = [path.name for path in folder.iterdir()] == [f"checkpoint-{step - 1}"] and _finite(folder)
            verdict = REFUSED if f"at step {step} of 6" in said and one_sentence(said) and kept else WRONG
        except Exception as error:
            verdict, said = TRACEBACK, repr(error)
        where = "the gradient" if backward else "the loss"
        case = f"step {step}, {value}, {'bf16' if bf16 else 'fp32'}, {accumulate} micro-batches"
        yield f"{where} not finite", verdict, case, said
        shutil.rmtree(folder)


def _finite(folder: Path) -> bool:
    (saved,) = folder.glob("checkpoint-*/model.safetensors")
    with safe_open(saved, "pt") as file:
        return all(bool(file.get_tensor(name).isfinite().all()) for name in file.keys())  # noqa: SIM118
