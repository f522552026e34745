"""The tables of `AutoModelFor*`: stock classes, registered classes, and the classes derived from either."""

import pytest
from transformers import AutoModelForSequenceClassification as Auto
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, MarianConfig
from transformers.models.auto import modeling_auto

from secateur.system.compat.auto_classes import DerivedClasses, derive_classes, stock_class

TABLE = "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING"


def derived(stock):
    return type(f"Derived{stock.__name__}", (stock,), {})


@pytest.fixture
def table(monkeypatch):
    """The table of an auto class, without what the package has done to it."""
    found = getattr(modeling_auto, TABLE)
    monkeypatch.setattr(found, "_extra_content", {})
    return found


def test_the_stock_class_of_a_config_is_found(table):
    assert stock_class(Auto, BertConfig) is BertForSequenceClassification
    with pytest.raises(KeyError):
        stock_class(Auto, MarianConfig)


def test_a_class_is_derived_when_it_is_looked_up(table):
    derive_classes(Auto.__name__, lambda kind: kind == "bert", derived)
    assert BertConfig in table and table[BertConfig].__name__ == "DerivedBertForSequenceClassification"
    assert stock_class(Auto, BertConfig) is BertForSequenceClassification
    assert not table[GPT2Config].__name__.startswith("Derived")
    assert MarianConfig not in table and table.get(MarianConfig, None) is None


def test_a_class_of_the_users_is_derived_too(table):
    class Mine(BertForSequenceClassification):
        pass

    derive_classes(Auto.__name__, lambda kind: kind == "bert", derived)
    Auto.register(BertConfig, Mine, exist_ok=True)
    assert stock_class(Auto, BertConfig) is Mine
    assert issubclass(table[BertConfig], Mine) and table[BertConfig] is not Mine


def test_a_table_is_changed_once(table):
    derive_classes(Auto.__name__, lambda kind: True, derived)
    first = table._extra_content
    derive_classes(Auto.__name__, lambda kind: False, derived)
    assert table._extra_content is first and isinstance(first, DerivedClasses)


def test_what_is_no_config_is_in_no_table(table):
    derive_classes(Auto.__name__, lambda kind: True, derived)
    assert "bert" not in table and None not in table
