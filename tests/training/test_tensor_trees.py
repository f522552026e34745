"""Copies of tensors in nested mappings, namespaces and dataclasses, and copies into them."""

from dataclasses import dataclass
from types import SimpleNamespace

import torch

from secateur.training.tensor_trees import copied, copy_into, shapes_of


@dataclass(frozen=True)
class Pair:
    first: torch.Tensor
    second: torch.Tensor | None


def tree(value):
    hidden = {0: torch.full((2, 3), value), 2: torch.full((2, 3), -value)}
    return {
        "batch": {"ids": torch.tensor([int(value)])},
        "taught": SimpleNamespace(logits=torch.tensor([value]), hidden_states=hidden, loss=None),
        "shares": None,
    }


def test_a_copy_has_its_own_tensors_and_the_same_structure():
    original = tree(1.0)
    copy = copied(original)
    original["taught"].hidden_states[2].zero_()
    original["batch"]["ids"].zero_()
    assert copy["taught"].hidden_states[2].unique().tolist() == [-1.0]
    assert copy["batch"]["ids"].tolist() == [1] and copy["shares"] is None and copy["taught"].loss is None
    weight = torch.ones(2, requires_grad=True)
    pair = copied(Pair(weight * 2, None))
    assert pair.first.tolist() == [2.0, 2.0] and not pair.first.requires_grad and pair.second is None


def test_tensors_are_copied_into_their_places():
    places = tree(1.0)
    logits, state = places["taught"].logits, places["taught"].hidden_states[0]
    copy_into(places, tree(5.0))
    assert logits.tolist() == [5.0] and state.unique().tolist() == [5.0]
    assert places["taught"].logits is logits


def test_shapes_do_not_depend_on_the_order_of_the_names():
    ids, mask = torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3)
    assert shapes_of({"ids": ids, "mask": mask}) == shapes_of({"mask": mask, "ids": ids})
    assert shapes_of({"ids": ids}) != shapes_of({"ids": ids.int()})
    assert shapes_of({"ids": ids}) != shapes_of({"ids": ids[:1]})
    assert len({shapes_of({"ids": ids}), shapes_of({"ids": ids})}) == 1
