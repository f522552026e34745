"""The teacher in int8, in ONNX Runtime, beside the pruned model in the same runtime.

RUN/baselines/int8/teacher-int8.onnx, pruned-fp32.onnx, pruned-int8.onnx
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from secateur.deploy.export import export, opened
from secateur.measure.evaluation import runner_scores
from secateur.measure.model_size import parameter_count
from secateur.run.baselines import register
from secateur.run.baselines.baseline import Baseline, LeftOut, Row
from secateur.run.context import Context
from secateur.run.models import load_teacher
from secateur.run.run_data import RunData
from secateur.surgery.checkpoint import load
from secateur.system import processes
from secateur.system.errors import UserError


@register("int8")
class Int8(Baseline):
    """The teacher in int8, as it is exported to ONNX Runtime, with the ranges of activations of each batch."""

    def make(self, context: Context, folder: Path) -> list[Row]:
        return processes.on_main(partial(_rows, context, folder))


def _rows(context: Context, folder: Path) -> list[Row]:
    """The teacher in int8, and the pruned model in fp32 and in int8.

    Raises:
        LeftOut: a model cannot be exported, or is scored on generated texts, or a package is not installed.
    """
    if context.data.task.generates:
        raise LeftOut("the task is scored on generated texts, and exported files generate none")
    try:
        rows = [_row(context, folder, "int8", context.whole.data, load_teacher(context.whole))]
        pruned = load(context.model_folder)
        return rows + [_row(context, folder, dtype, context.data, pruned, pruned=True) for dtype in ("fp32", "int8")]
    except UserError as error:
        raise LeftOut(str(error)) from error


def _row(
    context: Context, folder: Path, dtype: str, data: RunData, model: PreTrainedModel, pruned: bool = False
) -> Row:
    """A model that is exported and scored."""
    role = "pruned" if pruned else "teacher"
    path = folder / f"{role}-{dtype}.onnx"
    written = export(model, path, dtype=dtype)
    run = opened(path)
    task = data.task
    return Row(
        name=f"pruned-{dtype}" if pruned else dtype,
        what=f"the {role} {'model ' if pruned else ''}in {dtype}, ONNX Runtime",
        score=runner_scores(run, task, data.validation_rows, data.tokenizer)[task.metric],
        parameters=parameter_count(model),
        bytes=written.bytes,
        place=path.relative_to(context.folder).as_posix(),
        runtime=run.runtime,
        density=None if pruned else 1.0,
        pruned=pruned,
    )
