"""Block movement pruning's golden tests on training and after it: G9 (filling), G12 (distillation), and whole runs."""

import json
from types import SimpleNamespace

import pytest
import torch
from quiet import arguments
from safetensors.torch import load_file
from small_world import recipe_values, write_data, write_model
from torch.nn import functional
from transformers import TrainerCallback

from secateur.budget.space import Space
from secateur.measure.inspection import inspect
from secateur.methods.movement import Movement
from secateur.methods.schedules import cubic
from secateur.report.report_text import score_table
from secateur.run import pipeline, recipe
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import load, save
from secateur.surgery.cut import cut
from secateur.surgery.masking import attached
from secateur.surgery.uncut import uncut
from secateur.surgery.zeroed_blocks import fill_zeroed_blocks, kept_at_zero, zeroed_blocks
from secateur.system.errors import UserError
from secateur.training.objectives import Labels, Logits, Step
from secateur.training.trainer import PruningTrainer

HYBRID = ("attention/4x4", "ffn")


def in_tiles(bert, *, density=0.5, seed=0, units=("attention/4x4", "ffn/8x4")):
    """A cut model with zeroed blocks and padding (its heads differ in size), and the space of the dense one."""
    model = bert()
    space = Space(model, *units)
    masks = (torch.rand(len(space), generator=torch.Generator().manual_seed(seed)) < density).float()
    rows = space.slices["0.attention.value/4x4"]
    masks[rows.start : rows.start + 8] = 0.0  # four dims of the first head
    return cut(model, Plan.of(space, masks)), space


# G9: filling


def test_g9_zeroed_blocks_are_filled_and_nothing_else_changes(bert):
    small, _ = in_tiles(bert)
    before = {name: value.clone() for name, value in small.state_dict().items()}
    found = zeroed_blocks(small)
    assert len(found) == 12
    fill_zeroed_blocks(small, seed=3)
    for name, value in small.state_dict().items():
        gone, real = found.get(name, (torch.zeros_like(value, dtype=torch.bool),) * 2)
        assert value.shape == before[name].shape
        assert torch.equal(value[~gone], before[name][~gone]), "what was there, biases and padding"
        if name in found:
            assert bool((before[name][gone] == 0).all()) and bool((value[gone] != 0).all())
            mean, deviation = before[name][real].mean(), 0.01 * before[name][real].std()
            assert abs(float(value[gone].mean() - mean)) < 4 * float(deviation) / int(gone.sum()) ** 0.5
            assert float(value[gone].std()) == pytest.approx(float(deviation), rel=0.25)
    again, _ = in_tiles(bert)
    fill_zeroed_blocks(again, seed=3)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in small.state_dict().items())


def test_g9_padding_stays_zero(bert, batch):
    """Filled padding would give a head dims that the plan does not know."""
    small, _ = in_tiles(bert)
    padded = [name for name, (_, real) in zeroed_blocks(small).items() if not bool(real.all())]
    assert padded
    places = {name: real for name, (_, real) in zeroed_blocks(small).items()}
    fill_zeroed_blocks(small, seed=0)
    assert all(bool((small.get_parameter(name)[~places[name]] == 0).all()) for name in padded)


def test_g9_the_plan_of_a_filled_model_includes_the_filled_blocks(bert, batch, tmp_path):
    small, _ = in_tiles(bert)
    structure, before = small.config.secateur, small.plan["achieved"]
    fill_zeroed_blocks(small, seed=0)
    save(small, tmp_path / "filled")
    loaded = load(tmp_path / "filled")  # refuses a plan that makes another structure
    assert loaded.config.secateur == structure and zeroed_blocks(loaded) == {}
    achieved = loaded.plan["achieved"]
    assert achieved["prunable"] == achieved["filled"] == before["filled"] > before["prunable"]
    dense, plan = uncut(loaded)
    with attached(dense, plan.space(dense), plan.masks), torch.no_grad():
        torch.testing.assert_close(dense(**batch).logits, loaded(**batch).logits, rtol=0, atol=1e-5)


# Zeroed blocks that are not filled stay zero


