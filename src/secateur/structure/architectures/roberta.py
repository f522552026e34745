"""RoBERTa (Liu et al., 2019): BERT's encoder with another head for sequence classification.

Covers `RobertaModel` and its classes for sequence classification, token classification and question answering. The
head for sequences has two layers, and reads the first token instead of a pooler.
"""

from dataclasses import replace

from secateur.structure.architecture import Linear
from secateur.structure.architectures import register
from secateur.structure.architectures.bert import ARCHITECTURE as BERT

HEADS = {
    "Model": (),
    "ForSequenceClassification": (
        Linear("classifier.dense", None, "hidden"),
        Linear("classifier.out_proj", None, None),
    ),
    "ForTokenClassification": (Linear("classifier", None, "hidden"),),
    "ForQuestionAnswering": (Linear("qa_outputs", None, "hidden"),),
}
"""The heads of RoBERTa, which ELECTRA and MPNet share."""

ARCHITECTURE = replace(BERT, model_type="roberta", heads=HEADS, counts_from_padding=True)
register(ARCHITECTURE)
