"""Options of tasks have the types that their tasks state, which is seen before data are read."""

import pytest
from small_world import WORDS, tokenizer, write_pairs
from transformers import LlamaConfig, LlamaForCausalLM

from secateur.system.errors import UserError
from secateur.tasks import TASKS
from secateur.tasks.generation import BeamSearch
from secateur.tasks.option_values import check_options
from secateur.tasks.predictors import Asked
from secateur.tasks.task import open_task


@pytest.mark.parametrize(
    ("task", "name", "value", "said"),
    [
        ("translation", "beams", "five", "beams is 'five': give a whole number"),
        ("translation", "beams", 2.5, "beams is 2.5: give a whole number"),
        ("translation", "beams", True, "beams is True: give a whole number"),
        ("summarisation", "length_penalty", "high", "length_penalty is 'high': give a finite number"),
        ("summarisation", "length_penalty", float("nan"), "length_penalty is nan: give a finite number"),
        ("translation", "max_target_length", "x", "max_target_length is 'x': give a whole number or null"),
        ("translation", "prefix", 5, "prefix is 5: give a text"),
        ("translation", "fine_tuned", "maybe", "fine_tuned is 'maybe': give true or false"),
        ("classification", "scores", "maybe", "scores is 'maybe': give true or false"),
        ("embedding", "pairs", "maybe", "pairs is 'maybe': give true or false or null"),
        ("embedding", "query_prompt", 5, "query_prompt is 5: give a text or null"),
        ("reranking", "reference", ["a"], r"reference is \['a'\]: give a text or null"),
        ("images", "image", 3, "image is 3: give a text or null"),
    ],
)
def test_an_option_of_another_type_is_refused_before_data_are_read(task, name, value, said):
    with pytest.raises(UserError, match=said):
        open_task(task, "nowhere.jsonl", {name: value})


def test_options_of_their_types_are_taken(tmp_path):
    data = write_pairs(tmp_path / "pairs.jsonl")
    options = {"beams": 2, "length_penalty": 0, "max_new_tokens": None, "prefix": "to German: ", "fine_tuned": False}
    task = open_task("translation", data, options)
    assert (task.search, task.prefix, task.fine_tuned) == (BeamSearch(2, 0, None), "to German: ", False)


def test_types_that_are_no_single_values_are_the_business_of_a_task_of_ones_own():
    def from_data(*, names: list[str], untyped, count: "int | None"): ...

    check_options({"names": 3, "untyped": "x", "count": None}, from_data)
    with pytest.raises(UserError, match="count is 'x'"):
        check_options({"count": "x"}, from_data)

    def unknown(*, count: "Missing"): ...  # noqa: F821

    check_options({"count": "x"}, unknown)


@pytest.mark.parametrize(("name", "value"), [("beams", 1.5), ("length_penalty", "x"), ("max_new_tokens", "x")])
def test_a_search_from_python_has_numbers(name, value):
    with pytest.raises(UserError, match=f"{name} is {value!r}: give"):
        BeamSearch(**{name: value})


@pytest.mark.parametrize(
    ("task", "name", "value"),
    [("language", "max_new_tokens", "x"), ("questions", "nothing", "maybe"), ("summarisation", "beams", "five")],
)
def test_a_prediction_has_options_of_their_types(task, name, value):
    predictor = TASKS.get(task).predictor
    with pytest.raises(UserError, match=f"{name} is {value!r}: give "):
        predictor.check_options({name: value}, task)
    with pytest.raises(UserError, match=rf"a prediction of the task {task!r} has no option 'x': it has .*{name}"):
        predictor.check_options({"x": 1}, task)


def test_a_continuation_has_a_token_at_least():
    sizes = {"vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2)).eval()
    with pytest.raises(UserError, match="max_new_tokens is 0: give at least 1"):
        TASKS.get("language").predictor(Asked(model, tokenizer(), 8, {"max_new_tokens": 0}), [["a film"]])
