"""Tables of an inspection: one character per head, bars of FFNs, and a width that fits a terminal."""

import io
import re

import pytest
import torch
from rich.console import Console
from tiny_models import edge_cases, tiny

from secateur.budget.space import Space
from secateur.cli import model_output, output
from secateur.measure.inspected_model import Count
from secateur.measure.inspection import inspect
from secateur.report.inspection_text import BLOCKS, bar, layer_table, saving_table, sizes
from secateur.structure.plan import Plan
from secateur.surgery.cut import cut


def shown(found, monkeypatch, **terminal):
    """What the command line prints on a terminal of that kind."""
    out = io.StringIO()
    console = Console(file=out, highlight=False, markup=False, **terminal)
    monkeypatch.setattr(output, "out", lambda: console)
    model_output.show_inspection(found)
    return out.getvalue()


def test_the_character_of_a_head_is_as_high_as_the_part_that_is_kept():
    model = tiny("bert")
    space = Space(model, "qk", "vo", "ffn")
    masks = space.ones()
    sizes = (0, 1, 4, 8)
    for head, size in enumerate(sizes):
        masks[space.slices["0.vo"]][8 * head + size : 8 * (head + 1)] = 0.0
    masks[space.slices["0.ffn"]][12:] = 0.0
    found = inspect(cut(model, Plan.of(space, masks)))
    head, rows = layer_table(found)
    assert head == ["layer", "heads", "QK of 32", "VO of 32", "FFN of 48"]
    assert rows[0] == ["0", "3/4", "·███    24", "·▁▄█    13", "███·······     12"]
    assert layer_table(found, ascii_only=True)[1][0][2:] == [".888    24", ".148    13", "###.......     12"]


def test_what_is_gone_is_not_layer_table():
    dense, plan, _ = edge_cases("bert")
    _, rows = layer_table(inspect(cut(dense, plan)))
    assert rows[1][2:4] == ["removed", "removed"] and rows[2][2:] == ["only bias"] * 3 and rows[3][4] == "removed"


@pytest.mark.parametrize(("kept", "full"), [(0, 0), (1, 1), (500, 5), (501, 6), (1000, 10)])
def test_a_bar_is_empty_only_where_nothing_is_kept(kept, full):
    assert bar(Count(kept, 1000)) == "█" * full + "·" * (10 - full)


def test_equal_layers_share_a_row():
    model = tiny("bert", num_hidden_layers=3)
    assert [row[0] for row in saving_table(inspect(model))[1]] == ["each of 0-2"]
    space = Space(model, "ffn")
    masks = space.ones()
    masks[space.slices["1.ffn"].start] = 0.0
    _, rows = saving_table(inspect(cut(model, Plan.of(space, masks))))
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
def test_control_codes_are_sent_only_to_terminals_that_support_them(monkeypatch, terminal, codes):
    assert ("\x1b" in shown(inspect(tiny("bert")), monkeypatch, width=80, **terminal)) == codes


def test_no_color_is_respected(monkeypatch):
    terminal = {"force_terminal": True, "color_system": "256", "_environ": {"NO_COLOR": "1"}}
    assert not re.search(r"\x1b\[[\d;]*[34]\d", shown(inspect(tiny("bert")), monkeypatch, width=80, **terminal))


def test_a_terminal_of_ascii_gets_digits(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(file=out, highlight=False, markup=False, width=80)
    monkeypatch.setattr(output, "out", lambda: console)
    model_output.show_inspection(inspect(tiny("bert")))
    out.flush()
    assert b"8888" in out.buffer.getvalue()


def test_the_megabytes_of_the_weights_and_where_they_are():
    found = inspect(tiny("bert", dtype=torch.float32))
    where = "embeddings 0.012, layers 0.06, head 0.00449"
    assert sizes(found) == f"weights, MB: {sum(found.bytes.values()) / 1e6:.3g} ({where})"
