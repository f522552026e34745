"""The whole job, stage by stage: teacher, prune, cut, recover, measure.

Each stage is a call; what it leaves on disk is written whole, and is where an interrupted run goes on.

    RUN/recipe.yaml      the resolved recipe          RUN/prune, RUN/recover   checkpoints while they are needed
    RUN/versions.json    libraries and machine        RUN/cut                  the cut model before recovery
    RUN/log.jsonl        what training logged         RUN/model                the result: a compact folder
    RUN/pruned.jsonl     units left, group by group   RUN/latency.json         prices, for a latency
    RUN/cut_at.json      where it was cut             RUN/tensorboard          if it reports there
    RUN/teacher          the teacher, if trained here RUN/report.*             the numbers, with their protocol

What it is given is in `given`, what the student learns in `lessons`, what it took in `spent`, each with the files that
it leaves.

A run of several densities is a folder of such runs, of which the last prunes for all: see `walk`. Of several
processes all train and score, each a part of every batch; the main one does and writes everything else (`processes`).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainingArguments,
    set_seed,
)
from transformers.integrations import TensorBoardCallback

from secateur.budget.units import Units, check_count
from secateur.deploy.verify import Verification, verify
from secateur.measure.bench import check_models, disk_bytes, grid
from secateur.measure.evaluation import alone
from secateur.measure.latency import LatencyTable, beside
from secateur.methods import METHODS
from secateur.methods.method import Method
from secateur.methods.schedules import Schedule
from secateur.report.model_card import card
from secateur.report.report import Report
from secateur.run.accounting import Spent
from secateur.run.callbacks import LogFile, Passing, PrunedFile
from secateur.run.distillation import Cut, Lessons
from secateur.run.recipe import Recipe
from secateur.run.run_data import Given
from secateur.run.run_folder import claim, note, read_json, write_whole
from secateur.structure.architecture import Embedding, Norm
from secateur.structure.plan import Plan
from secateur.structure.space import Space
from secateur.surgery.checkpoint import load, read_config, save
from secateur.surgery.cut import cut, cut_moments, factorise
from secateur.surgery.zeroed_blocks import fill, held
from secateur.system import compat, process_memory, processes
from secateur.system.errors import UserError
from secateur.tasks.task import Task
from secateur.training.checkpoints import last_checkpoint
from secateur.training.dropout import set_dropout
from secateur.training.objectives import Labels, Term
from secateur.training.teacher_cache import INDEX, CachedTeacher
from secateur.training.trainer import PruningTrainer

TABLE = "latency.json"
CUT_AT = "cut_at.json"


def run(recipe: Recipe, output: Path | str, callbacks: Sequence[TrainerCallback] = ()) -> Report:
    """Do the whole job of a recipe in the folder `output`; the same call goes on where an interrupted one stopped.

    Raises:
        UserError: anything that the user can mend; nothing half-written is left.
    """
    if len(recipe.target.densities) > 1:
        raise UserError("a run has one density: take `secateur.run.density_sweep.walk` for several, or ask for one")
    return Run(recipe, Path(output), tuple(callbacks)).report()


@dataclass
class Run:
    """One recipe in one folder. Properties are computed once, when first needed.

    Attributes:
        shared: where a teacher trained here, its outputs and its scores are kept: runs with one teacher and one data
            set may share it. By default they are in the run's folder, where only the teacher stays in the end.
        forks: runs `toward` the density of this one, which prunes for them: each gets its cut model where it would
            itself have stopped.
    """

    recipe: Recipe
    folder: Path
    callbacks: tuple[TrainerCallback, ...] = ()
    shared: Path | None = None
    forks: tuple[Run, ...] = ()

    def report(self) -> Report:
        """Run what is missing and give the report."""
        process_memory.forget_peak()
        self.check()
        self.claim()
        if self.finished:
            processes.on_main(self._tidy)  # of a run that was killed right after its report
            return Report.load(self.folder)
        recovered = self.recovered
        self.spent.begin()
        reached = {"scores": self.given.scores(recovered), "teacher_scores": self.teacher_scores}
        return processes.on_main(partial(self._finish, **reached))

    def _finish(self, **reached: dict[str, float]) -> Report:
        """Measure what is left to measure, and write the report."""
        report = self._measure(**reached)
        write_whole(self.folder / "model" / "README.md", card(report, self.recovered))
        report.save(self.folder)
        self._tidy()
        return report

    def _tidy(self) -> None:
        """Remove what only an unfinished run needs."""
        for leftover in ("teacher-training", "prune", "cut", "recover", "cache"):
            shutil.rmtree(self.folder / leftover, ignore_errors=True)
        self.lessons.forget()

    @property
    def finished(self) -> bool:
        """Whether the report is there, which is written last."""
        return (self.folder / "report.json").is_file()

    def claim(self) -> None:
        """Take the folder.

        Raises:
            UserError: it is another run's, or cannot be written.
        """
        processes.on_main(self._claim)

    def _claim(self) -> None:
        claim(self.folder, self.recipe)
        if not self.finished and self.table is not None:
            self.table.save(self.folder / TABLE)

    # What is given

    @cached_property
    def given(self) -> Given:
        return Given(self.recipe)

    @property
    def task(self) -> Task:
        return self.given.task

    @cached_property
    def lessons(self) -> Lessons:
        return Lessons(self.recipe, self.folder, self.task.generates)

    @property
    def spent(self) -> Spent:
        return Spent(self.folder)

    @cached_property
    def bf16(self) -> bool:
        """bf16 where the hardware computes in it: a GPU that has it, or a CPU with its instructions."""
        if self.recipe.training.bf16 is not None:
            return self.recipe.training.bf16
        if torch.cuda.is_available():
            return torch.cuda.is_bf16_supported(including_emulation=False)
        return compat.cpu_computes_bf16()

    def check(self) -> None:
        """Whatever can be refused is refused before the run folder is touched or a step is trained.

        Raises:
            UserError: the recipe does not fit its model or its data.
        """
        if self.finished:
            return
        processes.refuse_sharding()
        if self.recipe.training.batch_size % processes.count():
            raise UserError(
                f"batch_size {self.recipe.training.batch_size} cannot be shared by {processes.count()} processes: the "
                "rows of a batch are those of all of them, so take a multiple"
            )
        _check_trackers(self.recipe.training.report_to)
        if Path(self.recipe.model).is_dir():
            read_config(Path(self.recipe.model))
        if "hidden" in self.recipe.target.units and not self.recipe.distillation.hidden_projection:
            raise UserError(
                "distillation.hidden_projection: false needs the whole residual stream: leave it on, or take hidden "
                "out of the units"
            )
        self.given.check()
        model = self._base(self.recipe.model)
        self._check_teacher(model)
        self._check_method(self._method(self._factorised(model)))
        for _, tokens in self.recipe.measurement.shapes:
            check_models([model], tokens)

    def _check_method(self, method: Method) -> None:
        """The way of a method must be one that the recipe can take."""
        r = self.recipe
        if r.target.toward is not None and self.schedule(0.0) < self.share:
            raise UserError(
                f"{r.method.name!r} keeps as much at first as in the end, so that one pruning gives one density: ask "
                "for one"
            )
        if r.method.end == 1 and method.fills:
            raise UserError("method.end: 1 leaves no recovery, in which what is filled is trained: lower method.end")

    def _check_teacher(self, model: PreTrainedModel) -> None:
        """A teacher must suit the terms of the loss, and a named one have the shapes that it lends."""
        teacher = self._named_teacher()
        for term in self.lessons.terms():
            term.bind(model, teacher or model)
        if teacher is None:
            return
        shapes = [{name: tensor.shape for name, tensor in m.state_dict().items()} for m in (model, teacher)]
        if self.recipe.distillation.start == "teacher" and shapes[0] != shapes[1]:
            raise UserError("the student cannot start from a teacher of another shape: set distillation.start: model")

    # Stage 1: the teacher

    @cached_property
    def teacher(self) -> PreTrainedModel:
        """The named teacher, the model itself if it is fine-tuned for the task, or the model fine-tuned here."""
        teacher = self._named_teacher()
        folder = self._common / "teacher"
        if teacher is None and not folder.is_dir():
            self._train_teacher(folder)
        return (teacher or self.task.load_model(folder)).eval()

    @property
    def teacher_scores(self) -> dict[str, float]:
        """Every metric of the task, by the teacher on all validation rows."""
        if not self.recipe.distillation.cache:
            return self.given.scores(self.teacher)
        return self.given.teacher_scores(self.teacher, self._common / "cache")

    @property
    def _common(self) -> Path:
        """Where runs that share a teacher find what is known of it."""
        return self.shared or self.folder

    def _named_teacher(self) -> PreTrainedModel | None:
        name = self.recipe.teacher or (self.recipe.model if self.task.is_finetuned(self.recipe.model) else None)
        if name is None:
            return None
        teacher = self.task.load_model(name)
        self.task.check_labels(teacher, "teacher")
        return teacher

    def _train_teacher(self, folder: Path) -> None:
        r = self.recipe
        set_seed(r.seed)
        model = self._base(r.model)
        trainer = self._trainer(
            model, "teacher-training", r.training.teacher_epochs, learning_rate=r.training.teacher_learning_rate
        )
        self._train(trainer, "teacher")
        processes.on_main(partial(save, model, folder, tokenizer=self.given.tokenizer))

    def _base(self, name: str) -> PreTrainedModel:
        """The named model with a head for the task; a head for other labels is replaced by a new one."""
        return self.task.load_model(
            name, ignore_mismatched_sizes=name == self.recipe.model and self.recipe.teacher is not None
        )

    # Stage 2: prune and cut

    @cached_property
    def student(self) -> PreTrainedModel:
        """Where pruning starts: the teacher's weights, or the model's own under a new head."""
        set_seed(self.recipe.seed)
        student = self._base(self.recipe.model)
        if self.recipe.distillation.start == "teacher":
            student.load_state_dict(self.teacher.state_dict())
        return self._prepared(self._factorised(student))

    def _factorised(self, model: PreTrainedModel) -> PreTrainedModel:
        return factorise(model, self.recipe.target.embedding_rank) if self.recipe.target.embedding_rank else model

    def _prepared(self, model: PreTrainedModel) -> PreTrainedModel:
        """The student as it is trained: embeddings frozen and dropout set, as the recipe says."""
        if self.recipe.training.freeze_embeddings:
            table = model.get_input_embeddings()
            (table if isinstance(table, torch.nn.Embedding) else table.table).requires_grad_(False)
        if self.recipe.training.freeze_embeddings == "all":
            own = dict(model.named_parameters())
            for parameter in self._space().table.parameters:
                if parameter.layer is None and isinstance(parameter.row, Embedding | Norm) and parameter.name in own:
                    own[parameter.name].requires_grad_(False)
        if self.recipe.training.dropout is not None:
            set_dropout(model, self.recipe.training.dropout)
        return model

    def _method(self, model: PreTrainedModel) -> Method:
        r = self.recipe
        cost = self.table if r.target.keep is None else Units()
        space = Space(model, *r.target.units, cost=cost, round_to=r.target.round_to)
        kind: Any = METHODS.get(r.method.name)
        try:
            return kind(space, self.schedule, **r.method.options)
        except TypeError as error:
            raise UserError(f"the options of {r.method.name!r} do not fit: {error}") from error

    @cached_property
    def table(self) -> LatencyTable | None:
        """What sizes cost, where a time is asked for: as an earlier attempt had it, the recipe's, or measured now."""
        r, kept = self.recipe, self.folder / TABLE
        if r.target.latency is None and r.target.speedup is None:
            return None
        if kept.is_file():
            return LatencyTable.load(kept)
        if r.target.latency_table is not None:
            batch, tokens = r.target.shape or (None, None)
            return LatencyTable.load(r.target.latency_table, batch=batch, tokens=tokens)
        batch, tokens = r.target.shape or r.measurement.shapes[0]
        model = self._factorised(self._base(r.model))
        return processes.on_main(partial(LatencyTable.measure, model, *r.target.units, batch=batch, tokens=tokens))

    @property
    def schedule(self) -> Schedule:
        """Of what is kept, over the progress of the run: the method's way down."""
        r = self.recipe
        end = r.method.begin + r.method.ramp * (r.method.end - r.method.begin)
        return METHODS.get(r.method.name).schedule(r.target.toward or self.share, r.method.begin, end)

    @cached_property
    def share(self) -> float:
        """What to come down to: the density, or the share of the dense model's units or time."""
        r = self.recipe
        if r.target.density is not None:
            return r.target.densities[-1]
        if r.target.keep is not None:
            space = Space(self._base(r.model), *r.target.units, round_to=r.target.round_to)
            check_count(space, r.target.keep)
            return r.target.keep / len(space)
        return cast(LatencyTable, self.table).share_of(r.target.latency, r.target.speedup)

    @cached_property
    def small(self) -> PreTrainedModel:
        """The model cut to the density, before recovery."""
        folder = self.folder / "cut"
        if not folder.is_dir():
            self._prune(folder)
        return self._prepared(load(folder))

    def _prune(self, folder: Path) -> None:
        r = self.recipe
        method, frozen = self._method(self.student), r.method.train == "scores"
        if frozen:
            self.student.requires_grad_(False)
        trainer = self._trainer(
            self.student,
            "prune",
            r.training.epochs * r.method.end,
            method=method,
            objective=self.lessons.terms(),
            end=r.method.end,
            shrink=r.method.shrink and not frozen,
            decay=(0.0, r.method.end) if r.training.decay == "run" else (0.0, 1.0),
            learning_rate=r.training.learning_rate,
        )
        trainer.add_callback(PrunedFile(self.folder / "pruned.jsonl", method))
        if r.target.toward is not None:
            trainer.add_callback(Passing(trainer, self.schedule, self.share, _stop))
        for fork in self.forks:
            trainer.add_callback(Passing(trainer, fork.schedule, fork.share, partial(self._fork, fork, trainer)))
        self._train(trainer, "prune")
        processes.on_main(partial(self._cut, self.student, trainer, folder))

    def _fork(self, fork: Run, trainer: PruningTrainer, control: TrainerControl) -> None:
        """Leave a run that is on the same way its cut model; this run's random numbers stay as they were."""
        folder = fork.folder / "cut"
        if folder.is_dir() or fork.finished or not processes.is_main():
            return
        with torch.random.fork_rng():
            passing: Any = self._prepared(self._factorised(self._base(self.recipe.model)))
            passing.to(self.student.device).load_state_dict(trainer.whole_state())
            fork._cut(passing, trainer, folder)

    def _cut(self, model: PreTrainedModel, trainer: PruningTrainer, folder: Path) -> None:
        """Cut a model as its trainer's method says now, and leave what recovery goes on with; the model last."""
        method = cast(Method, trainer.method)
        rank, keep = self.recipe.target.embedding_rank, self.recipe.target.keep
        plan = method.plan(self.share, rank) if keep is None else method.plan(embedding_rank=rank, keep=keep)
        small = cut(model, plan)
        checked = _proved(verify(self.given.batches(), dense=model, plan=plan), "masked and cut")
        known = trainer.moments()
        self.lessons.leave(trainer.terms, {**known, "model": cut_moments(model, plan, known["model"])})
        note(self.folder / "verified.json", {"masked_compact": checked.masked_compact})
        note(self.folder / CUT_AT, {"progress": trainer.progress, "rows": trainer.rows_taken})
        if method.fills:
            fill(small, self.recipe.seed)
        save(small, folder, tokenizer=self.given.tokenizer)

    # Stage 3: recover

    @cached_property
    def recovered(self) -> PreTrainedModel:
        """The cut model after its recovery: the result, loaded from its folder."""
        folder = self.folder / "model"
        if not folder.is_dir():
            self._recover(folder)
        return load(folder)

    def _recover(self, folder: Path) -> None:
        small, cut_at = self.small, read_json(self.folder / CUT_AT)
        if cut_at["progress"] < 1:
            self._train_small(small, cut_at["progress"], cut_at["rows"])
        processes.on_main(partial(self._keep, small, folder))

    def _train_small(self, small: PreTrainedModel, begin: float, rows: int) -> None:
        r, left = self.recipe, Cut(small, self.teacher, self._plan(), self._space())
        anew = r.training.recover_learning_rate is not None
        set_seed(r.seed + 1)
        trainer = self._trainer(
            small,
            "recover",
            r.training.epochs * (1 - begin),
            objective=self.lessons.continued(left),
            begin=begin,
            learning_rate=r.training.recover_learning_rate or r.training.learning_rate,
            constant=anew,
            moments=None if anew else self.lessons.continued_moments(left),
            rows_seen=rows,
            average=r.training.average,
        )
        with held(small):
            self._train(trainer, "recover")

    def _keep(self, small: PreTrainedModel, folder: Path) -> None:
        """Save the result; under its name once what was written is proved to be it."""
        unproved = folder.with_name("unproved")
        save(small, unproved, tokenizer=self.given.tokenizer)
        checked = _proved(verify(self.given.batches(), compact=small, folder=unproved), "trained and saved")
        note(self.folder / "verified.json", {"compact_loaded": checked.compact_loaded, "examples": checked.examples})
        unproved.rename(folder)

    @cached_property
    def outputs(self) -> PreTrainedModel | CachedTeacher:
        """The teacher as the trainer asks it: its outputs on the training rows, computed once, or the model itself."""
        r = self.recipe
        if not r.distillation.cache:
            return self.teacher
        layers, target_layers = self.lessons.layers(self.teacher.config)
        answers = partial(
            CachedTeacher.of,
            self.teacher,
            self.given.taught_rows,
            self.task.collator(self.given.tokenizer),
            self._common / "cache",
            layers=layers,
            target_layers=target_layers,
            bf16=self.bf16,
            limit_gb=r.distillation.cache_gb,
        )
        with self.spent.on("cache"):
            return processes.main_first(answers)

    # Training, as every stage does it

    def _trainer(
        self,
        model: PreTrainedModel,
        stage: str,
        epochs: float,
        *,
        learning_rate: float,
        constant: bool = False,
        objective: Sequence[Term] = (),
        **kwargs: Any,
    ) -> PruningTrainer:
        trainer = PruningTrainer(
            model,
            teacher=self.outputs if objective else None,
            objective=objective or [Labels(smoothing=self.recipe.distillation.label_smoothing)],
            generate=self.task.generate if self.task.generates else None,
            select=self.task.metric if objective and self.recipe.training.select else None,
            args=self._arguments(stage, epochs, learning_rate, constant),
            train_dataset=self.given.taught_rows if objective else self.given.train_rows,
            eval_dataset=self.given.scored_rows,
            compute_metrics=self._scores_on_the_way,
            data_collator=self.given.collator(),
            processing_class=self.given.tokenizer,
            callbacks=[LogFile(self.folder / "log.jsonl"), *self.callbacks],
            **kwargs,
        )
        trainer.remove_callback(PrinterCallback)  # Trainer prints every log where it shows no bar
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
                callback.logging_dir = str(self.folder / "tensorboard" / stage)  # the stage's own folder goes
        return trainer

    def _arguments(self, stage: str, epochs: float, learning_rate: float, constant: bool) -> TrainingArguments:
        r = self.recipe
        steps = max(
            1, round(epochs * max(1, len(self.given.train_rows) // (r.training.batch_size * r.training.accumulate)))
        )
        return TrainingArguments(
            str(self.folder / stage),
            max_steps=steps,
            per_device_train_batch_size=r.training.batch_size // processes.count(),
            per_device_eval_batch_size=2 * r.training.batch_size // processes.count(),
            ddp_find_unused_parameters=False,
            gradient_accumulation_steps=r.training.accumulate,
            learning_rate=learning_rate,
            lr_scheduler_type="constant" if constant else "linear",
            warmup_steps=r.training.warmup,
            weight_decay=r.training.weight_decay,
            bf16=self.bf16,
            use_cpu=not torch.accelerator.is_available(),
            optim="adamw_torch_fused",
            train_sampling_strategy="group_by_length",
            dataloader_pin_memory=torch.accelerator.is_available(),
            remove_unused_columns=False,
            label_names=[*self.task.label_names, INDEX],
            save_strategy="steps" if r.training.checkpoints else "no",
            save_steps=max(1, steps // max(1, r.training.checkpoints)),
            save_total_limit=1,
            eval_strategy="steps" if r.training.evaluations else "no",
            eval_steps=max(1, steps // max(1, r.training.evaluations)),
            logging_steps=max(1, steps // 50),
            seed=r.seed,
            data_seed=r.seed,
            disable_tqdm=True,
            report_to=list(r.training.report_to),
            run_name=f"{self.folder.name}-{stage}",
        )

    def _scores_on_the_way(self, prediction: EvalPrediction) -> dict[str, float]:
        """The scores of an evaluation within a stage, whose rows Trainer has put into an order of its own."""
        *labels, places = prediction.label_ids
        rows = [self.given.scored_rows[place] for place in places]
        said = self.task.read(EvalPrediction(prediction.predictions, alone(labels)), self.given.tokenizer)
        return self.task.score(said, rows)

    def _train(self, trainer: PruningTrainer, stage: str) -> None:
        with self.spent.on(stage):
            trainer.train(resume_from_checkpoint=last_checkpoint(str(trainer.args.output_dir)))

    # Stage 4: measure

    def _measure(self, **reached: dict[str, float]) -> Report:
        r = self.recipe
        model, teacher = self.recovered, self.teacher
        latency = grid(model, teacher, r.measurement.shapes, repeats=r.measurement.repeats)
        space, target = self._space(), self._target()
        self.spent.held("measure")
        return Report(
            recipe=r.to_dict(),
            metric=self.task.metric,
            **reached,
            rows={name: len(split) for name, split in self.task.splits.items()},
            density=dict(self._plan().achieved),
            structure=self._plan().read(space).summary(),
            parameters={"teacher": teacher.num_parameters(), "model": model.num_parameters()},
            weight_bytes={
                "teacher": 4 * teacher.num_parameters(),
                "model": disk_bytes(self.folder / "model"),
            },
            latency=[measurement.to_dict() for measurement in latency],
            verified=read_json(self.folder / "verified.json"),
            seconds=self.spent.seconds(),
            versions=read_json(self.folder / "versions.json"),
            data=self.task.fingerprint(),
            target=target,
            memory=self.spent.memory(),
        )

    def _target(self) -> dict[str, Any] | None:
        """The time asked for and predicted, and what the result takes."""
        verdict = self._plan().latency
        if self.table is None or verdict is None:
            return None
        return beside(verdict, self.table.measure_again(self.recovered, self.teacher, self.recipe.measurement.repeats))

    def _space(self) -> Space:
        """The space of the plan; of the teacher, which has the student's shape and is there in every stage."""
        return Space(self.teacher, *self.recipe.target.units)

    def _plan(self) -> Plan:
        return Plan.load(
            self.folder / ("cut" if (self.folder / "cut").is_dir() else "model") / "plan.json", self.teacher
        )


def _proved(found: Verification, what: str) -> Verification:
    """What `verify` found, if it is one model; another one would be a bug, and goes no further."""
    if not found.passed:
        differences = [d for d in (found.masked_compact, found.compact_loaded) if d is not None]
        raise RuntimeError(
            f"the model as {what} differs by {max(differences):.2g} in a logit: this is a bug of secateur, "
            "please report it with the recipe; the run goes no further"
        )
    return found


def _check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that Trainer does not know, or whose package is not there."""
    for name in names:
        try:
            compat.tracker_callback(name)()
        except (ValueError, RuntimeError, ImportError) as error:
            raise UserError(
                f"training.report_to {name!r} cannot be used ({error}): run pip install {name}, or name another tracker"
            ) from error


def _stop(control: TrainerControl) -> None:
    control.should_training_stop = True
