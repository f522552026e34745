"""Which `AutoModelFor*` of transformers loads a model class, by the end of its name.

A saved folder contains this module (`shipped_code`). It imports nothing.
"""

from __future__ import annotations

AUTO_CLASSES = {
    "Model": "AutoModel",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
    "ForImageClassification": "AutoModelForImageClassification",
    "ForCausalLM": "AutoModelForCausalLM",
    "ForConditionalGeneration": "AutoModelForSeq2SeqLM",
    "MTModel": "AutoModelForSeq2SeqLM",
}
"""End of a model class's name -> the `AutoModelFor*` that loads it."""
MAPPINGS = {
    "AutoModel": "MODEL_MAPPING",
    "AutoModelForSequenceClassification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
    "AutoModelForTokenClassification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING",
    "AutoModelForQuestionAnswering": "MODEL_FOR_QUESTION_ANSWERING_MAPPING",
    "AutoModelForImageClassification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",
    "AutoModelForCausalLM": "MODEL_FOR_CAUSAL_LM_MAPPING",
    "AutoModelForSeq2SeqLM": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
}
"""`AutoModelFor*` -> the name in transformers of its table from a config's class to a model class."""


def auto_class(name: str) -> str:
    """The `AutoModelFor*` that loads a model class of this name.

    Raises:
        ValueError: none does.
    """
    return AUTO_CLASSES[head_in(name)]


def head_in(name: str) -> str:
    """The end of a class's name that says what its head is: a key of `AUTO_CLASSES`.

    Raises:
        ValueError: it is none of them.
    """
    for suffix in sorted(AUTO_CLASSES, key=len, reverse=True):
        if name.endswith(suffix):
            return suffix
    raise ValueError(f"no class of transformers for {', '.join(AUTO_CLASSES)} is named {name!r}")
