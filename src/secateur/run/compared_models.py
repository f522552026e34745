"""Other models beside finished runs: scored on the data of the runs, and measured together with their models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transformers import PreTrainedModel

from secateur.measure.benchmark import benchmark
from secateur.measure.benchmark_result import BenchmarkResult
from secateur.measure.evaluation import encoded, fitted_to, scores_with_error
from secateur.measure.inspected_model import ParameterCount
from secateur.measure.inspection import inspect
from secateur.measure.model_size import disk_bytes, parameter_count
from secateur.measure.random_inputs import check_models
from secateur.report.comparison import ScoredModel, Shape, Timing
from secateur.run.comparable_times import KEPT_PROTOCOL
from secateur.run.finished_run import FinishedRun
from secateur.run.recipe import make_group
from secateur.run.run_data import open_data
from secateur.surgery.opening import local_model_folder, open_model
from secateur.system.errors import UserError
from secateur.tasks.compared_task import ComparedTask
from secateur.tasks.task import Task


def score_models(names: Sequence[str], runs: Sequence[FinishedRun], source: str | None = None) -> list[ScoredModel]:
    """Models that no run made, scored on the validation rows of the runs.

    Args:
        names: hub names, model folders or folders of runs.
        source: where the data of the runs is now; None where it was.

    Raises:
        UserError: a model cannot be opened or does not fit the data, or the data has changed.
    """
    if not names:
        return []
    task, max_length = _data_of(runs[0], source), runs[0].recipe["data.max_length"]
    before = {None if (found := _prunable(open_model(run.folder))) is None else found.total for run in runs}
    whole = before.pop() if len(before) == 1 else None
    return [_scored(name, task, max_length, whole) for name in names]


def _data_of(run: FinishedRun, source: str | None) -> Task:
    """The data of a run, opened again.

    Raises:
        UserError: it is not what the run was scored on.
    """
    report = run.report
    values = {key: value for key, value in run.recipe.items() if key.startswith("data.")}
    place = source or report.recipe["data"]["source"]
    values |= {"data.source": place, "data.metric": report.metric}
    task = open_data(make_group("data", values, str(run.folder)), report.recipe["seed"])
    if task.fingerprint() != report.data:
        raise UserError(
            f"{place} is not the data of the runs (fingerprint {task.fingerprint()}, theirs {report.data}): "
            "say by --data where that is"
        )
    return task.with_reference(run.teacher) if isinstance(task, ComparedTask) else task


def _scored(name: str, task: Task, max_length: int, prunable_before: int | None) -> ScoredModel:
    """One model on the validation rows; its density is of the prunable parameters that runs begin with."""
    model = open_model(name)
    task, tokenizer = fitted_to(task, model, name, asked=False)
    rows = encoded(task, "validation", tokenizer, max_length)
    computed, error = scores_with_error(model, task, rows, tokenizer)
    prunable, compact = _prunable(model), bool(getattr(model.config, "secateur", None))
    return ScoredModel(
        place=name,
        score=computed[task.metric],
        density=prunable.kept / prunable_before if prunable is not None and prunable_before else None,
        parameters=parameter_count(model),
        bytes=disk_bytes(local_model_folder(name)) if compact else 4 * model.num_parameters(),
        standard_error=error,
        greater_is_better=task.greater_is_better,
    )


def _prunable(model: PreTrainedModel) -> ParameterCount | None:
    """Prunable parameters; None for a family that has no table."""
    try:
        return inspect(model).parameters["prunable"]
    except UserError:
        return None


def check_measurable(runs: Sequence[FinishedRun], others: Sequence[str], shapes: Sequence[Shape]) -> None:
    """Refuse models that `measure_models` could not measure, before anything is scored or trained.

    Raises:
        UserError: a model cannot be opened, or has fewer positions than a shape has tokens.
    """
    for place in _measured(runs, others):
        model = open_model(place)
        for shape in shapes:
            check_models([model], *shape)


def _measured(runs: Sequence[FinishedRun], others: Sequence[str]) -> list[str]:
    """The places of all models that are measured, each once: teachers, other models, models of runs."""
    return list(dict.fromkeys([*(run.teacher for run in runs), *others, *(str(run.folder) for run in runs)]))


def measure_models(
    runs: Sequence[FinishedRun],
    others: Sequence[ScoredModel],
    shapes: Sequence[Shape],
    *,
    repeats: int,
    threads: int | None = None,
) -> dict[str, dict[Shape, Timing]]:
    """The latencies of the runs' teachers and models and of other models, in one benchmark, by their places.

    The speed-up of a run's model is over the run's own teacher.
    """
    teacher_of = {str(run.folder): run.teacher for run in runs}
    places = _measured(runs, [other.place for other in others])
    models = {place: open_model(place) for place in places}
    results = benchmark(models, shapes=shapes, repeats=repeats, threads=threads, peak_memory=False)
    medians = {(one.model, one.batch, one.tokens): one.latency_ms for one in results}
    times: dict[str, dict[Shape, Timing]] = {place: {} for place in places}
    for one in results:
        dense = medians.get((teacher_of.get(one.model, one.model), one.batch, one.tokens))
        times[one.model][one.batch, one.tokens] = _timing(one, dense)
    return times


def _timing(one: BenchmarkResult, dense_ms: float | None) -> Timing:
    protocol: Mapping[str, object] = {key: one.protocol[key] for key in KEPT_PROTOCOL}
    return Timing(one.latency_ms, None if dense_ms is None else dense_ms / one.latency_ms, protocol)
