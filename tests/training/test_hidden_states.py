"""Distillation of hidden states: values by hand, the layers that are matched, projections that follow a cut."""

from types import SimpleNamespace

import pytest
import torch
from quiet import arguments
from tiny_models import inputs, tiny
from tiny_training import collate, examples
from torch import nn

from secateur.budget.space import Space
from secateur.structure.plan import Plan
from secateur.surgery.cut import cut
from secateur.system.errors import UserError
from secateur.training.hidden_states import Hidden, masked_mse
from secateur.training.step import Step
from secateur.training.trainer import PruningTrainer


def says(logits, *hidden, **more):
    """A model's outputs: logits `(batch, labels)`, hidden states `(batch, tokens, dims)`."""
    return SimpleNamespace(
        logits=torch.tensor(logits), hidden_states=[torch.tensor(states) for states in hidden], **more
    )


def shaped(width, depth):
    """Stands for a model where only its shape is asked for."""
    config = SimpleNamespace(hidden_size=width, num_hidden_layers=depth)
    return SimpleNamespace(config=config, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("layers", "depth", "matched"),
    [
        ("every 2", 12, [0, 2, 4, 6, 8, 10, 12]),
        ("every 2", 5, [0, 2, 4]),
        ("every 3", 6, [0, 3, 6]),
        ("every 1", 2, [0, 1, 2]),
        ("every 9", 6, [0]),
        ("last", 6, [6]),
        ([0, 5], 6, [0, 5]),
        ((6,), 6, [6]),
    ],
)
def test_matched_layers(layers, depth, matched):
    assert Hidden(layers).matched(depth) == matched


@pytest.mark.parametrize(
    "layers", ["", "first", "every", "every two", "every 0", "every -1", "every 2 3", [], [7], [-1, 2]]
)
def test_other_ways_to_name_layers_are_refused(layers):
    with pytest.raises(UserError, match="numbers from 0 to 6"):
        Hidden(layers).matched(6)


def test_hidden_is_a_sum_over_layers_of_the_error_on_real_tokens():
    """Two layers of two tokens and two dims; the second token is padding."""
    term = Hidden("every 1")
    term.bind(shaped(2, 1), shaped(2, 1))
    student = says([[0.0]], [[[1.0, 2.0], [50.0, 50.0]]], [[[0.0, 0.0], [0.0, 0.0]]])
    teacher = says([[0.0]], [[[1.0, 0.0], [0.0, 0.0]]], [[[3.0, 1.0], [9.0, 9.0]]])
    batch = {"attention_mask": torch.tensor([[1, 0]])}
    assert term(Step(batch, student, teacher)).item() == (0 + 4) / 2 + (9 + 1) / 2


def test_masked_mse_equals_a_value_computed_by_hand():
    states, real = torch.arange(12.0).view(1, 3, 4), torch.tensor([[[1], [1], [0]]])
    assert masked_mse(states, torch.zeros_like(states), real).item() == 17.5


def test_states_without_a_real_token_have_no_loss():
    states = torch.randn(2, 3, 4)
    assert masked_mse(states, states + 1, torch.zeros(2, 3, 1)) == 0


def test_without_a_mask_all_tokens_of_an_encoder_are_real():
    """Its states have a name of their own."""
    models = [tiny("bart", "ForConditionalGeneration", dtype=torch.float32) for _ in range(2)]
    with torch.no_grad():
        models[1].model.encoder.layers[0].fc1.weight.mul_(2)
    term, batch = Hidden([1, 2], stack="encoder"), inputs(models[0], padded=False)
    term.bind(*models)
    values = []
    for one in (batch, {name: ids for name, ids in batch.items() if name != "attention_mask"}):
        outputs = (model.eval()(**one, output_hidden_states=True) for model in models)
        values.append(term(Step(one, *outputs)))
    assert values[0] > 0 and values[0] == values[1]


def test_projections_start_as_the_identity_and_may_widen():
    term = Hidden([0, 3])
    term.bind(shaped(3, 4), shaped(5, 4))
    assert list(term.projections) == ["0", "3"]
    states = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    for projection in term.projections.values():
        torch.testing.assert_close(projection(states), nn.functional.pad(states, (0, 2)))
        assert all(parameter.requires_grad for parameter in projection.parameters())


def test_binding_a_term_twice_changes_nothing():
    term = Hidden("last")
    term.bind(shaped(3, 4), None)
    assert not term.projections, "without a teacher there is nothing to project to"
    term.bind(shaped(3, 4), shaped(3, 4))
    before = term.projections["4"]
    term.bind(shaped(3, 4), shaped(3, 4))
    assert term.projections["4"] is before


def test_projections_follow_a_cut_of_the_residual_stream():
    term = Hidden("every 2")
    term.bind(shaped(4, 2), shaped(4, 2))
    for projection in term.projections.values():
        nn.init.normal_(projection.weight)
    kept = torch.tensor([0, 3])
    states = torch.zeros(1, 1, 4)
    states[..., kept] = torch.tensor([2.0, -1.0])
    before = [projection(states) for projection in term.projections.values()]
    term.restrict(kept, torch.tensor([True, False]))
    for projection, expected in zip(term.projections.values(), before, strict=True):
        assert (projection.in_features, tuple(projection.weight.shape)) == (2, (4, 2))
        torch.testing.assert_close(projection(states[..., kept]), expected)
        assert projection.weight.requires_grad


