"""Models that one process has: what it sends to the others is a model of the same shapes, and the same random state."""

import pickle

import pytest
import torch
from tiny_models import FIRST, METHODS, tiny

from secateur import methods
from secateur.budget.space import Space
from secateur.methods.schedules import cubic
from secateur.structure.plan import Plan
from secateur.surgery.cut import cut
from secateur.surgery.optimizer_state import blank_moments
from secateur.system import model_copies, processes
from secateur.system.errors import UserError
from secateur.system.file_format import FileFormat
from secateur.system.main_models import held_by_main
from secateur.system.model_state import device_of, without_weights
from secateur.system.tensor_file import load_into, save_tensors


def whole_and_cut(kind, head, shape):
    """A model, and one that was cut out of it."""
    model = tiny(kind, head, shape, dtype=torch.float32)
    space = Space(model, "ffn")
    masks = space.ones()
    masks[::2] = 0.0
    return model, cut(model, Plan.of(space, masks))


@pytest.fixture
def elsewhere(monkeypatch):
    """A function: load -> the model of the main process, that of another one, and what each draws next."""

    def call(load):
        sent = []
        monkeypatch.setattr(processes, "in_parts", lambda: True)
        monkeypatch.setattr(processes, "on_main", lambda work: sent.append(work()) or sent[0])
        mine, next_here = held_by_main(load), torch.rand(3)
        monkeypatch.setattr(processes, "on_main", lambda work: pickle.loads(pickle.dumps(sent[0])))
        torch.manual_seed(7)
        return mine, held_by_main(load), next_here, torch.rand(3)

    return call


def shapes(model):
    own = model.named_parameters(remove_duplicate=False)
    return [(name, one.shape, one.dtype, one.requires_grad) for name, one in own]


@pytest.mark.parametrize("which", FIRST)
def test_the_others_get_the_shapes_and_the_buffers_of_a_model(elsewhere, which):
    for model in whole_and_cut(*which):
        mine, its, drawn_here, drawn_there = elsewhere(lambda model=model: (torch.rand(3), model)[1])
        assert mine is model and type(its) is type(model) and its.config.to_dict() == model.config.to_dict()
        assert without_weights(its) and not without_weights(mine) and shapes(its) == shapes(mine)
        assert len(list(its.parameters())) == len(list(mine.parameters())), "ties"
        pairs = zip(its.named_buffers(), mine.named_buffers(), strict=True)
        assert all(one[0] == other[0] and torch.equal(one[1], other[1]) for one, other in pairs)
        assert getattr(its, "plan", None) == getattr(mine, "plan", None)
        assert torch.equal(drawn_here, drawn_there)


def test_a_process_of_whole_models_loads_its_own():
    model = tiny("llama")
    assert held_by_main(lambda: model) is model


def test_a_model_without_weights_is_on_the_cpu_for_all_that_goes_with_it():
    model = model_copies.blank_copy(tiny("llama"))
    space = Space(model, "ffn")
    assert device_of(model) == space.ones().device == torch.device("cpu")
    with pytest.raises(UserError, match="make it in the main process"):
        Plan.of(space, space.ones())


@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_is_made_without_weights_takes_over_what_the_main_process_knows(name):
    """And removes then the same units as its does, unless it reads weights, of which parts are gathered."""
    model, kind = tiny("llama", "ForCausalLM"), methods.METHODS.get(name)
    spaces = [Space(one, "head", "ffn") for one in (model, model_copies.blank_copy(model))]
    mine, its = (kind(space, cubic(1.0, 0.7, begin=0.2, end=0.7)) for space in spaces)
    its.load_state_dict(mine.state_dict())
    for one in (mine, its):
        one.train()
        if not kind.reads_weights:
            one.advance(0.5)
    assert torch.equal(mine.eval().masks(), its.eval().masks())


def test_what_another_process_has_is_not_read_from_a_file(tmp_path):
    saved, module = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    saved.weight.data.fill_(3.0)
    module.weight = torch.nn.Parameter(model_copies.blank(module.weight))
    saved.bias.data.fill_(4.0)
    save_tensors(tmp_path / "file", {f"part.{name}": own for name, own in saved.state_dict().items()}, FileFormat())
    load_into(module, tmp_path / "file", FileFormat(), "part.")
    assert module.weight.is_meta and torch.equal(module.bias, saved.bias)


def test_blank_moments_have_their_counts():
    step = torch.tensor(3.0)
    (own,) = blank_moments({"name": {"exp_avg": torch.ones(2, 3), "step": step}}).values()
    assert own["step"] is step and own["exp_avg"].is_meta and own["exp_avg"].shape == (2, 3)
