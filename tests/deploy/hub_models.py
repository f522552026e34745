"""Small models with tokenizers, as they are exported for servers."""

import torch
from small_world import WORDS, config, tokenizer
from tiny_models import random_masks
from transformers import BertForSequenceClassification, BertModel

from secateur.budget.space import Space
from secateur.structure.plan import Plan
from secateur.surgery.cut import cut
from secateur.surgery.sentence.attach import attach_head
from secateur.surgery.sentence.head import Dense, SentenceHead, Settings

LONGEST = 9
"""Tokens of the longest text for embeddings; the model has 32 positions."""
TEXTS = ["a fine film", "a bad and dull book", "", "GOOD", " ".join(["good", "film", "and", "bad"] * 5)]
"""Of different lengths, one too long, one in capitals."""
SETTINGS = Settings({"query": "a ", "passage": ""}, "query", "cosine", LONGEST, lower_case=True)


def heavy(model):
    """The model with weights that are as large as those of a trained one, cut to layers that differ."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight") and "LayerNorm" not in name:
                parameter.normal_(0.0, 0.4)
    return model.eval()


def cut_of(model):
    space = Space(model, "hidden", "head", "ffn", "vo")
    return cut(model, Plan.of(space, random_masks(space, 0.7)))


def embedding_model():
    """An encoder with layers that differ, whose head pools, maps to 6 dims and normalises."""
    head = SentenceHead(["mean"], [Dense(16, 6, True, torch.nn.Tanh())], width=16, settings=SETTINGS)
    return cut_of(attach_head(heavy(BertModel(config())), head))


def reranker():
    """A sequence classifier with one output."""
    return heavy(BertForSequenceClassification(config(num_labels=1)))


def classifier():
    return cut_of(heavy(BertForSequenceClassification(config(id2label={0: "bad", 1: "good"}))))


def vectors_of(model, words, texts, lower=True):
    """What PyTorch computes, `(texts, size)`."""
    texts = [text.lower() for text in texts] if lower else texts
    batch = words(texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
    with torch.no_grad():
        return model(**batch)[0]


def own_tokenizer():
    """A tokenizer whose files name other lengths, as those of all-MiniLM-L6-v2 do."""
    words = tokenizer(32, WORDS)
    words.init_kwargs["max_length"] = 4
    words.backend_tokenizer.enable_truncation(5)
    words.backend_tokenizer.enable_padding(length=31)
    return words