@pytest.mark.parametrize("same", [True, False], ids=["the terms of pruning", "new terms"])
def test_a_model_with_a_cut_residual_stream_is_trained_on_hidden_states(tmp_path, same):
    model, teacher = (tiny("bert", dtype=torch.float32, num_hidden_layers=3, seed=seed) for seed in (0, 2))
    space = Space(model, "hidden", "layer")
    masks = space.ones()
    masks[space.slices["hidden"].start + 3] = masks[space.slices["1.layer"]] = 0.0
    terms = [Hidden("every 1"), Hidden("quarters", match="nearest")]
    terms[1].name = "nearest"

    def train(student, terms, rate):
        trainer = PruningTrainer(
            student,
            teacher=teacher,
            objective=terms,
            args=arguments(tmp_path, 1, learning_rate=rate),
            train_dataset=examples()[:8],
            data_collator=collate,
        )
        trainer.train()
        trainer.train()  # the terms stay as they are

    if same:
        train(model, terms, 0.1)
    before = [] if not same else [one.weight.detach().clone() for one in terms[0].projections.values()]
    assert all(float((learned - torch.eye(32)).abs().max()) > 0.05 for learned in before)
    small = cut(model, Plan.of(space, masks))
    for term in terms:
        term.bind(small, teacher)
    train(small, terms, 1e-3)
    kept = [dim for dim in range(32) if dim != 3]
    for projection, old in zip(terms[0].projections.values(), before, strict=False):
        torch.testing.assert_close(projection.weight, old[:, kept], atol=0.01, rtol=0)
    assert [one.weight.shape for one in terms[0].projections.values()] == [(32, 31)] * 4
    assert terms[1].left.tolist() == [True, False, True]
    other = cut(model, Plan.of(space, space.ones()))
    with pytest.raises(UserError, match="adapted to a model that was cut otherwise"):
        train(other, terms, 1e-3)


@pytest.mark.parametrize(
    ("layers", "depth", "teachers", "compared"),
    [
        ("every 2", 6, 6, [0, 2, 4, 6]),
        ("every 2", 2, 6, [0, 1, 1, 2]),
        ("every 1", 2, 4, [0, 1, 1, 2, 2]),
        ("every 1", 6, 2, [0, 3, 6]),
        ("every 2", 3, 12, [0, 1, 1, 2, 2, 3, 3]),
        ("quarters", 2, 12, [1, 1, 2, 2]),
        ("last", 5, 3, [5]),
    ],
)
def test_layers_of_the_same_relative_depth_are_compared(layers, depth, teachers, compared):
    """The student's states are numbers of their layers, the teacher's are 100, and the projections the identity."""
    term = Hidden(layers)
    assert term.remark() is None
    term.bind(shaped(1, depth), shaped(1, teachers))
    assert list(term.counterparts.values()) == compared
    said = f"compared with {', '.join(map(str, compared))} of the model"
    assert (said in term.remark()) if depth != teachers else (term.remark() is None)
    student = says([[0.0]], *([[[float(layer)]]] for layer in range(depth + 1)))
    teacher = says([[0.0]], *([[[100.0]]] for _ in range(teachers + 1)))
    loss = term(Step({"attention_mask": torch.ones(1, 1)}, student, teacher))
    assert loss.item() == sum((100 - layer) ** 2 for layer in compared)


def test_each_stack_has_a_relative_depth_of_its_own():
    student, teacher = shaped(4, 2), shaped(4, 4)
    for model, decoder_layers in ((student, 3), (teacher, 6)):
        model.config.is_encoder_decoder, model.config.decoder_layers = True, decoder_layers
    compared = {}
    for stack in ("encoder", "decoder"):
        term = Hidden("every 2", stack=stack)
        term.bind(student, teacher)
        compared[stack] = list(term.counterparts.values())
    assert compared == {"encoder": [0, 1, 2], "decoder": [0, 1, 2, 3]}


@pytest.mark.parametrize("match", ["nearest", "nearest-ordered", "sampled", "windows"])
def test_layers_matched_in_each_batch_may_be_of_a_deeper_teacher(match):
    term = Hidden("quarters", match=match)
    term.bind(shaped(4, 2), shaped(4, 8))
    student = SimpleNamespace(logits=torch.zeros(1, 2), hidden_states=[torch.ones(1, 3, 4)] * 3)
    teacher = SimpleNamespace(hidden_states=[torch.full((1, 3, 4), 3.0)] * 9)
    loss = term(Step({"attention_mask": torch.ones(1, 3)}, student, teacher))
    assert float(loss.detach()) == pytest.approx(4 * 4.0)  # four of the teacher's layers, each 2 away