def recovering(model, rows, folder, **options):
    return PruningTrainer(
        model,
        objective=[Labels()],
        args=arguments(folder, 4, weight_decay=0.1, learning_rate=1e-2),
        train_dataset=rows,
        **options,
    )


def test_a_zeroed_block_stays_zero_in_training_where_its_gradient_is_removed(bert, rows, tmp_path):
    small, space = in_tiles(bert)
    counted = round(small.plan["achieved"]["model"] * space.total("model"))
    found = zeroed_blocks(small)
    name = "bert.encoder.layer.0.output.dense.weight"
    before = small.get_parameter(name).detach().clone()
    with kept_at_zero(small):
        recovering(small.train(), rows, tmp_path).train()
    for weight, (gone, real) in found.items():
        assert bool((small.get_parameter(weight)[gone] == 0).all())
        assert bool((small.get_parameter(weight)[~gone & real] != 0).all())
    zeros = sum(int(gone.sum()) + int((~real).sum()) for gone, real in found.values())
    assert counted == small.num_parameters() - zeros - padded_biases(small)
    assert not torch.equal(small.get_parameter(name)[~found[name][0]], before[~found[name][0]])
    recovering(small, rows, tmp_path / "loose").train()
    assert any(bool((small.get_parameter(weight)[gone] != 0).any()) for weight, (gone, _) in found.items())


def padded_biases(small):
    """Entries of the projections' biases that are padding."""
    return sum(
        int((~real).all(dim=1).sum()) for name, (_, real) in zeroed_blocks(small).items() if ".attention.self." in name
    )


# G12: distillation


def step(student, teacher, labels):
    loss = functional.cross_entropy(student, labels)
    return Step(
        batch={"attention_mask": torch.ones(len(labels), 2)},
        student=SimpleNamespace(logits=student, loss=loss),
        teacher=SimpleNamespace(logits=teacher),
    )


def test_g12_the_loss_of_equal_logits_is_a_tenth_of_the_labels_loss():
    noise = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(8, 3, generator=noise), torch.randint(0, 3, (8,), generator=noise)
    one = step(logits, logits.clone(), labels)
    terms = [Logits(2.0, 0.9, divergence=True), Labels(0.1)]
    total = sum(term.weight * term(one) for term in terms)
    torch.testing.assert_close(total, 0.1 * functional.cross_entropy(logits, labels), rtol=0, atol=1e-7)


def test_g12_logits_scaled_by_the_temperature_scale_the_divergence_by_its_square():
    noise = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 8, 3, generator=noise)
    labels = torch.zeros(8, dtype=torch.long)
    plain = Logits(1.0, divergence=True)(step(student, teacher, labels))
    hot = Logits(2.0, divergence=True)(step(2.0 * student, 2.0 * teacher, labels))
    torch.testing.assert_close(hot, 4.0 * plain)
    by_hand = functional.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="batchmean")
    torch.testing.assert_close(plain, by_hand)


# A little training


def trained(bert, rows, folder, strength, useless=None):
    """A method after 40 steps of the published rule, with a high learning rate of the scores."""
    model = bert()
    if useless is not None:
        with torch.no_grad():
            model.bert.encoder.layer[0].output.dense.weight[:, useless] = 0.0
        model.bert.encoder.layer[0].output.dense.weight.requires_grad_(False)
    space = Space(model, *HYBRID)
    method = Movement(space, cubic(1.0, 1.0, begin=0.1, end=0.6), strength=strength, faithful=True, learning_rate=0.2)
    torch.manual_seed(0)
    PruningTrainer(model, method=method, args=arguments(folder, 40), train_dataset=rows).train()
    return method


def test_a_stronger_penalty_gives_a_lower_density(bert, rows, tmp_path):
    """Section 16: the density falls with the strength; the published rule guarantees no more."""
    densities = [
        method.plan(1.0).achieved["prunable"]
        for method in (trained(bert, rows, tmp_path, strength) for strength in (0.1, 10.0, 1000.0))
    ]
    assert densities == sorted(densities, reverse=True) and densities[0] > 0.5 and densities[-1] < 0.25


