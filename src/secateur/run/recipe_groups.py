"""The groups of a recipe's keys, each a frozen, strict model: defaults, ranges and descriptions.

Descriptions are the help texts of the command line and the tables of docs/recipes.md. Fractions of the run are in
[0, 1]; a density is the fraction of parameters kept.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from secateur.run.recipe_schema import Flag, Strict
from secateur.system.errors import UserError


class MethodRecipe(Strict):
    """The pruning method, and the part of the run in which it prunes."""

    name: Annotated[str, Flag("--method")] = Field(
        "grain", description="name of the pruning method; `secateur list` shows all"
    )
    options: Annotated[dict[str, Any], Flag("--option")] = Field(
        default_factory=dict, description="further arguments of the method"
    )
    begin: float = Field(0.02, ge=0, le=1, description="fraction of the run after which pruning starts")
    end: float = Field(
        0.15, gt=0, le=1, description="fraction of the run after which the model is cut and recovery starts"
    )
    ramp: float = Field(
        1.0, gt=0, le=1, description="fraction of the time from begin to end over which the density decreases"
    )
    layer_round: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="fraction of the run for the round of the layers, with the recovery from it, if target.layers is "
        "set; begin and end are then fractions of each round",
    )
    trial: float = Field(
        0.1,
        gt=0,
        le=1,
        description="fraction of the steps of the run for each trial of a density or of a number of layers, if "
        "target.keep_score is set or target.layers is auto",
    )
    trial_rows: PositiveInt = Field(
        1000,
        description="number of training rows that are held out of trials, those of a teacher included, and scored; at "
        "most a quarter of them",
    )
    ramp_rows: int = Field(
        200,
        ge=0,
        description="number of training rows that are held out of the prune stage and scored at some densities on the "
        "way, from which the report predicts the scores of other densities; at most a tenth of them; 0: none",
    )
    train: Literal["all", "scores"] = Field(
        "all", description="what is trained while pruning: all weights, or only the parameters of the method"
    )
    shrink: bool = Field(
        True, description="cut the model in between while it is pruned, if the method removes units permanently"
    )
    refit: bool = Field(
        False,
        description="whenever units are removed for good, change the weights that read them in closed form, so that "
        "the units that are left make up for them; not with methods under which units may return",
    )


class DistillationRecipe(Strict):
    """The terms of the loss, and the outputs of the teacher that they compare with."""

    start: Literal["teacher", "model"] = Field(
        "teacher", description="weights with which the student starts: those of the teacher, or of the model"
    )
    check_teacher: bool = Field(
        True,
        description="refuse a teacher that reads other tokens than the model, or that scores no better than a constant "
        "prediction; a run that has trained it ends there",
    )
    temperature: float = Field(8.0, gt=0, description="temperature of the softmax by which logits are distilled")
    divergence: bool = Field(
        False, description="distil logits by temperature^2 x KL divergence instead of cross-entropy"
    )
    logits_weight: float = Field(1.0, ge=0, description="weight of the distillation of logits in the loss")
    hidden: str | tuple[int, ...] | None = Field(
        "every 2",
        description="layers of the teacher whose hidden states are distilled, 0 for the embeddings; null for none",
    )
    match: Literal["same", "nearest", "nearest-ordered", "sampled", "windows"] = Field(
        "same", description="how the student's layer is chosen for each of these layers"
    )
    hidden_projection: bool = Field(
        True, description="project the student's hidden states by trained linear layers before they are compared"
    )
    hidden_weight: float = Field(1.0, ge=0, description="weight of the distillation of hidden states in the loss")
    hidden_of: Literal["both", "encoder", "decoder"] = Field(
        "both", description="stack whose hidden states are distilled, if the model has an encoder and a decoder"
    )
    labels_weight: float = Field(0.0, ge=0, description="weight of the task's own loss, which compares with the labels")
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="label smoothing of the task's own loss: the fraction that is spread over all classes",
    )
    terms: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="further terms of the loss, by registered name, with the arguments of each"
    )
    cache: bool = Field(True, description="compute the teacher's outputs once and read them from disk in every epoch")
    cache_gb: float = Field(8.0, gt=0, description="largest size of the cached outputs, in GB (10^9 bytes)")


class TrainingRecipe(Strict):
    """How the weights are trained: those of the student in both stages, and those of a teacher trained first."""

    steps: Annotated[int | None, Flag("--steps")] = Field(
        3000, gt=0, description="optimizer steps of pruning and recovery together; null if another length is set"
    )
    epochs: Annotated[float | None, Flag("--epochs")] = Field(
        None, gt=0, description="epochs of pruning and recovery together, instead of steps"
    )
    minutes: Annotated[float | None, Flag("--minutes")] = Field(
        None,
        gt=0,
        description="minutes of pruning and recovery together, with the trials before them, instead of "
        "steps; these are computed from some measured ones before the first stage",
    )
    batch_size: Annotated[int, Flag("--batch-size")] = Field(
        32, gt=0, description="training rows of a micro-batch, of all processes together"
    )
    accumulate: int = Field(1, gt=0, description="micro-batches per optimizer step")
    learning_rate: Annotated[float | None, Flag("--learning-rate")] = Field(
        None,
        gt=0,
        description="highest learning rate of the weights, reached after the warm-up; by default 0.384 / hidden size "
        "of the model, such as 1e-3 for 384 and 5e-4 for 768",
    )
    decay: Literal["run", "stage", "round"] = Field(
        "run",
        description="period over which the learning rate decreases to 0: the whole run, the pruning stage only, or "
        "each round: once for the layers and once for finer units",
    )
    recover_learning_rate: float | None = Field(
        None,
        gt=0,
        description="highest learning rate of the recovery, if not that of the whole run: after its own warm-up it "
        "decreases to 0, or with decay: stage is constant",
    )
    warmup: float = Field(
        0.1, ge=0, lt=1, description="fraction of the steps over which the learning rate increases from 0"
    )
    weight_decay: float = Field(0.01, ge=0, description="weight decay of AdamW, for the weights and the projections")
    augment: int = Field(
        0,
        ge=0,
        description="number of augmented copies of each training text, with words dropped, swapped or cropped, "
        "which the teacher labels",
    )
    average: float = Field(
        0.0,
        ge=0,
        le=1,
        description="fraction of the recovery, at its end, over which the weights are averaged; 0: no averaging",
    )
    freeze_embeddings: bool | Literal["all"] = Field(
        True, description="freeze the word embeddings; all: also those of positions and types, and their norm"
    )
    dropout: float | None = Field(
        0.0, ge=0, lt=1, description="dropout probability of the student; null: as in the model's config"
    )
    bf16: bool | None = Field(None, description="train under bf16 autocast; by default if the hardware supports it")
    cuda_graphs: bool = Field(
        True, description="on one GPU, replay steps of a shape of batch that occurred before as CUDA graphs"
    )
    evaluations: int = Field(4, ge=0, description="number of evaluations per stage")
    evaluation_rows: int | None = Field(
        None,
        gt=0,
        description="number of validation rows that an evaluation within a stage uses, the first ones; by default all",
    )
    select: int = Field(
        0,
        ge=0,
        description="number of training rows held out, on which the best weights of a stage are selected, which "
        "ends with an evaluation then; 0: the last weights",
    )
    checkpoints: int = Field(4, ge=0, description="number of checkpoints per stage")
    report_to: tuple[str, ...] = Field(
        (),
        description="experiment trackers that get the logged values, named as in transformers: tensorboard, wandb, "
        "mlflow, ...",
    )
    teacher_epochs: float | None = Field(
        None,
        gt=0,
        description="epochs of the training of a teacher; by default its number of steps is chosen by short trainings "
        "on held-out training rows",
    )
    teacher_learning_rate: float | None = Field(
        None,
        gt=0,
        description="highest learning rate of the training of a teacher, reached after the warm-up; by default chosen "
        "by short trainings, from 0.0384 / hidden size on",
    )
    teacher_steps: PositiveInt = Field(
        2000,
        description="optimizer steps of the training of a teacher at most, with those of the short trainings by which "
        "its length and its learning rate are chosen",
    )

    @field_validator("steps", "epochs", "minutes", mode="before")
    @classmethod
    def _some_training(cls, value: Any, info: ValidationInfo) -> Any:
        """A run of no length is what another command does, which the message names."""
        if type(value) in (int, float) and value == 0:
            raise UserError(
                f"training.{info.field_name}: a length of 0 trains nothing: cut, refit and score a model without "
                "training by `secateur cut MODEL --data DATA --density 0.6`, or give a length above 0"
            )
        return value
