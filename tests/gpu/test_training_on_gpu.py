"""Training on a GPU: a model that is cut in place has the gradients of the masked one, and resumed runs continue.

Two trainings on a GPU are never the same bit for bit, because some sums of gradients have no fixed order.
"""

import pytest
import torch
from law_assertions import assert_same, in_float64
from tiny_models import CLASSIFIERS, LEADING, METHODS, UNIT_SETS, inputs, tiny
from tiny_training import STEPS, losses, pairs, trainer

from secateur.budget.space import Space
from secateur.surgery.masking import attached
from secateur.surgery.shrinking import Shrinking
from secateur.training.objectives import Contrastive, Similarity

UNITS = [units for units in UNIT_SETS if "hidden" not in units]


def trained(model, space, kept, stored=None, autocast=False):
    """The logits of a forward, and the gradients of kept masks and of the word embeddings, by name."""
    with attached(model, space, kept.to(torch.promote_types(model.dtype, torch.float32))) as attachment:
        if stored is not None:
            attachment.detach()
            attachment.attach(stored)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
            logits = model(**inputs(model)).logits
        logits.to(attachment.masks.dtype).square().mean().backward()
    words = model.get_input_embeddings().weight
    found = {"logits": logits.detach(), "masks": attachment.masks.grad[kept], "words": words.grad}
    model.zero_grad()
    return found


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("which", LEADING)
def test_a_shrunk_model_has_the_gradients_of_the_masked_one(which, autocast, device):
    for units in UNITS:
        model = tiny(*which, dtype=torch.float32).to(device).train()
        space = Space(model, *units)
        order = torch.rand(len(space), generator=torch.Generator().manual_seed(3)).to(device)
        exact, shrinking = in_float64(model), Shrinking(model, space)
        for density in (0.7, 0.4):
            kept = space.choose(order, density)
            wanted = trained(exact, Space(exact, *units), kept)
            reference = tiny(*which, dtype=torch.float32).to(device).train()
            masked = trained(reference, Space(reference, *units), kept, autocast=autocast)
            shrinking.cut(kept)
            assert_same(trained(model, space, kept, shrinking.stored, autocast), masked, wanted)
        shrinking.restore()
        assert_same(trained(model, space, kept, autocast=autocast), masked, wanted)


RESUMED = [
    pytest.param(*CLASSIFIERS[number % len(CLASSIFIERS)].values, name, (1, 3, 5)[number % 3], id=name)
    for number, name in enumerate(METHODS)
]


@pytest.mark.parametrize(("which", "name", "step"), RESUMED)
def test_a_resumed_training_continues_as_the_uninterrupted_one(which, name, step, device, tmp_path):
    """Dropout is on: losses are those of the same masks, weights and random numbers."""
    on = {"use_cpu": device.type == "cpu", "dataloader_pin_memory": device.type != "cpu"}
    whole = trainer(which, name, tmp_path, **on)
    whole.train()
    assert whole.model.device.type == device.type
    resumed = trainer(which, name, tmp_path / "resumed", seed=3, save="no", **on)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    mine, theirs = losses(resumed), losses(whole)
    assert len(mine) == len(theirs) == STEPS
    for own, other in zip(mine[step:], theirs[step:], strict=True):
        assert own.keys() == other.keys()
        near = {key: pytest.approx(value, rel=5e-3, abs=1e-4) for key, value in other.items() if key != "grad_norm"}
        assert {key: own[key] for key in near} == near


def test_pairs_of_texts_are_compared_in_a_replayed_training_as_without_graphs(device, tmp_path):
    on = {"use_cpu": device.type == "cpu", "dataloader_pin_memory": device.type != "cpu"}
    on |= {"label_names": ["index"], "train_sampling_strategy": "group_by_length", "remove_unused_columns": False}
    logs = []
    for graphs in (False, True):
        own = {"objective": [Contrastive(), Similarity()], "train_dataset": pairs(), "cuda_graphs": graphs}
        one = trainer(("bert", "Sentence"), None, tmp_path, save="no", training=own, **on)
        one.train()
        assert one.replayed.enabled == (graphs and device.type == "cuda")
        logs.append([(log["loss_contrastive"], log["loss_similarity"]) for log in losses(one)])
    assert len(logs[0]) == STEPS
    assert logs[1] == [pytest.approx(values, rel=5e-3, abs=1e-4) for values in logs[0]]