def test_a_neuron_without_effect_is_pruned_before_the_others(bert, rows, tmp_path):
    """Its column is 0, so that only the penalty acts on its score."""
    useless = [3, 17, 40]
    method = trained(bert, rows, tmp_path, 10.0, useless)
    scores = method.scores()[method.space.slices["0.ffn"]]
    others = [neuron for neuron in range(48) if neuron not in useless]
    assert float(scores[useless].max()) < float(scores[others].median())
    assert not bool(method.open[method.space.slices["0.ffn"]][useless].any())


# A whole run


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    small = recipe_values(write_model(root / "model"), write_data(root / "data.csv"))
    return small | {"method": "movement", "target.density": 0.26, "training.evaluations": 0}


def options(variant, **more):
    return {"variant": variant, "tile": 4, "learning_rate": 0.1, "every": 2} | more


@pytest.fixture(scope="module")
def block(values, tmp_path_factory):
    """(recipe, folder, report) of a run over tiles."""
    wanted, folder = (
        recipe.make(values | {"method.options": options("block")}),
        tmp_path_factory.mktemp("block") / "run",
    )
    return wanted, folder, pipeline.run(wanted, folder)


def test_a_run_reaches_its_density_and_keeps_it(block):
    _, folder, report = block
    assert report.recipe["target"]["units"] == ["attention/4x4", "ffn/4x4"]
    assert 0.24 < report.density["prunable"] <= 0.26 < report.density["filled"]
    model = load(folder / "model")
    found = zeroed_blocks(model)
    assert found and all(bool((model.get_parameter(name)[gone] == 0).all()) for name, (gone, _) in found.items())
    rows = {name: value for name, _, value in score_table(report)}
    inside = report.density["prunable"] / report.density["filled"]
    assert float(rows["density within stored weights"]) == pytest.approx(inside, abs=1e-4)
    seen = inspect(model)
    assert seen.zeros == sum(int(gone.sum()) for gone, _ in found.values())
    assert seen.parameters["model"].kept + seen.zeros + seen.padding == model.num_parameters()
    logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    last = [line for line in logged if line["stage"] == "prune" and "loss" in line][-1]
    assert last["density"] <= last["density_target"] + 1e-9 and last["density_filled"] > last["density"]
    assert verified(folder)


def verified(folder):
    """Whether the plan's masks on the dense weights give the logits of the compact model, and the folder loads."""
    noted = json.loads((folder / "verified.json").read_text())
    return noted["masked_compact"] < 1e-4 and noted["compact_loaded"] < 1e-4


def test_the_density_of_a_filled_run_includes_the_filled_blocks(values, tmp_path):
    report = pipeline.run(recipe.make(values | {"method.options": options("filled")}), tmp_path / "run")
    model = load(tmp_path / "run" / "model")
    assert report.density["prunable"] == report.density["filled"] <= 0.26
    assert zeroed_blocks(model) == {} and verified(tmp_path / "run")


class Interrupted(TrainerCallback):
    """Stops a stage after a step, as a user would."""

    def __init__(self, stage, step):
        self.stage, self.step = stage, step

    def on_step_end(self, args, state, control, **kwargs):
        if args.output_dir.endswith(self.stage) and state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("stage", "step"), [("prune", 9), ("recover", 13)])
def test_an_interrupted_run_ends_with_the_same_weights(block, tmp_path, stage, step):
    wanted, folder, _ = block
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(wanted, tmp_path / "run", [Interrupted(stage, step)])
    pipeline.run(wanted, tmp_path / "run")
    whole, again = (load_file(place / "model" / "model.safetensors") for place in (folder, tmp_path / "run"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_the_variant_of_a_recipe_sets_its_units(values):
    assert recipe.make(values).target.units == ("attention/32x32", "ffn")
    published = recipe.make(values | {"method.options": {"variant": "struct", "faithful": True}})
    assert published.target.units == ("attention/head", "ffn/tied")
    with pytest.raises(UserError, match="variant 'blocks' is not known"):
        recipe.make(values | {"method.options": {"variant": "blocks"}})
