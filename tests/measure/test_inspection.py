"""What a model is made of: every number against models that are really cut, and a drawing that fits a terminal."""

import io
import re

import pytest
import torch
from rich.console import Console
from tiny_models import CLASSIFIERS, edge_cases, tiny

from secateur.budget.space import Space
from secateur.cli import output
from secateur.measure.inspection import BLOCKS, bar, drawn, inspect, saved
from secateur.structure.plan import Plan
from secateur.surgery.cut import cut

FINE = ("ffn", "qk", "vo", "sublayer")


def shown(found, monkeypatch, **terminal):
    """What the command prints, on a terminal of that kind."""
    out = io.StringIO()
    monkeypatch.setattr(output, "OUT", Console(file=out, highlight=False, markup=False, **terminal))
    output.show_inspection(found)
    return out.getvalue()


# Numbers


@pytest.mark.parametrize("model", CLASSIFIERS)
def test_what_a_group_saves_is_what_is_gone_when_it_is_cut(model):
    dense = tiny(model[0], shape=model[2])
    space = Space(dense, *FINE)
    found = inspect(dense, tokens=16)
    savings = {one["group"]: one for one in found["savings"]}
    assert set(savings) == {group.name for group in space.groups}
    for group in space.groups:
        masks = space.ones()
        masks[space.slices[group.name]] = 0.0
        left = inspect(cut(dense, Plan.of(space, masks)), tokens=16)
        gone = found["parameters"]["prunable"]["kept"] - left["parameters"]["prunable"]["kept"]
        assert savings[group.name]["parameters"] == gone > 0
        assert savings[group.name]["parameters_share"] == gone / found["parameters"]["prunable"]["total"]
        assert savings[group.name]["flops"] == pytest.approx(found["flops"]["kept"] - left["flops"]["kept"])
        assert savings[group.name]["flops_share"] == savings[group.name]["flops"] / found["flops"]["kept"]


def test_of_a_compact_model_it_is_what_is_gone_from_what_is_kept():
    dense, plan, masks = edge_cases("bert")
    space = plan.space(dense)
    found = inspect(cut(dense, plan))
    for name in ("0.vo", "3.qk", "1.mlp", "1.attention"):
        fewer = masks.clone()
        fewer[space.slices[name]] = 0.0
        left = inspect(cut(dense, Plan.of(space, fewer)))
        saving = next(one for one in found["savings"] if one["group"] == name)
        assert saving["parameters"] == (
            found["parameters"]["prunable"]["kept"] - left["parameters"]["prunable"]["kept"]
        )
        assert saving["parameters_share"] == pytest.approx(
            saving["parameters"] / found["parameters"]["prunable"]["kept"]
        )


def test_heads_are_told_one_by_one_and_sublayers_by_what_is_left():
    dense, plan, _ = edge_cases("bert")
    found = inspect(cut(dense, plan))
    for row, own in zip(found["layers"], found["heads"], strict=False):
        assert f"{sum(own['qk'])}/32" == row["qk"] and f"{sum(own['vo'])}/32" == row["vo"]
        assert f"{sum(size > 0 for size in own['vo'])}/4" == row["heads"]
    assert found["heads"][0]["qk"][0] == 0 < found["heads"][0]["vo"][0]  # uniform attention
    states = [(own["attention"], own["mlp"]) for own in found["heads"]]
    assert states == [("kept", "kept"), ("gone", "kept"), ("bias", "bias"), ("kept", "gone")]


# The drawing


def test_a_head_is_as_high_as_what_it_has_kept():
    model = tiny("bert")
    space = Space(model, "qk", "vo", "ffn")
    masks = space.ones()
    sizes = (0, 1, 4, 8)
    for head, size in enumerate(sizes):
        masks[space.slices["0.vo"]][8 * head + size : 8 * (head + 1)] = 0.0
    masks[space.slices["0.ffn"]][12:] = 0.0
    found = inspect(cut(model, Plan.of(space, masks)))
    head, rows = drawn(found)
    assert head == ["layer", "heads", "QK of 32", "VO of 32", "FFN of 48"]
    assert rows[0] == ["0", "3/4", "·███    24", "·▁▄█    13", "███·······     12"]
    assert drawn(found, ascii_only=True)[1][0][2:] == [".888    24", ".148    13", "###.......     12"]


def test_what_is_gone_is_not_drawn():
    dense, plan, _ = edge_cases("bert")
    _, rows = drawn(inspect(cut(dense, plan)))
    assert rows[1][2:4] == ["gone", "gone"] and rows[2][2:] == ["bias alone"] * 3 and rows[3][4] == "gone"


@pytest.mark.parametrize(("kept", "full"), [(0, 0), (1, 1), (500, 5), (501, 6), (1000, 10)])
def test_a_bar_is_empty_only_where_nothing_is_kept(kept, full):
    assert bar(kept, 1000) == "█" * full + "·" * (10 - full)


def test_layers_that_are_alike_are_one_row():
    model = tiny("bert", num_hidden_layers=3)
    assert [row[0] for row in saved(inspect(model))[1]] == ["each of 0-2"]
    space = Space(model, "ffn")
    masks = space.ones()
    masks[space.slices["1.ffn"].start] = 0.0
    _, rows = saved(inspect(cut(model, Plan.of(space, masks))))
    assert [row[0] for row in rows] == ["0", "1", "2"]
    assert all(re.fullmatch(r"\d+\.\d / \d+\.\d", cell) for row in rows for cell in row[1:])


@pytest.fixture(scope="module")
def large():
    """Twelve layers of twelve heads, as wide as BERT-base where it is shown."""
    sizes = {"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 48, "intermediate_size": 1024}
    return tiny("bert", dtype=torch.float32, **sizes)


@pytest.mark.parametrize("compact", [False, True])
def test_twelve_layers_of_twelve_heads_fit_80_columns(large, compact, monkeypatch):
    space = Space(large, "qk", "vo", "ffn")
    model = cut(large, Plan.of(space, (torch.rand(len(space)) < 0.3).float())) if compact else large
    text = shown(inspect(model), monkeypatch, width=80)
    assert max(map(len, text.splitlines())) <= 80
    rows = [line for line in text.splitlines() if re.match(r" +\d+ +\d+/12 ", line)]
    assert len(rows) == 12 and all(len(re.findall(f"[{BLOCKS}]{{12}} ", row)) == 2 for row in rows)


@pytest.mark.parametrize(
    ("terminal", "codes"),
    [
        ({}, False),  # a pipe
        ({"force_terminal": True, "_environ": {"TERM": "dumb"}}, False),
        ({"force_terminal": True, "color_system": "256"}, True),
    ],
)
def test_control_codes_are_for_terminals_that_know_them(monkeypatch, terminal, codes):
    assert ("\x1b" in shown(inspect(tiny("bert")), monkeypatch, width=80, **terminal)) == codes


def test_without_colour_no_colour_is_sent(monkeypatch):
    terminal = {"force_terminal": True, "color_system": "256", "_environ": {"NO_COLOR": "1"}}
    assert not re.search(r"\x1b\[[\d;]*[34]\d", shown(inspect(tiny("bert")), monkeypatch, width=80, **terminal))


def test_ascii_is_enough(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(output, "OUT", Console(file=out, highlight=False, markup=False, width=80))
    output.show_inspection(inspect(tiny("bert")))
    out.flush()
    assert b"8888" in out.buffer.getvalue()
