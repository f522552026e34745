"""A model that a trainer has trained or evaluated has its own forward and settings, and so has all that was saved."""

import json
from functools import wraps

import pytest
import torch
from quiet import arguments
from small_world import tokenizer
from tiny_models import CLASSIFIERS, WRITERS, tiny
from transformers import PreTrainedModel, Trainer, TrainerCallback

from secateur.budget.space import Space
from secateur.methods.grain import Grain
from secateur.methods.schedules import cubic
from secateur.structure.plan import Plan
from secateur.surgery.cut import cut
from secateur.training.trainer import PruningTrainer

CONFIGS = ("config.json", "generation_config.json")
WRAPPERS = {"forward", "_original_forward", "_is_accelerate_prepared"}
"""What accelerate sets on a model itself."""


def rows(writes=False):
    """Eight rows with a label each, or with the tokens of a target."""
    ids = torch.randint(5, 50, (8, 5), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": i, "attention_mask": torch.ones_like(i), "labels": i if writes else i[0] % 2} for i in ids]


def collate(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def trainer(model, folder, *, pruning=True, shrink=False, words=None, **options):
    data = rows(model.config.is_encoder_decoder)
    return PruningTrainer(
        model,
        method=Grain(Space(model, "ffn", "head"), cubic(1.0, 0.3, begin=0.1, end=0.5)) if pruning else None,
        shrink=shrink,
        args=arguments(folder, 2, **options),
        train_dataset=data,
        eval_dataset=data,
        data_collator=collate,
        processing_class=words,
    )


# Its own forward


class Autocast:
    """Whether each forward of a model runs under autocast."""

    def __init__(self, model):
        self.seen = []
        model.bert.register_forward_pre_hook(lambda *_: self.seen.append(torch.is_autocast_enabled("cpu")))

    def take(self):
        """Those since the last call."""
        seen, self.seen = self.seen, []
        return set(seen)


@pytest.mark.parametrize("pruning", [True, False])
def test_every_training_and_evaluation_runs_in_bf16_and_leaves_the_model_its_own_forward(tmp_path, pruning):
    model = tiny("bert", dtype=torch.float32)
    made, autocast = trainer(model, tmp_path, pruning=pruning, bf16=True), Autocast(model)
    for use in (made.evaluate, lambda: made.predict(made.eval_dataset), made.train, made.evaluate, made.train):
        use()
        assert autocast.take() == {True} and not WRAPPERS & vars(model).keys()
        assert model(**collate(rows())).logits.dtype == torch.float32
        assert autocast.take() == {False}


def test_an_evaluation_within_a_training_does_not_end_it(tmp_path):
    model = tiny("bert", dtype=torch.float32)
    made, autocast = trainer(model, tmp_path, bf16=True, eval_strategy="steps", eval_steps=1), Autocast(model)
    made.train()
    assert autocast.take() == {True}


def test_a_model_of_another_trainer_is_trained_as_the_arguments_say(tmp_path):
    """It is cut without the autocast of the other trainer, too."""
    model = tiny("bert", dtype=torch.float32)
    Trainer(model, arguments(tmp_path, 1, bf16=True), collate, train_dataset=rows()).train()
    space = Space(model, "ffn")
    small = cut(model, Plan.of(space, space.ones(), source=""))
    assert vars(model).keys() >= WRAPPERS and not WRAPPERS & vars(small).keys()
    autocast = Autocast(model)
    for bf16 in (False, True):
        trainer(model, tmp_path, pruning=False, bf16=bf16).train()
        assert autocast.take() == {bf16} and not WRAPPERS & vars(model).keys()


def test_a_cut_model_is_trained_in_bf16(tmp_path):
    model = tiny("bert", dtype=torch.float32)
    made = trainer(model, tmp_path, bf16=True)
    made.train()
    small = cut(model, made.method.plan(0.3))
    autocast = Autocast(small)
    trainer(small, tmp_path, pruning=False, bf16=True).train()
    assert autocast.take() == {True}


def test_a_forward_that_the_caller_has_set_stays(tmp_path):
    model, calls = tiny("bert", dtype=torch.float32), []
    stock = model.forward

    @wraps(stock)
    def counted(*args, **kwargs):
        calls.append(kwargs)
        return stock(*args, **kwargs)

    model.forward = counted
    trainer(model, tmp_path, bf16=True).train()
    assert model.forward is counted and calls


# Its own settings


class Saving(TrainerCallback):
    """Saves the model as users do in a callback."""

    def __init__(self, folder):
        self.folder = folder

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.save_model(str(self.folder / "from-callback"))


@pytest.mark.parametrize("which", [CLASSIFIERS[0].values[0], WRITERS[0].values[0], WRITERS[-1].values[0]])
@pytest.mark.parametrize("shrink", [True, False])
def test_the_configs_are_saved_as_they_came(tmp_path, which, shrink):
    """Trainer would turn `use_cache` off and take the special tokens of the tokenizer."""
    model = tiny(*which)
    model.save_pretrained(tmp_path / "before")
    words = tokenizer()
    words.add_special_tokens({"bos_token": "[BOS]", "eos_token": "[EOS]", "pad_token": "[FILL]"})
    made = trainer(model, tmp_path, shrink=shrink, words=words, save_strategy="steps", save_steps=1)
    model.save_pretrained(tmp_path / "constructed")
    saving = Saving(tmp_path)
    saving.trainer = made
    made.add_callback(saving)
    made.evaluate()
    made.train()
    made.save_model(str(tmp_path / "after"))
    came = contents(tmp_path / "before")
    for folder in ("constructed", "checkpoint-1", "checkpoint-2", "from-callback", "after"):
        assert contents(tmp_path / folder) == came, folder
    if which[0] == "bert":
        assert came["config.json"].get("problem_type") is None and model.config.problem_type is None
    assert number_of_configs(model) == number_of_configs(tiny(*which))  # the parts of a model share them


def test_several_labels_stay_said(tmp_path):
    """Pipelines read the outputs by it."""
    model = tiny("bert", dtype=torch.float32)
    made = trainer(model, tmp_path)
    made.train_dataset = [row | {"labels": torch.tensor([1.0, 0.0])} for row in rows()]
    made.train()
    assert model.config.problem_type == "multi_label_classification"


def number_of_configs(model):
    return len({id(module.config) for module in model.modules() if isinstance(module, PreTrainedModel)})


def contents(folder):
    return {name: json.loads((folder / name).read_text()) for name in CONFIGS if (folder / name).is_file()}
