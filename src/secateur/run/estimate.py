"""What the stages of a run will take, in seconds, from the costs of its steps (`step_times`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from secateur.budget.space import Space
from secateur.run import ramp_scores, run_length
from secateur.run.baselines import trained
from secateur.run.context import Context
from secateur.run.costs import Costs, Pace, Speed
from secateur.run.expected_stage import ExpectedStage
from secateur.run.models import teacher_name
from secateur.run.ramp_rows import RampRows
from secateur.run.recipe import Recipe
from secateur.run.run_data import Rows
from secateur.run.run_rounds import end_of_pruning, is_open, total_layers, with_layers
from secateur.run.score_goal import with_density
from secateur.run.stages import baselines, density, depth, measure, prune, recover, teacher
from secateur.run.step_times import tokens_of, trial_recipes
from secateur.run.training_arguments import evaluations_of, rounded, steps_of_run, steps_of_trial
from secateur.system.errors import UserError
from secateur.system.files import read_json
from secateur.system.quantities import at_least, quantity
from secateur.training.array_cache import KEY
from secateur.training.checkpoints import last_checkpoint

FEWEST = 10
"""Steps below which a number of minutes is refused."""
MANY = 100_000
"""Steps from which on more of them take no more evaluations."""
WARMUP = 10
"""Untimed forwards of each model before a latency is measured (`bench.measure`)."""


def expected_stages(
    context: Context, space: Space, costs: Costs | None, density_trials: int = 0
) -> list[ExpectedStage]:
    """The stages of a run and of its branches, in the order in which they run.

    Where the number of layers is open, it is taken to be the smallest, which is chosen unless it scores worse.

    Args:
        space: of the model before pruning.
        costs: what has been measured; None if nothing has.
        density_trials: the number of trials of densities at most; the run has the density of `with_middle_density`.
    """
    own = Expectation.of(context, space, costs, density_trials)
    stages = [*own.first_stages(), *own.last_stages()]
    for branch in own.context.branches:
        last = Expectation(branch, space, costs).last_stages()
        stages += [replace(stage, name=f"{stage.name} ({branch.recipe.target.density:g})") for stage in last]
    return stages


def with_middle_density(context: Context, densities: Sequence[float]) -> Context:
    """The context with the density that is tried first of those between which it chooses, the largest first."""
    if not densities:
        return context
    return replace(context, recipe=with_density(context.recipe, densities[len(densities) // 2]))


def steps_for(context: Context, space: Space, costs: Costs, density_trials: int = 0) -> int:
    """The number of steps that take the minutes of the recipe.

    Args:
        space, costs, density_trials: as for `expected_stages`.

    Raises:
        UserError: there is time for less than `FEWEST`.
    """
    minutes = context.recipe.training.minutes or 0.0

    def seconds(steps: int) -> float:
        short = run_length.with_steps(context, steps)
        return Expectation.of(short, space, costs, density_trials).training()

    many, more = seconds(MANY), seconds(2 * MANY)
    step = (more - many) / MANY
    steps = int(round(MANY + (60 * minutes - many) / step, 6))
    if steps < FEWEST:
        needed = at_least(round(seconds(FEWEST) / 60, 6), ".2g")
        raise UserError(
            f"training.minutes {minutes:g} are too short: {FEWEST} steps take about {needed} minutes with their "
            "evaluations, so give more minutes"
        )
    return steps


@dataclass(frozen=True)
class Expectation:
    """What is expected of one run.

    Attributes:
        context: of the run, whose density and number of layers are not open.
        trials: number of layers -> recipe of the trial, of those that are sure to be run.
        density_trials: number of trials of densities at most.
    """

    context: Context
    space: Space
    costs: Costs | None
    trials: Mapping[int, Recipe] = field(default_factory=dict)
    density_trials: int = 0

    @classmethod
    def of(cls, context: Context, space: Space, costs: Costs | None, density_trials: int) -> Expectation:
        if not is_open(context.recipe):
            return cls(context, space, costs, density_trials=density_trials)
        recipes = trial_recipes(context, space)
        smallest, most = min(recipes), max(recipes)
        trials = {layers: recipes[layers] for layers in (most, smallest)} if smallest < most else {}
        return cls(_with_layers(context, smallest, total_layers(space)), space, costs, trials, density_trials)

    def first_stages(self) -> Iterator[ExpectedStage]:
        """The stages until the cut."""
        context = self.context
        if teacher_name(context) is None:
            yield self._teacher()
        if context.recipe.distillation.cache:
            cached = any(context.cache_folder.glob(KEY)) or prune.done(context)
            yield self._stage("outputs", self.outputs, "cached" if cached else "")
        if self.density_trials:
            tried = not self._density_trials_left
            stage = self._training("densities (trials)", "density", self.trials_of_densities, tried)
            yield replace(stage, steps=self._density_trials_left * steps_of_trial(context))
        for layers in self.trials:
            tried = _has_tried(context, layers) or prune.done(context)
            trial = partial(self.trial, self.trials[layers])
            stage = self._training(f"{quantity(layers, 'layer')} (trial)", f"depth-{layers}", trial, tried)
            yield replace(stage, steps=steps_of_trial(context))
        yield self._training("prune", "prune", self.pruning, prune.done(context))

    def last_stages(self) -> Iterator[ExpectedStage]:
        """The stages after the cut."""
        if self.context.recipe.method.end < 1 or self.context.recipe.target.toward is not None:
            yield self._training("recover", "recover", self.recovery, recover.done(self.context))
        if self.context.recipe.measurement.baselines:
            yield self._stage("baselines", self.baselines, "finished" if baselines.done(self.context) else "")
        yield self._stage("measure", self.measurement, "finished" if measure.done(self.context) else "")

    def _teacher(self) -> ExpectedStage:
        """The training of a teacher with its trials, at the length that is usual and at most."""
        if teacher.done(self.context):
            return self._training("teacher", "teacher-training", lambda: 0.0, True)
        steps, most = teacher.expected(self.context), teacher.most_expected(self.context)
        stage = self._training("teacher", "teacher-training", partial(self.teaching, steps), False)
        longest = None if stage.seconds is None or most == steps else self.teaching(most)
        return replace(stage, steps=sum(steps), most=longest)

    def _training(self, name: str, folder: str, seconds: Callable[[], float], done: bool) -> ExpectedStage:
        """A stage that trains; of one that was interrupted, the steps after its last checkpoint count."""
        stage = self._stage(name, seconds, "finished" if done else "")
        place = self.context.folder / folder
        left = None if stage.seconds is None else stage.seconds * _part_left(place)
        return replace(stage, folder=place, seconds=left)

    def _stage(self, name: str, seconds: Callable[[], float | None], result: str) -> ExpectedStage:
        if result:
            return ExpectedStage(name, 0.0, result=result)
        return ExpectedStage(name, None if self.costs is None else seconds())

    # Seconds

    def training(self) -> float:
        """The trials of densities and layers, pruning and recovery."""
        trials = self.trials_of_densities() + sum(map(self.trial, self.trials.values()))
        return trials + self.pruning() + self.recovery()

    def teaching(self, steps: Sequence[int]) -> float:
        """The training of the teacher, with its evaluations, after trials that are scored.

        Args:
            steps: of each of these trainings.
        """
        costs, trials = self._measured, len(steps) - 1
        assert costs.teacher_step is not None
        scored = trials * self._scoring(self.context.data.held_out_rows, costs.dense.scored) if trials else 0.0
        return sum(steps) * costs.teacher_step + scored + self._evaluations(costs.dense, steps[-1])

    def outputs(self) -> float:
        """The pass of the teacher over the rows for distillation."""
        return tokens_of(self.context.data.distillation_rows) * self._measured.dense.token

    def trials_of_densities(self) -> float:
        """The trials of densities that are left, which have the most layers if their number is chosen afterwards."""
        recipe = self.trials[max(self.trials)] if self.trials else self.context.recipe
        return self._density_trials_left * self.trial(recipe)

    @property
    def _density_trials_left(self) -> int:
        """The number of trials of densities at most, without those of an earlier attempt."""
        return max(0, self.density_trials - density.QUESTION.tried(self.context.folder))

    def trial(self, recipe: Recipe) -> float:
        """A trial: pruning to the target and recovery, without evaluations, and a score.

        The steps before pruning are measured with frozen weights if those are while the model is pruned; the recovery
        trains them, and cuts the model first if it shrinks.
        """
        pace = Pace(recipe, self.space, self._measured)
        steps, end = steps_of_trial(self.context), 1.0
        recovering = pace.target.step
        if recipe.method.train == "scores":
            end = end_of_pruning(recipe)
            recovering = recovering if recipe.method.shrink else max(recovering, self._measured.dense.step)
        trained = steps * (end * pace.pruning(end).step + (1.0 - end) * recovering)
        scored = self._scoring(self.context.data.held_out_rows, pace.target.scored)
        return trained + pace.cutting(end, steps * end) + scored

    def pruning(self) -> float:
        """The steps until the cut, their evaluations, and the scores at some densities."""
        end = self._pace.cut_at
        speed, steps = self._pace.pruning(end), rounded(steps_of_run(self.context) * end)
        scored = (1 + len(ramp_scores.PASSED)) * self._scoring(RampRows(self.context.data).scored, speed.token)
        return steps * speed.step + self._pace.cutting(end, steps) + self._evaluations(speed, steps) + scored

    def recovery(self) -> float:
        """The steps after the cut, and their evaluations."""
        left = 1.0 - self._pace.cut_at
        if not left:
            return 0.0
        speed, steps = self._pace.target, rounded(steps_of_run(self.context) * left)
        return steps * speed.step + self._evaluations(speed, steps)

    def baselines(self) -> float:
        """The training of those that are trained, at the speed of the result, to whose latency they are the nearest."""
        speed, count = self._pace.target, trained(self.context.recipe.measurement.baselines)
        steps = rounded(steps_of_run(self.context))
        return count * (steps * speed.step + self._evaluations(speed, steps))

    def measurement(self) -> float | None:
        """The scores of the result and its teacher on the validation rows, and their latencies."""
        if self.context.data.task.generates:
            return None
        measurement = self.context.recipe.measurement
        of_texts = self.context.data.task.lengths  # or of images, which are counted in place of their tokens
        forward = sum(batch * tokens if of_texts else batch for batch, tokens in measurement.shapes)
        tokens = forward * (WARMUP + measurement.repeats) + tokens_of(self.context.data.validation_rows)
        return tokens * (self._measured.dense.scored + self._pace.target.scored)

    def _evaluations(self, speed: Speed, steps: int) -> float:
        """The evaluations of a stage of that many steps."""
        count = evaluations_of(self.context.recipe, steps)
        return count * self._scoring(self.context.data.eval_rows, speed.token) if count else 0.0

    def _scoring(self, rows: Rows, token: float) -> float:
        """The time of scoring rows; 0 where texts are generated for it, which takes an unknown time."""
        return 0.0 if self.context.data.task.generates else tokens_of(rows) * token

    @property
    def _measured(self) -> Costs:
        assert self.costs is not None, "the seconds of a stage are asked for where costs have been measured"
        return self.costs

    @cached_property
    def _pace(self) -> Pace:
        return Pace(self.context.recipe, self.space, self._measured)


def _has_tried(context: Context, layers: int) -> bool:
    """Whether a trial of this number of layers is recorded."""
    return depth.QUESTION.earlier(context.folder, {depth.QUESTION.key: layers}) is not None


def _part_left(folder: Path) -> float:
    """The part of the steps of a training in a folder that come after its last checkpoint."""
    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        return 1.0
    state = read_json(Path(checkpoint) / "trainer_state.json")
    return 1.0 - state["global_step"] / state["max_steps"]


def _with_layers(context: Context, layers: int, total: int) -> Context:
    """The context, and its branches, with a number of layers."""
    branches = tuple(_with_layers(branch, layers, total) for branch in context.branches)
    return replace(context, recipe=with_layers(context.recipe, layers, total), branches=branches)
