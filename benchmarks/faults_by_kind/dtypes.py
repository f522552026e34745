"""Models in bf16 and fp16: masks, cuts, verification, measurement, saving and loading do what they do in fp32.

A masked or cut model must be as near to the masked model in fp32 as rounding in its dtype allows.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from small_world import tokenizer
from tiny_models import LEADING, inputs, random_masks, tiny
from torch import Tensor
from transformers import PreTrainedModel

import secateur as sec
from faults_by_kind.endings import Outcome, ending
from secateur.surgery.opening import open_model

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
UNITS = (
    ("ffn", "qk", "vo"), ("hidden",), ("sublayer",), ("layer", "head"), ("hidden", "head", "sublayer", "ffn"),
    ("attention/4x8", "ffn"), ("ffn", "qk", "vo", "head", "sublayer", "hidden"),
)  # fmt: skip
ROUNDINGS = 64
"""Of the largest output: what the roundings of two layers may add up to, in units of the dtype's precision."""


class Case:
    """A model in a dtype, a plan for it, and its masked outputs in fp32."""

    def __init__(self, root: Path, which: Any, units: tuple[str, ...], dtype: torch.dtype, soft: bool) -> None:
        self.folder, self.dtype = root / "small", dtype
        model: Any = _scaled(tiny(*which, dtype=torch.float32))  # Any: transformers hides the types of `to`
        self.model: PreTrainedModel = model.to(dtype)
        self.space = sec.Space(self.model, *units)
        self.plan = sec.Plan.of(self.space, random_masks(self.space, 0.7, soft=soft))
        self.batch = inputs(self.model)
        self.whole = self.masked(copy.deepcopy(self.model).float())

    def masked(self, model: PreTrainedModel) -> Tensor:
        with sec.attached(model, sec.Space(model, *self.space.units), self.plan.masks):
            return self.outputs(model)

    @torch.no_grad()
    def outputs(self, model: PreTrainedModel) -> Tensor:
        found = model(**self.batch)
        logits: Tensor = next(value for name, value in found.items() if name.endswith("logits"))
        return logits.float()

    def distance(self, found: Tensor) -> str:
        allowed = ROUNDINGS * torch.finfo(self.dtype).eps * float(self.whole.abs().max())
        largest = float((found - self.whole).abs().max())
        return "" if largest <= allowed else f"differs by {largest:.2g} where {allowed:.2g} is allowed"


def _scaled(model: PreTrainedModel) -> PreTrainedModel:
    """With weights of the size of trained ones, so that two layers stay within fp16."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and parameter.requires_grad:
                parameter.mul_(0.3)
    return model


def _mask(case: Case) -> str:
    return case.distance(case.masked(case.model))


def _evidence(case: Case) -> str:
    """The gradient of the masks is finite, and not zero everywhere."""
    with sec.attached(case.model, case.space, case.space.ones()) as attachment:
        found = case.model(**case.batch)
        logits = next(value for name, value in found.items() if name.endswith("logits"))
        (gradient,) = torch.autograd.grad(logits.float().square().sum(), attachment.masks)
    return "" if bool(gradient.isfinite().all()) and bool(gradient.any()) else "no gradient of the masks"


def _cut(case: Case) -> str:
    small = sec.cut(case.model, case.plan)
    return _in(case, small) or case.distance(case.outputs(small))


def _in(case: Case, model: PreTrainedModel) -> str:
    """What parameters are not in the case's dtype, but for those that transformers loads in fp32 always (T5)."""
    fp32: Any = tuple(model._keep_in_fp32_modules or ())
    other = {
        name: value.dtype
        for name, value in model.named_parameters()
        if value.dtype != case.dtype and not any(part in fp32 for part in name.split("."))
    }
    return f"{min(other)} is {other[min(other)]}" if other else ""


def _verify(case: Case) -> str:
    verified = sec.verify([case.batch], dense=case.model, plan=case.plan)
    return "" if verified.passed else str(verified)


def _measure(case: Case) -> str:
    measured = sec.measure(sec.cut(case.model, case.plan), case.model, batch=1, tokens=8, repeats=1, warmup=0)
    return "" if measured.latency_ms > 0 else "no time"


def _save(case: Case) -> str:
    """Saved, loaded, verified, saved again and loaded again: the same values in the same dtype."""
    small = sec.cut(case.model, case.plan)
    sec.save(small, case.folder, tokenizer=tokenizer())
    again = case.folder.with_name("again")
    sec.save(sec.load(case.folder), again)
    for loaded in (sec.load(case.folder), sec.load(again), open_model(case.folder)):
        if wrong := _in(case, loaded) or _other(small, loaded):
            return wrong
    verified = sec.verify([case.batch], dense=case.model, plan=case.plan, compact=small, folder=case.folder)
    return "" if verified.passed else str(verified)


def _other(small: PreTrainedModel, loaded: PreTrainedModel) -> str:
    """Which trained parameter has other values."""
    after = {name: value.float() for name, value in loaded.named_parameters()}
    before = {name: value.float() for name, value in small.named_parameters() if value.requires_grad}
    other = [name for name, value in before.items() if name not in after or not torch.equal(value, after[name])]
    return f"{min(other)} has other values" if other else ""


def _open(case: Case) -> str:
    """A dense checkpoint is opened in fp32, as transformers opens it."""
    case.model.save_pretrained(case.folder)
    stock = type(case.model).from_pretrained(case.folder, dtype=torch.float32).eval()
    loaded = open_model(case.folder)
    if wrong := _other(stock, loaded):
        return wrong
    return "" if torch.equal(case.masked(loaded), case.masked(stock)) else "the masked outputs differ"


def _export(case: Case) -> str:
    if case.model.config.is_encoder_decoder:
        return ""
    small = sec.cut(case.model, case.plan)
    path = case.folder.with_suffix(".pt2")
    exported = sec.export(small, path, dtype="fp32")
    return case.distance(case.outputs(small)) if exported.path.is_file() else "no file"


STEPS = {
    "masked": _mask, "gradient of the masks": _evidence, "cut": _cut, "verified": _verify, "measured": _measure,
    "saved and loaded": _save, "opened from a checkpoint": _open, "exported": _export,
}  # fmt: skip


def dtypes(root: Path, scale: float) -> Iterator[Outcome]:
    """Every step, family, kind of units and dtype; a sample of them by the scale."""
    draw = random.Random(0)
    for step, which, units, name in product(STEPS, LEADING, UNITS, DTYPES):
        if draw.random() < 0.5 * scale * (0.2 if step == "exported" else 1.0):
            case = Case(root, which.values[0], units, DTYPES[name], draw.random() < 0.5)
            verdict, said = ending(partial(STEPS[step], case))
            yield f"a model in {name}: {step}", verdict, f"{which.id}, {', '.join(units)}", said
