"""Arguments of Trainer that do not fit pruning: each is refused before training, with what to use in its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import TrainingArguments

from secateur.system.errors import UserError


@dataclass(frozen=True)
class Misfit:
    """An argument that `PruningTrainer` refuses.

    Attributes:
        name: of the argument.
        used: whether the arguments use it.
        reason: why it does not fit, and what to use, with the values of `args`; the second half of the message.
        always: whether it is refused without a method too.
    """

    name: str
    used: Callable[[TrainingArguments], Any]
    reason: str
    always: bool = False


def _reentrant(args: TrainingArguments) -> bool:
    values = vars(args)
    kwargs = values.get("activation_checkpointing_kwargs") or values.get("gradient_checkpointing_kwargs") or {}
    used = values.get("activation_checkpointing") or values.get("gradient_checkpointing")
    return bool(used) and bool(dict(kwargs).get("use_reentrant"))


def _optimizer(args: TrainingArguments) -> str:
    return str(getattr(args.optim, "value", args.optim))


MISFITS = (
    Misfit(
        "torch_compile",
        lambda args: args.torch_compile,
        "a compiled forward does not call the hooks that apply the masks: leave it out, and compile the cut model",
    ),
    Misfit(
        "gradient_checkpointing_kwargs={'use_reentrant': True}",
        _reentrant,
        "reentrant checkpointing hides the gradient of the masks: set use_reentrant to False",
    ),
    Misfit(
        "auto_find_batch_size",
        lambda args: args.auto_find_batch_size,
        "a training that starts again does not reset the method: set per_device_train_batch_size and "
        "gradient_accumulation_steps",
    ),
    Misfit(
        "neftune_noise_alpha",
        lambda args: args.neftune_noise_alpha is not None,
        "its noise enters removed dimensions of the embeddings: leave it out",
    ),
    Misfit(
        "fp16_full_eval or bf16_full_eval",
        lambda args: args.fp16_full_eval or args.bf16_full_eval,
        "an evaluation would round the weights that are cut afterwards: use bf16=True",
    ),
    Misfit(
        "deepspeed",
        lambda args: args.deepspeed,
        "masks and cuts need the whole model in each process: train with DDP or FSDP",
        always=True,
    ),
    Misfit(
        "parallelism_config",
        lambda args: args.parallelism_config is not None,
        "masks and cuts need the whole model in each process: train with DDP or FSDP",
        always=True,
    ),
    Misfit(
        "use_liger_kernel",
        lambda args: args.use_liger_kernel,
        "its modules cannot be masked and return no logits in training: leave it out",
        always=True,
    ),
    Misfit(
        "label_smoothing_factor",
        lambda args: args.label_smoothing_factor,
        "the loss consists of the terms in objective: leave it out, and put "
        "Labels(smoothing={args.label_smoothing_factor:g}) into objective",
        always=True,
    ),
    Misfit(
        "optim",
        lambda args: "layerwise" in _optimizer(args) or _optimizer(args) in ("lomo", "adalomo"),
        "it updates weights during the backward pass and takes no parameters of the method: use adamw_torch",
        always=True,
    ),
)


def check_arguments(
    args: TrainingArguments | None, *, pruning: bool, select: str | None, average: float, generates: bool
) -> None:
    """Refuse values of `TrainingArguments` that would fail, be ignored or give a wrong result.

    Args:
        args: of the training; None for the defaults.
        pruning: whether there is a method.
        select: the metric of the evaluation that is chosen, if one is.
        average: the last part of the steps that is averaged.
        generates: whether an evaluation scores what a function generates.
    """
    if args is None:
        return
    if getattr(args, "predict_with_generate", False) and not generates:
        raise UserError(
            "Seq2SeqTrainingArguments(predict_with_generate) does not fit PruningTrainer, which would score logits: "
            "pass generate to it, such as generate=lambda model, batch: model.generate(**batch, max_new_tokens=64)"
        )
    for misfit in MISFITS:
        if (pruning or misfit.always) and misfit.used(args):
            reason = misfit.reason.format(args=args)
            raise UserError(f"TrainingArguments({misfit.name}) does not fit PruningTrainer: {reason}")
    if args.load_best_model_at_end and (pruning or select or average):
        raise UserError(f"TrainingArguments(load_best_model_at_end) {_not_best(args, pruning, select)}")


def _not_best(args: TrainingArguments, pruning: bool, select: str | None) -> str:
    """Why the best model cannot be loaded at the end, and what to do."""
    if select:
        return f"chooses among evaluations, as select={select!r} does: leave it out"
    if not pruning:
        return "would put the weights of one evaluation in the place of the averaged ones: leave it out, or average"
    metric = (args.metric_for_best_model or "accuracy").removeprefix("eval_")
    return f"restores weights under masks that came later: leave it out, and pass select={metric!r} to PruningTrainer"


def check_evaluations(args: TrainingArguments, select: str | None) -> None:
    """Refuse a selection among no evaluations."""
    if select and str(getattr(args.eval_strategy, "value", args.eval_strategy)) == "no":
        raise UserError(f"select={select!r} chooses among evaluations, and there are none: set eval_strategy")


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse arguments of Trainer itself that PruningTrainer could not follow."""
    if options.get("model_init") is not None:
        raise UserError("model_init makes another model than the one that the method's space belongs to: pass model")
    if options.get("compute_loss_func") is not None:
        raise UserError("compute_loss_func would not be called: pass objective, a list of terms")
    optimizer, scheduler = options.get("optimizers") or (None, None)
    if optimizer is None and scheduler is not None:
        raise UserError("optimizers has a scheduler without its optimizer: pass both, or only the optimizer")
