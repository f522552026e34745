"""What a whole run needs, on disk and small: a model of two layers with its tokenizer, forty rows of data."""

import csv
import json

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import BertProcessing
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "fine", "bad", "good", "dull", "film", "book", "and"]
SHAPES = ((1, 8),)


def tokenizer(max_length=32, words=WORDS):
    pieces = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    pieces.pre_tokenizer = Whitespace()
    pieces.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces, model_max_length=max_length, model_input_names=names, **special
    )


def config(layers=2, **head):
    """A BERT of two layers for the tokenizer's words."""
    return BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        **head,
    )


def write_model(folder, labels=(), layers=2):
    """A random BERT with its tokenizer: a bare encoder, or a classifier of `labels`."""
    named = {"num_labels": len(labels), "id2label": dict(enumerate(labels))} if labels else {}
    torch.manual_seed(0)
    (BertForSequenceClassification if labels else BertModel)(config(layers, **named)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def write_data(path, label=lambda number: ("bad", "good")[number % 2], rows=40):
    """A csv of `rows` short texts of different lengths, whose words tell the label."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        for number in range(rows):
            words = [("dull", "fine")[number % 2], ("film", "book")[number % 3 % 2]] * (1 + number % 4)
            table.writerow([" and ".join(words), label(number)])
    return str(path)


def write_world(folder):
    """An encoder, a classifier and data.csv in a folder, which is returned."""
    write_model(folder / "encoder")
    write_model(folder / "classifier", ["bad", "good"])
    write_data(folder / "data.csv")
    return folder


def write_sentences(path, rows=40):
    """A jsonl of `rows` short sentences with the names of films and books in them, tagged in BIO."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            kind = ("film", "book")[number % 2]
            words = [*["a", "fine", "and"] * (number % 4), "good", kind, *["bad", "and"] * (number % 8 // 4)]
            tags = [f"{part}-{kind}" for part in "BI"]
            tags = ["O"] * words.index("good") + tags + ["O"] * (len(words) - words.index(kind) - 1)
            file.write(json.dumps({"tokens": words, "ner_tags": tags}) + "\n")
    return str(path)


def write_questions(path, rows=40, unanswerable=False):
    """A jsonl of `rows` questions after a word before "film" or "book", the context of some two windows at 24 tokens.

    With `unanswerable` every fourth asks for what the context does not have.
    """
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            kind, word = ("film", "book")[number % 2], ("fine", "good", "dull")[number % 3]
            front = ["a bad", "and"] * (number % 8)
            context = " ".join([*front, word, kind, *["and a bad book" if kind == "film" else "and a bad film"]])
            answer = {"text": [word], "answer_start": [context.index(word)]}
            if unanswerable and number % 4 == 3:
                context, answer = context.replace(f"{word} {kind}", "bad"), {"text": [], "answer_start": []}
            row = {"id": str(number), "question": f"a {kind}", "context": context, "answers": answer}
            file.write(json.dumps(row) + "\n")
    return str(path)


def write_pairs(path, rows=40, source="source", target="target"):
    """A jsonl of `rows` short texts of 1 to 8 words, and the same words in the other order."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            words = [WORDS[4 + (number * step + step) % 8] for step in range(1, 2 + number % 8)]
            file.write(json.dumps({source: " ".join(words), target: " ".join(reversed(words))}) + "\n")
    return str(path)


def recipe_values(model, data):
    """A recipe that runs in a second: 9 steps of a teacher, 16 of pruning, 20 of recovery."""
    return {
        "model": model,
        "data": data,
        "target.density": 0.3,
        "training.epochs": 4,
        "training.teacher_epochs": 1,
        "training.teacher_learning_rate": 5e-5,
        "training.learning_rate": 3e-4,
        "method.begin": 0.1,
        "method.end": 0.45,
        "training.batch_size": 4,
        "data.max_length": 24,
        "measurement.shapes": SHAPES,
        "measurement.repeats": 2,
        "training.bf16": False,
    }


ROUNDS = {
    "target.units": ["layer", "ffn", "qk", "vo"],
    "target.density": 0.2,
    "method.begin": 0.1,
    "method.end": 0.5,
    "training.decay": "round",
    "training.evaluations": 0,
}
"""What changes `recipe_values` to two rounds of 18 steps each."""
