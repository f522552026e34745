"""Multi-label classification: the forms of labels, sigmoids in loss and scores, and a whole run."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_world import config, recipe_values, tokenizer
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification, EvalPrediction, pipeline
from transformers.modeling_outputs import SequenceClassifierOutput

import secateur  # noqa: F401  # its models load by AutoModel
from secateur.run import pipeline as runs
from secateur.run import recipe
from secateur.system.errors import UserError
from secateur.tasks.classification import Classification
from secateur.tasks.multilabel import MultiLabel
from secateur.training.objectives import Logits
from secateur.training.step import Step

SETS = [["toxic", "threat"], [], ["obscene"], ["toxic"]]
TEXTS = ["a dull bad film", "a fine film", "a bad book", "a dull film"]


def write(folder, columns):
    rows = [{"text": TEXTS[i % 4], **{name: values[i % 4] for name, values in columns.items()}} for i in range(40)]
    for split, part in (("train", rows[:32]), ("validation", rows[32:])):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, part)))
    return str(folder)


def sets_of(task, rows=4):
    split = task.splits["train"]
    return [
        {task.labels[index] for index in row}
        for row in split["label" if "label" in split.column_names else "labels"][:rows]
    ]


@pytest.mark.parametrize(
    ("columns", "options"),
    [
        ({"label": SETS}, {}),
        ({"label": [[1.0, 0.0, 1.0], [0, 0, 0], [0, 1, 0], [1, 0, 0]]}, {"labels": ("toxic", "obscene", "threat")}),
        ({"label": [[0, 2], [], [1], [0]]}, {"labels": ("toxic", "obscene", "threat")}),
        (
            {"toxic": [1, 0, 0, 1], "obscene": [0, 0, 1, 0], "threat": [1, 0, 0, 0]},
            {"label": "toxic,obscene,threat"},
        ),
    ],
)
def test_the_labels_of_a_row_come_in_several_forms(tmp_path, columns, options):
    task = MultiLabel.from_data(write(tmp_path, columns), **options)
    assert sets_of(task) == [set(row) for row in SETS]
    assert task.head()["problem_type"] == "multi_label_classification"
    row = task.encode(task.splits["train"], tokenizer(), max_length=16)[0]
    assert row["labels"] == [float(name in SETS[0]) for name in task.labels]


def test_a_row_with_one_label_is_a_list_of_one(tmp_path):
    task = MultiLabel.from_data(write(tmp_path, {"label": ["a", "b", "a", "c"]}))
    assert task.splits["train"]["label"][:4] == [[0], [1], [0], [2]]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"label": [None, ["a"], ["b"], ["a"]]}, {}, "8 of the 32 rows of the train split lack a label"),
        ({"label": [["a"], ["a"], [], ["a"]]}, {}, "are all the same"),
        ({"label": [0.5, 0.25, 0.0, 1.0]}, {}, "are decimals"),
        ({"a": [0, 2, 1, 0], "b": [0, 1, 1, 0]}, {"label": "a,b"}, "column 'a' holds 2"),
        ({"a": [0, 1, 1, 0], "b": [1, 0, 1, 0]}, {"label": "a,b,a"}, "names a column twice"),
        ({"a": [0, 1, 1, 0], "b": [1, 0, 1, 0]}, {"label": "a,b", "labels": ("a", "b", "a")}, "has 'a' twice"),
        ({"label": [[0, 1], [1, 0], [1, 1], [0, 0]]}, {"labels": ("a", "a")}, "has 'a' twice"),
        ({"label": SETS}, {"metric": "accuracy"}, "micro_f1, macro_f1, subset_accuracy"),
    ],
)
def test_unsuitable_labels_are_refused(tmp_path, columns, options, message):
    with pytest.raises(UserError, match=message):
        MultiLabel.from_data(write(tmp_path, columns), **options)


def csv(folder, cells, column="label"):
    rows = [f'"{TEXTS[i % 4]}","{cells[i % len(cells)]}"' for i in range(40)]
    (folder / "rows.csv").write_text(f"text,{column}\n" + "\n".join(rows))
    return str(folder / "rows.csv")


@pytest.mark.parametrize(
    ("cells", "options"),
    [
        (["toxic|threat", "[]", "obscene", "toxic"], {}),
        (["toxic; threat", "[]", "obscene", "toxic"], {}),
        (["toxic, threat", "[]", "obscene", "toxic"], {}),
        (["['toxic', 'threat']", "[]", "['obscene']", "['toxic']"], {}),
        (["[''toxic'', ''threat'']".replace("''", '""'), "[ ]", '[""obscene""]', "toxic"], {}),
        (["[1, 0, 1]", "[0, 0, 0]", "[0,1,0]", "[1, 0, 0]"], {"labels": ("toxic", "obscene", "threat")}),
        (["1|0|1", "0|0|0", "0|1|0", "1|0|0"], {"labels": ("toxic", "obscene", "threat")}),
        (["0,2", "[]", "1", "0"], {"labels": ("toxic", "obscene", "threat")}),
    ],
)
def test_several_labels_in_a_cell_are_read(tmp_path, cells, options):
    task = MultiLabel.from_data(csv(tmp_path, cells), **options)
    assert {*map(frozenset, sets_of(task, rows=36))} == {*map(frozenset, SETS)}
    assert {*task.labels} == {"toxic", "obscene", "threat"}


def test_a_separator_in_a_label_is_no_separator(tmp_path):
    single = ["Arts, crafts", "Sport", "Arts, crafts", "Food, wine"]
    with pytest.raises(UserError, match=r"contain ',', which may .* write those of a row as \['a', 'b'\] or a\|b"):
        MultiLabel.from_data(csv(tmp_path, single))
    named = ("Arts, crafts", "Food, wine", "Sport")
    assert sets_of(MultiLabel.from_data(csv(tmp_path, single), labels=named)) != []
    assert MultiLabel.from_data(csv(tmp_path, single), labels=named).labels == named
    assert MultiLabel.from_data(csv(tmp_path, ["Arts, crafts|Sport", "Sport"])).labels == ("Arts, crafts", "Sport")
    few = MultiLabel.from_data(csv(tmp_path, ["a,b", "c"]), labels=("a", "b", "c"))
    assert {len(row) for row in few.splits["train"]["label"]} == {1, 2}


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["['a' 'b']", "['a']"], r"holds \"\['a' 'b'\]\", which is no list of labels: write \['a', 'b'\] or a\|b"),
        (["[a, b]", "[a]"], r"'\[a, b\]', which is no list"),
        (["[007]", "[1, 2]"], r"'\[007\]', which is no list"),
        ([r"['a\x1']", "['a']"], "which is no list"),
        (["a|b", ""], "lack a label"),
        (["a", "", "b"], "lack a label"),
    ],
)
def test_cells_that_hold_no_labels_are_refused(tmp_path, cells, message):
    with pytest.raises(UserError, match=message):
        MultiLabel.from_data(csv(tmp_path, cells))


def test_lists_in_cells_are_no_classes(tmp_path):
    with pytest.raises(UserError, match="are lists: take --task multilabel"):
        Classification.from_data(csv(tmp_path, ["['a', 'b']", "['a']", "[]"]))


def head(problem_type):
    names = dict(enumerate(("obscene", "threat", "toxic")))
    model = BertForSequenceClassification(config(id2label=names, label2id={}, problem_type=problem_type))
    model.config.architectures = ["BertForSequenceClassification"]
    return model


def test_one_label_a_row_and_several_are_not_confused(tmp_path):
    task = MultiLabel.from_data(write(tmp_path, {"label": SETS}))
    assert task.fitted(head("multi_label_classification"), "model").labels == ("obscene", "threat", "toxic")
    with pytest.raises(UserError, match="--task classification"):
        task.fitted(head("single_label_classification"), "model")
    with pytest.raises(UserError, match="take --task multilabel for several labels a row"):
        Classification.from_data(write(tmp_path, {"label": SETS}))
    single = Classification.from_data(write(tmp_path, {"label": ["toxic", "threat", "obscene", "toxic"]}))
    with pytest.raises(UserError, match=r"the model predicts several labels a row .*--task multilabel"):
        single.fitted(head("multi_label_classification"), "model")


def test_scores_and_their_baseline(tmp_path):
    task = MultiLabel.from_data(write(tmp_path, {"label": SETS}))
    gold = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 1]], float)
    found = task.compute_metrics(
        EvalPrediction(np.where([[1, 0, 1], [0, 0, 0], [0, 0, 0], [0, 1, 1]], 2.0, -2.0), gold)
    )
    assert found == pytest.approx({"micro_f1": 0.75, "macro_f1": 2 / 3, "subset_accuracy": 0.5})
    assert task.baseline([{"labels": row} for row in gold.tolist()]) == 0.5


@pytest.mark.parametrize(("metric", "expected"), [("subset_accuracy", 0.4), ("micro_f1", 34 / 57)])
def test_the_baseline_of_whole_sets_is_the_commonest_set(tmp_path, metric, expected):
    task = replace(MultiLabel.from_data(write(tmp_path, {"label": SETS})), metric=metric)
    gold = [[0.0, 1.0, 1.0, 0.0]] * 4 + [[1.0, 0.0, 0.0, 0.0]] * 3 + [[1.0, 0.0, 0.0, 1.0]] * 3
    assert task.baseline([{"labels": row} for row in gold]) == pytest.approx(expected)


def test_sigmoids_are_distilled():
    term = Logits(temperature=2.0, divergence=True)
    model = head("multi_label_classification")
    term.bind(model, model)
    logits = torch.tensor([[4.0, -4.0, 0.0]])

    def value(student):
        return float(term(Step({}, SequenceClassifierOutput(logits=student), SequenceClassifierOutput(logits=logits))))

    assert value(logits) == pytest.approx(0.0, abs=1e-6)
    assert value(logits + 1) > 1e-3  # a softmax is blind to a shift of all logits


def test_a_run_keeps_the_kind_of_the_model(tmp_path):
    data = write(tmp_path, {"label": SETS})
    model = head("multi_label_classification")
    model.save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    own = {"data.task": "multilabel", "training.epochs": 1, "distillation.labels_weight": 0.5}
    report = runs.run(recipe.make(recipe_values(str(tmp_path / "model"), data) | own), tmp_path / "run")
    assert report.metric == "micro_f1"
    small = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert small.config.problem_type == "multi_label_classification"


def test_a_re_ranker_keeps_its_sigmoid(tmp_path):
    rows = [{"text": TEXTS[i % 4], "label": [0.02, 0.97][i % 2]} for i in range(24)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    BertForSequenceClassification(config(num_labels=1)).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    values = recipe_values(str(tmp_path / "model"), str(tmp_path / "data.jsonl")) | {"training.epochs": 1}
    runs.run(recipe.make(values), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text()).get("problem_type") is None
    scored = pipeline("text-classification", model=str(tmp_path / "run" / "model"))("a fine film")
    assert 0 < scored[0]["score"] < 1
