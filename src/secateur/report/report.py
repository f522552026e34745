"""The report of a run: its numbers, each with its protocol and denominator, and the file that stores them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from secateur.measure.chance import better_than
from secateur.report.recipe_keys import upgrade
from secateur.system.errors import UserError
from secateur.system.file_format import FileFormat, NewerVersion
from secateur.tasks.origin import Origin, rows_of

FILE = "report.json"


def _with_groups(values: dict[str, Any]) -> dict[str, Any]:
    return values | {"recipe": upgrade(values["recipe"])}


FORMAT = FileFormat(2, {1: _with_groups})
"""Version 1, of secateur 0.1.0, had the flat keys of its recipes."""


def retention(
    score: float, teacher: float, constant: float | None, greater_is_better: bool, error: float | None = None
) -> float | None:
    """A score over the teacher's.

    None where less of the metric is better, or where the teacher is no better than a constant prediction.

    Args:
        error: the standard error of a score on these rows, as for `chance.better_than`.
    """
    return score / teacher if greater_is_better and better_than(constant, teacher, error) else None


@dataclass(frozen=True)
class Report:
    """The results of a run.

    Attributes:
        recipe: the resolved recipe, in groups.
        metric: name of the main score.
        teacher_scores: metric -> the teacher's score on the rows of "validation"; `scores` has those of the pruned
            model.
        rows: "train" and "validation" -> number of rows.
        density: scope -> fraction kept: `prunable` is the one that a recipe asks for, `model` counts all parameters,
            and `filled`, present with tiles, counts zeroed tiles that remain stored (`Plan.achieved`).
        structure: kept and total units, a row per layer (`Reading.summary`).
        parameters: numbers stored in the parameters, of the `teacher` and of the pruned `model`.
        weight_bytes: of the teacher's weights in float32, and of the compact folder's safetensors.
        bytes: of the `teacher` and the `model`, part of the model (`model_parts`) -> bytes of its tensors, as in
            `weight_bytes` but without the headers of files; None for a run that did not record it, or for a teacher of
            a family without a table.
        shared_output: whether the output layer of the teacher shares its embeddings; None where `bytes` is, or in a
            report of before.
        unpruned: of the model before pruning, the number of its `units`, the `layer_bytes` of its layers in float32 if
            its family has a table, and for a size that was asked for the `bytes` of its file, stored as the result is;
            None in a report of before.
        latency: one `measurement.Measurement` for each shape, the teacher's inside it under `against`.
        verified: largest absolute differences of the logits, masked to compact and compact to loaded.
        seconds: wall-clock time by stage, over all attempts; of `prune` and `recover` that of their training, with its
            evaluations and checkpoints.
        versions: library -> its version, and what is known of the machine, in the attempt that finished the run.
        data: fingerprint of the data.
        target: for a recipe that asks for a latency, the latency asked for, predicted and measured
            (`latency_sweep.target_reached`).
        memory: stage, or `run` for all of it -> kind of memory -> peak bytes over all attempts, and under `counted`
            what is counted; None for a run that did not record it.
        teacher: for a teacher that was trained in the run, the `learning_rate` and the `steps` of its training, and, if
            they were chosen, the `trials` with the score of each setting, None if that training diverged, and the
            number of held-out training `rows` on which they were scored.
        goal: for a run that has chosen its density by a part of the teacher's score: that part under `keep_score`, the
            `density`, the `trials` with the score of each and its `standard_error`, the number of held-out training
            `rows` on which they were scored, the score that they `needed`, the teacher's score on the validation and
            the held-out rows under `teacher`, and whether there was `nothing_to_keep`, so that none was tried. The
            recipe is that of the density.
        depth: for a run that has chosen its number of layers, that number under `layers`, `of` how many, the `trials`
            with the score of each number, and the number of held-out training `rows` on which they were scored.
        rounds: for a run that removes layers before finer units, the number of `layers` that are left, and as fractions
            of the run when their removal may `begin`, when the last one is `removed`, when the model has `recovered`,
            and when that of `finer` units may begin; None for another run, and in a report of before.
        ramp: scores of held-out training rows while the density decreased, before recovery: the `metric`, the number of
            `rows`, the score of the `teacher` on them, and the `points`, each with its `step`, its prunable `density`,
            the `score` and its `standard_error`; None for a run without them.
        length: for a run of a number of `minutes`, these and the `steps` that it decided on; None for another run.
        outputs: whether the teacher's outputs were `cached`, their size in `bytes`, None if that was not computed,
            and the reason `why` the teacher ran beside the student; None for a run that did not record it.
        vocabulary: for a run that has cut it, the number of `pieces` of the `teacher` and of the `model`, and the
            `coverage` of the scored rows: the share that keeps its tokens under `same`, and the share of unknown tokens
            `unknown_before` and `unknown_after`; None for a run that keeps all pieces.
        baselines: for a run with what one would otherwise take: their `names`, a row for each model under `rows`
            (`run.baselines.baseline.Row`, with its `retention` and its `latency`), the reason for each that is
            `left_out`, the times of the `teacher` and the `pruned` model, and the `protocol` of all times; None for
            other runs.
        standard_error: of the pruned model's main score (`evaluation.standard_error`); None where it is not known.
        baseline: the main score of the best constant prediction, such as the commonest class; None where no constant
            prediction compares, or for a run that did not record it.
        scored: fingerprint of the scored rows; None for a run that did not record it.
        trained: fingerprint of the training split, of which the seed may have sampled some rows, whatever their order;
            None for a run that did not record it.
        classes: the scores of each class, in the order of the outputs: its `name`, its number of scored `rows`, and
            `precision`, `recall` and `f1` of the `teacher` and the `model`, None where one was not recorded; None for
            a task without classes.
        tuning: for a run that holds out training rows to tune by, their number under `rows`, the `score` of the pruned
            model on them, and its `standard_error`; None for other runs.
        splits: "train" and "validation" -> the name of the split in the data (`Origin.names`).
        greater_is_better: whether more of the metric is better; of a report that does not say it, it is.
        training_metric: name of the main score of held-out training rows (`Task.of_training_rows`); None in a report of
            before, which takes it to be `metric`.
        paths: the names in the recipe that may be on the hub, and were files or folders where the run was made
            (`names.paths_in`); None in a report of before.
        asked: how the model is asked as the data are (`Predictor.told`): `pairs` of texts, or options of a prediction
            that no recipe has.
        earlier_versions: as `versions`, of earlier attempts where an attempt had others than the one before; None where
            none had.
    """

    recipe: Mapping[str, Any]
    metric: str
    teacher_scores: Mapping[str, float]
    scores: Mapping[str, float]
    rows: Mapping[str, int]
    density: Mapping[str, float]
    structure: list[dict[str, Any]]
    parameters: Mapping[str, int]
    weight_bytes: Mapping[str, int]
    latency: list[dict[str, Any]]
    verified: Mapping[str, float]
    seconds: Mapping[str, float]
    versions: Mapping[str, str]
    data: str
    target: Mapping[str, Any] | None = None
    memory: Mapping[str, Any] | None = None
    teacher: Mapping[str, Any] | None = None
    goal: Mapping[str, Any] | None = None
    depth: Mapping[str, Any] | None = None
    rounds: Mapping[str, Any] | None = None
    ramp: Mapping[str, Any] | None = None
    length: Mapping[str, Any] | None = None
    outputs: Mapping[str, Any] | None = None
    vocabulary: Mapping[str, Any] | None = None
    baselines: Mapping[str, Any] | None = None
    standard_error: float | None = None
    baseline: float | None = None
    scored: str | None = None
    trained: str | None = None
    bytes: Mapping[str, Mapping[str, int]] | None = None
    classes: Sequence[Mapping[str, Any]] | None = None
    tuning: Mapping[str, Any] | None = None
    splits: Mapping[str, str | None] = field(default_factory=lambda: Origin().names)
    asked: Mapping[str, Any] = field(default_factory=dict)
    greater_is_better: bool = True
    training_metric: str | None = None
    shared_output: bool | None = None
    unpruned: Mapping[str, int] | None = None
    paths: Sequence[str] | None = None
    earlier_versions: Sequence[Mapping[str, str]] | None = None

    @property
    def metric_of_training_rows(self) -> str:
        """Name of the main score of training rows that are held out: of trials, to tune by, or to select by."""
        return self.training_metric or self.metric

    @property
    def retention(self) -> float | None:
        """The pruned model's score over the teacher's; None where `retention` of a score is."""
        score, teacher = self.scores[self.metric], self.teacher_scores[self.metric]
        return retention(score, teacher, self.baseline, self.greater_is_better, self.standard_error)

    @property
    def scored_rows(self) -> str:
        """The number of scored rows and their split, such as "872 test rows"."""
        return f"{self.rows['validation']:,} {rows_of(self.splits['validation'])}"

    @property
    def versions_in_words(self) -> dict[str, str]:
        """As `versions`, with those of earlier attempts behind them."""
        return {name: self._version_in_words(name, version) for name, version in self.versions.items()}

    def _version_in_words(self, name: str, version: str) -> str:
        others = dict.fromkeys(one[name] for one in self.earlier_versions or () if one.get(name, version) != version)
        return f"{version} (in earlier attempts {', '.join(others)})" if others else version

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `retention` included."""
        return {**asdict(self), "retention": self.retention}

    def save(self, folder: Path) -> None:
        """Write `report.json`, which marks the run as finished. `run_page.write` writes the pages for people."""
        FORMAT.write(folder / FILE, self.to_dict())

    @staticmethod
    def load(folder: Path | str) -> Report:
        """The report of a finished run, of this version or of 0.1.0.

        Raises:
            UserError: there is none, it is damaged, or a later version wrote it.
        """
        path = Path(folder) / FILE
        try:
            values = FORMAT.read(path)
            values.pop("retention")
            return Report(**values)
        except NewerVersion:
            raise
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{path} is not a report that can be read ({error}): give the folder of a finished run"
            ) from error
