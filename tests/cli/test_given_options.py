"""What is given on the command line arrives, every option of it, in the calls of the library that a command ends in."""

import inspect
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import ANY

import pytest
from typer.testing import CliRunner

from secateur.cli import app
from secateur.cli.commands import COMMANDS, Commands
from secateur.cli.demo_recipes import DEMOS
from secateur.cli.recipe_options import marked
from secateur.run import recipe

KEY_NAMES = {key.replace(".", "_") for key in marked()}


class Row(NamedTuple):
    """A call of a command.

    Attributes:
        module: of `secateur.cli`, that does it.
        words: after the command.
        calls: functions in the module -> the arguments that they must get; the command ends in the last one.
        returned: what they, and others that are not to run, return instead: a value, or a function of their arguments.
    """

    module: str
    words: str
    calls: dict[str, dict[str, Any]]
    returned: dict[str, Any] = {}


class Ended(BaseException):
    """A command has called the last function of its row."""


def opened(place):
    return f"the model of {place}"


def read(place):
    return f"the tokenizer of {place}"


DATA = (SimpleNamespace(max_length=24), "the task")
RUNS = ["a run", "another"]
PRUNED = {"model": "m", "data.source": "d", "data.rows": 20, "seed": 3, "training.epochs": 2}
EXPORTED = {
    "config_of_model": "config",
    "is_encoder_decoder": False,
    "check_packages": None,
    "check_model": None,
    "data_if_known": "data",
    "fitted": "fitted data",
    "batches_of": "rows",
    "open_model": opened,
    "open_tokenizer": read,
    "tokenizer_if_any": SimpleNamespace(model_input_names=["input_ids"]),
}
CALIBRATED = {
    "data_if_known": {"given": {"data.source": "d", "seed": 3}, "model": "f", "rows": 5},
    "batches_of": {"data": "data", "split": "train", "model": opened("f"), "folder": "f", "limit": 5},
}
VERIFIED = {"open_model": opened, "data_if_known": "data", "fitted": "data", "local_model_folder": Path("f/model")}
PREDICTED = {
    "with_run_values": lambda given, place: given,
    "asked_as": lambda place, task: {},
    "open_model": opened,
    "open_tokenizer": read,
}
SWEPT = {"read_sweep": "the sweep", "secateur.run.sweep.worker.Worker.joined": SimpleNamespace()}
JOINED = {
    "read_sweep": {"path": Path("r.yaml"), "overrides": {"seed": 3}},
    "secateur.run.sweep.worker.Worker.joined": {
        "sweep": "the sweep",
        "folder": Path("o"),
        "trials": 4,
        "storage": "sqlite:///s",
        "name": "s",
    },
}
ROWS = {
    "prune": Row(
        "prune_work",
        "m --data d --rows 20 --output o --overwrite --seed 3 --set training.epochs=2",
        {"run_job": {"recipe": recipe.make(PRUNED), "output": Path("o"), "callbacks": ANY, "overwrite": True}},
    ),
    "prune, a dry run": Row(
        "prune_work",
        "m --data d --rows 20 --output o --overwrite --seed 3 --epochs 2 --dry-run",
        {"dry_run_job": {"recipe": recipe.make(PRUNED), "output": Path("o"), "overwrite": True}},
    ),
    "prune, by a recipe": Row(
        "prune_work",
        "m --recipe r.yaml --output o --epochs 2",
        {"recipe.read": {"path": Path("r.yaml"), "overrides": {"model": "m", "training.epochs": 2.0}}},
    ),
    "demo": Row(
        "prune_work",
        "--task embedding --output o --overwrite",
        {
            "run_job": {
                "recipe": recipe.make({"model": str(Path("package/model")), **DEMOS["embedding"]}),
                "output": Path("o"),
                "callbacks": ANY,
                "overwrite": True,
            }
        },
        {"find_spec": SimpleNamespace(submodule_search_locations=["package"])},
    ),
    "inspect": Row(
        "model_work",
        "m --tokens 64",
        {"inspect": {"model": opened("m"), "tokens": 64}},
        {"open_encoder": opened},
    ),
    "new": Row(
        "model_work",
        "--data d --output o --architecture bart --layers 5 --decoder-layers 2 --heads 8 --width 64 --ffn 96 "
        "--dropout 0.2 --vocabulary 900 --tokenizer unigram --max-length 48 --seed 3 --overwrite",
        {
            "refuse_taken": {"folder": Path("o"), "overwrite": True, "read": ANY},
            "new_model.new_model": {
                "task": "the task",
                "folder": Path("o"),
                "architecture": "bart",
                "layers": 5,
                "decoder_layers": 2,
                "heads": 8,
                "width": 64,
                "ffn": 96,
                "dropout": 0.2,
                "vocabulary": 900,
                "tokenizer": "unigram",
                "max_length": 48,
                "seed": 3,
            },
        },
        {"opened_data": DATA},
    ),
    "cut": Row(
        "cut_work",
        "m --output o --overwrite --data d --density 0.4 --seed 3 --vocabulary t.txt --min-count 2 "
        "--calibration-rows 9 --no-refit",
        {
            "refuse_taken": {"folder": Path("o"), "overwrite": True, "read": ["m", None, Path("t.txt"), "d"]},
            "read_texts": {"files": [Path("t.txt")]},
            "set_seed": {"seed": 3},
            "CutRows.of": {"given": ANY, "model": opened("m"), "name": "m", "count": 9, "refit": False},
            "used_pieces": {"model": opened("m"), "tokenizer": read("m"), "texts": ["a text"], "min_count": 2},
        },
        {
            "read_texts": ["a text"],
            "open_model": opened,
            "open_tokenizer": read,
            "backend_of": None,
            "CutRows.of": None,
        },
    ),
    "cut, by a plan": Row(
        "cut_work",
        "m --output o --plan p.json",
        {
            "refuse_taken": {"folder": Path("o"), "overwrite": False, "read": ["m", Path("p.json")]},
            "Plan.load": {"path": Path("p.json"), "model": opened("m")},
        },
        {"open_model": opened, "tokenizer_if_any": None},
    ),
    "eval": Row(
        "model_work",
        "f --data d --max-length 9 --seed 3",
        {"opened_data": {"given": {"data.source": "d", "data.max_length": 9, "seed": 3}, "model": "f"}},
    ),
    "predict": Row(
        "predict_work",
        "f one two --pairs --task classification --max-length 9",
        {
            "with_run_values": {"given": {"data.task": "classification", "data.max_length": 9}, "name": "f"},
            "_inputs": {"texts": ["one", "two"], "file": None, "size": 2},
            "check_length": {"max_length": 9, "tokenizer": read("f"), "model": opened("f")},
            "Asked": {"model": opened("f"), "tokenizer": read("f"), "max_length": 9, "options": {}},
        },
        PREDICTED,
    ),
    "predict, of a file": Row(
        "predict_work",
        "f --file t.txt --task classification",
        {"_inputs": {"texts": [], "file": Path("t.txt"), "size": 1}},
        PREDICTED,
    ),
    "latency": Row(
        "deploy_work",
        "m --output t.json --overwrite --shape 4x16 --units head,ffn --timed generation --beams 3 "
        "--runtime onnxruntime --dtype int8 --threads 2 --repeats 7",
        {
            "refuse_existing": {"file": Path("t.json"), "overwrite": True},
            "part_of": {"model": opened("m"), "timed": "generation", "beams": 3},
            "measure_latency": {
                "model": opened("m"),
                "units": ("head", "ffn"),
                "batch": 4,
                "tokens": 16,
                "part": "the part",
                "beams": 3,
                "repeats": 7,
                "protocol": {"runtime": "onnxruntime", "dtype": "int8", "threads": 2},
            },
        },
        {"open_encoder": opened, "part_of": "the part"},
    ),
    "bench": Row(
        "deploy_work",
        "f --against d --against e --runtime onnxruntime --runtime openvino --dtype int8 --dtype bf16 --shape 4x16 "
        "--shape 1x8 --repeats 7 --threads 2 --device cuda --no-memory",
        {
            "benchmark": {
                "models": {"f": opened("f"), "d": opened("d"), "e": opened("e")},
                "dense": "d",
                "runtimes": ["onnxruntime", "openvino"],
                "dtypes": ["int8", "bf16"],
                "shapes": [(4, 16), (1, 8)],
                "repeats": 7,
                "threads": 2,
                "device": "cuda",
                "peak_memory": False,
            }
        },
        {"open_model": opened},
    ),
    "export": Row(
        "export_work",
        "f --output x.onnx --dtype int8 --data d --seed 3 --rows 5 --opset 18 --overwrite",
        {
            "refuse_existing": {"file": ANY, "overwrite": True},
            **CALIBRATED,
            "check_request": {"path": Path("x.onnx"), "dtype": "int8", "calibration": "rows", "opset": 18},
            "export": {
                "model": opened("f"),
                "path": Path("x.onnx"),
                "dtype": "int8",
                "calibration": "rows",
                "opset": 18,
                "inputs": ["input_ids"],
            },
        },
        EXPORTED,
    ),
    "export, to a folder": Row(
        "export_work",
        "f --output x.onnx --layout hub --dtype int8 --data d --seed 3 --rows 5 --opset 18 --overwrite",
        {
            "check_folder": {"folder": Path("x.onnx"), "dtypes": ("int8",), "overwrite": True},
            **CALIBRATED,
            "export_folder": {
                "model": opened("f"),
                "folder": Path("x.onnx"),
                "tokenizer": read("f"),
                "dtypes": ("int8",),
                "calibration": "rows",
                "opset": 18,
                "overwrite": True,
            },
        },
        EXPORTED,
    ),
    "export, of an encoder-decoder": Row(
        "export_work",
        "f --output o --runtime openvino --dtype fp32 --data d --opset 18 --overwrite",
        {
            "check_seq2seq_folder": {
                "folder": Path("o"),
                "runtimes": ["openvino"],
                "dtypes": ("fp32",),
                "opset": 18,
                "overwrite": True,
            },
            "data_if_known": {"given": {"data.source": "d"}, "model": "f"},
            "export_seq2seq": {
                "model": opened("f"),
                "folder": Path("o"),
                "tokenizer": ANY,
                "runtimes": ["openvino"],
                "dtypes": ("fp32",),
                "opset": 18,
                "overwrite": True,
            },
        },
        EXPORTED | {"is_encoder_decoder": True},
    ),
    "verify": Row(
        "deploy_work",
        "f --dense d --data x",
        {
            "data_if_known": {"given": {"data.source": "x"}, "model": "f"},
            "batches_of": {"data": "data", "split": "validation", "model": opened("f/model"), "folder": "f"},
            "verify_folder": {"folder": Path("f/model"), "batches": "rows", "dense": opened("d")},
        },
        VERIFIED | {"batches_of": "rows"},
    ),
    "verify, an exported file": Row(
        "deploy_work",
        "f --exported x.xml --dtype bf16 --data x",
        {
            "data_if_known": {"given": {"data.source": "x"}, "model": "f"},
            "verify": {"batches": "rows", "compact": opened("f"), "exported": Path("x.xml"), "dtype": "bf16"},
        },
        VERIFIED | {"batches_of": "rows"},
    ),
    "publish": Row(
        "publish_work",
        "f org/n --base-model org/b --dataset org/d --license mit --onnx served --private --revision next "
        "--message words --replace --dry-run",
        {
            "publish": {
                "folder": "f",
                "name": "org/n",
                "onnx": Path("served"),
                "base_model": "org/b",
                "dataset": "org/d",
                "license": "mit",
                "private": True,
                "revision": "next",
                "message": "words",
                "replace": True,
                "dry_run": True,
            }
        },
    ),
    "report": Row("study_work", "f", {"Report.load": {"folder": Path("f")}}),
    "compare": Row(
        "study_work",
        "a b --against c --against d --data x --measure --baselines --shape 4x16 --repeats 7 --threads 2 --output o",
        {
            "read": {"folders": [Path("a"), Path("b")]},
            "check_counts": {"counts": {"repeats": 7, "threads": 2}},
            "check_measurable": {"runs": RUNS, "others": ["c", "d"], "shapes": [(4, 16)]},
            "refuse_unwritable_file": {"file": Path("o/compare.json")},
            "score_models": {"names": ["c", "d"], "runs": RUNS, "source": "x"},
            "with_baselines": {"runs": RUNS, "source": "x", "callbacks": ANY},
            "measure_models": {
                "runs": ["with baselines"],
                "others": ["scored"],
                "shapes": [(4, 16)],
                "repeats": 7,
                "threads": 2,
            },
            "compare": {
                "runs": ["with baselines"],
                "outside": ["scored"],
                "measured": {"a run": "times"},
                "baselines": True,
            },
        },
        {
            "read": RUNS,
            "score_models": ["scored"],
            "with_baselines": ["with baselines"],
            "measure_models": {"a run": "times"},
        },
    ),
    "sweep": Row(
        "sweep_work", "r.yaml --output o --trials 4 --storage sqlite:///s --study s --set seed=3", JOINED, SWEPT
    ),
    "sweep, by workers": Row(
        "sweep_work",
        "r.yaml --output o --trials 4 --storage sqlite:///s --study s --set seed=3 --workers 2",
        JOINED
        | {
            "run_workers": {
                "command": [
                    "sweep",
                    "r.yaml",
                    "--trials",
                    "4",
                    "--output",
                    "o",
                    "--storage",
                    "sqlite:///s",
                    "--study",
                    "s",
                    "--set",
                    "seed=3",
                ],
                "count": 2,
                "show": ANY,
            }
        },
        SWEPT,
    ),
    "sensitivity": Row(
        "study_work",
        "m --data d --max-length 24 --seed 3 --units head,ffn --densities 50%,0.2 --by magnitude --rows 9 "
        "--split validation --output o",
        {
            "opened_data": {
                "given": {"data.source": "d", "data.max_length": 24, "seed": 3, "data.rows": 18},
                "model": "m",
            },
            "fitted_to": {"task": "the task", "model": opened("m"), "name": "m", "own_reference": True},
            "refuse_unwritable_file": {"file": Path("o/sensitivity.json")},
            "sensitivity": {
                "model": opened("m"),
                "task": "fitted",
                "tokenizer": "tokenizer",
                "units": ("head", "ffn"),
                "densities": [0.5, 0.2],
                "rows": 9,
                "split": "validation",
                "by": "magnitude",
                "max_length": 24,
                "seed": 3,
            },
        },
        {"opened_data": DATA, "open_model": opened, "fitted_to": ("fitted", "tokenizer")},
    ),
}


