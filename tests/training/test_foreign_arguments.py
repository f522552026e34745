"""Arguments of Trainer that do not fit pruning are refused before training, by name."""

import pytest
from quiet import arguments
from torch import nn, optim
from transformers import Seq2SeqTrainingArguments

from secateur.system.errors import UserError
from secateur.training.foreign_arguments import MISFITS, check_arguments, check_evaluations, check_options

REFUSED = {
    "torch_compile": {"torch_compile": True},
    "use_reentrant": {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}},
    "auto_find_batch_size": {"auto_find_batch_size": True},
    "neftune_noise_alpha": {"neftune_noise_alpha": 5.0},
    "bf16_full_eval": {"bf16_full_eval": True},
    "use_liger_kernel": {"use_liger_kernel": True},
    "label_smoothing_factor": {"label_smoothing_factor": 0.1},
    "optim": {"optim": "lomo"},
}
# What TrainingArguments itself refuses to take on this machine: set on them afterwards.
SET = {"deepspeed": {"zero_optimization": {}}, "parallelism_config": object()}


def refused(args, pruning=True, select=None, average=0.0):
    with pytest.raises(UserError) as refusal:
        check_arguments(args, pruning=pruning, select=select, average=average, generates=False)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize("name", [*REFUSED, *SET])
def test_each_is_refused_by_its_name(tmp_path, name):
    args = arguments(tmp_path, 1, **REFUSED.get(name, {}))
    if name in SET:
        setattr(args, name, SET[name])
    assert name in (sentence := refused(args)) and "does not fit PruningTrainer" in sentence
    always = any(misfit.always for misfit in MISFITS if name in misfit.name)
    if always:
        assert refused(args, pruning=False) == sentence
    else:
        check_arguments(args, pruning=False, select=None, average=0.0, generates=False)


def test_smoothed_labels_are_a_term_with_the_value_that_was_given(tmp_path):
    sentence = refused(arguments(tmp_path, 1, label_smoothing_factor=0.15))
    assert sentence.endswith("leave it out, and put Labels(smoothing=0.15) into objective")


def test_the_best_model_at_the_end_is_refused_where_masks_change(tmp_path):
    options = {"eval_strategy": "steps", "save_strategy": "steps", "metric_for_best_model": "eval_f1"}
    args = arguments(tmp_path, 1, load_best_model_at_end=True, **options)
    assert "pass select='f1'" in refused(args)
    assert refused(args, select="accuracy").endswith("as select='accuracy' does: leave it out")
    assert refused(args, pruning=False, average=0.5).endswith("averaged ones: leave it out, or average")
    check_arguments(args, pruning=False, select=None, average=0.0, generates=False)


def test_scoring_generated_texts_needs_the_function_that_generates_them(tmp_path):
    args = Seq2SeqTrainingArguments(str(tmp_path), predict_with_generate=True, generation_num_beams=4, use_cpu=True)
    for pruning in (True, False):
        assert "pass generate" in refused(args, pruning=pruning)
    check_arguments(args, pruning=True, select=None, average=0.0, generates=True)
    args.predict_with_generate = False
    check_arguments(args, pruning=True, select=None, average=0.0, generates=False)


def test_a_selection_needs_evaluations(tmp_path):
    check_evaluations(arguments(tmp_path, 1), None)
    with pytest.raises(UserError, match="set eval_strategy"):
        check_evaluations(arguments(tmp_path, 1), "f1")


def test_arguments_that_fit_are_taken(tmp_path):
    fitting = {"activation_checkpointing": True, "optim": "adamw_torch", "bf16": True}
    check_arguments(arguments(tmp_path, 1, **fitting), pruning=True, select=None, average=0.0, generates=False)
    check_arguments(None, pruning=True, select=None, average=0.0, generates=False)
    check_options({"optimizers": (None, None)})


@pytest.mark.parametrize("name", ["model_init", "compute_loss_func"])
def test_functions_that_would_not_be_called_are_refused(name):
    with pytest.raises(UserError, match=name):
        check_options({name: print})


def test_a_scheduler_without_its_optimizer_is_refused():
    scheduler = optim.lr_scheduler.LambdaLR(optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0), lambda step: 1.0)
    with pytest.raises(UserError, match="pass both, or only the optimizer"):
        check_options({"optimizers": (None, scheduler)})