def recorded(row, monkeypatch):
    """Function -> its arguments, of those of a row that are called from now on; nothing of them is done."""
    got = {}

    def replacement(name, function):
        signature = inspect.signature(function)
        value = row.returned.get(name)

        def record(*args, **named):
            got[name] = dict(signature.bind(*args, **named).arguments)
            if name == list(row.calls)[-1]:
                raise Ended
            return value(*args, **named) if callable(value) else value

        return record

    for name in {*row.calls, *row.returned}:
        path = name if name.startswith("secateur.") else f"secateur.cli.{row.module}.{name}"
        monkeypatch.setattr(path, replacement(name, resolve_name(path)))
    return got


def command_of(title):
    return title.partition(",")[0]


@pytest.mark.parametrize("title", ROWS)
def test_what_is_given_on_the_command_line_arrives_where_it_is_used(title, monkeypatch, tmp_path):
    row = ROWS[title]
    if row.module == "sweep_work":
        pytest.importorskip("optuna")
        monkeypatch.setattr("secateur.cli.sweep_work.extensions", [])  # those of other tests in this process
    monkeypatch.chdir(tmp_path)
    got = recorded(row, monkeypatch)
    with pytest.raises(Ended):
        pytest.fail(CliRunner().invoke(app.app, [command_of(title), *row.words.split()]).output)
    assert {name: got.get(name) for name in row.calls} == row.calls


@pytest.mark.parametrize("name", COMMANDS)
def test_a_row_gives_every_option_of_a_command_a_value_that_is_not_its_default(name):
    command, given = Commands()[name], set()
    for title, row in ROWS.items():
        if command_of(title) == name:
            values = command.make_context(name, row.words.split()).params
            given |= {one.name for one in command.params if values.get(one.name) != one.default}
    assert {one.name for one in command.params} - KEY_NAMES - {"as_json", "help"} <= given
