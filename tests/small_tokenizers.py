"""Tokenizers of every algorithm and of several classes, trained on a few hundred made-up sentences."""

import copy
import json
import random
from functools import cache, partial

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertTokenizer,
    CamembertTokenizer,
    DebertaV2Tokenizer,
    MPNetTokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    T5Tokenizer,
    XLMRobertaTokenizer,
)

SYLLABLES = ("ba", "ne", "tiv", "o", "ru", "li", "sh", "mor", "é", "ku", "sta", "в", "да", "猫", "犬", "ß")


@cache
def sentences(seed=0, count=400):
    """Made-up sentences of 3 to 9 words; frequent words come from the beginning of the dictionary."""
    draw = random.Random(0)
    words = sorted({"".join(draw.choices(SYLLABLES, k=draw.randint(1, 5))) for _ in range(600)}, key=len)
    draw = random.Random(seed)

    def sentence():
        chosen = [words[int(len(words) * draw.random() ** 2)] for _ in range(draw.randint(3, 9))]
        return " ".join(chosen).capitalize() + draw.choice([".", "!", ", 12.", " 2024 😀"])

    return [sentence() for _ in range(count)]


def bert():
    vocab = {piece: n for n, piece in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_wordpieces()))}
    return BertTokenizer(vocab=vocab, model_max_length=128)


def mpnet():
    """Its special tokens are in two places, and `[UNK]` is not among the first."""
    vocab = {piece: n for n, piece in enumerate(("<s>", "<pad>", "</s>", *_wordpieces(), "[UNK]", "<mask>"))}
    return MPNetTokenizer(vocab=vocab)


@cache
def _wordpieces():
    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer, pieces.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    pieces.train_from_iterator(sentences(), trainers.WordPieceTrainer(vocab_size=500, show_progress=False))
    return sorted(pieces.get_vocab(), key=pieces.get_vocab().get)


def roberta():
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    pieces.train_from_iterator(sentences(), trainer)
    model = _model(pieces)
    vocab = {**model["vocab"], "<mask>": len(model["vocab"])}
    return RobertaTokenizer(vocab=vocab, merges=[tuple(merge) for merge in model["merges"]], model_max_length=64)


def t5():
    scores = _unigram(["<pad>", "</s>", "<unk>"])
    return T5Tokenizer(vocab=scores, extra_ids=3)


def xlm_roberta():
    return XLMRobertaTokenizer(vocab=[*_unigram(["<s>", "<pad>", "</s>", "<unk>"]), ("<mask>", 0.0)])


def camembert():
    """Its first pieces are those that SentencePiece has and the model does not use."""
    special = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"]
    return CamembertTokenizer(vocab=[*_unigram(special), ("<mask>", 0.0)])


def deberta_v2():
    return DebertaV2Tokenizer(vocab=[*_unigram(["[PAD]", "[CLS]", "[SEP]", "[UNK]"]), ("[MASK]", 0.0)])


def unigram_with_bytes():
    """An unknown character is split into its bytes."""
    scores = [*_unigram(["<pad>", "</s>", "<unk>"]), *((f"<0x{byte:02X}>", -20.0) for byte in range(256))]
    pieces = Tokenizer(models.Unigram(scores, unk_id=2, byte_fallback=True))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _fast(pieces, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def _unigram(special):
    pieces = Tokenizer(models.Unigram())
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    unknown = next(piece for piece in special if piece.lower().strip("<[]>") == "unk")
    trainer = trainers.UnigramTrainer(vocab_size=500, special_tokens=special, unk_token=unknown, show_progress=False)
    pieces.train_from_iterator(sentences(), trainer)
    return [(piece, score) for piece, score in _model(pieces)["vocab"]]


def bpe_of_characters():
    """As `make-model` makes them: unknown characters are unknown tokens, and a template adds special tokens."""
    pieces = Tokenizer(models.BPE(unk_token="<unk>"))
    pieces.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    pieces.decoder = decoders.Metaspace()
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    pieces.train_from_iterator(
        sentences(), trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    )
    pieces.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 3)]
    )
    return _fast(pieces, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def bpe_of_words_with_ends():
    """The last piece of a word is marked, a later one begins with a prefix, and special tokens come last."""
    marks = {"continuing_subword_prefix": "@@", "end_of_word_suffix": "</w>"}
    pieces = Tokenizer(models.BPE(unk_token="<unk>", **marks))
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.train_from_iterator(
        sentences(), trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>"], show_progress=False, **marks)
    )
    cut = _fast(pieces, unk_token="<unk>", pad_token="<pad>", cls_token="<cls>", sep_token="<sep>")
    ends = {token: (token, cut.convert_tokens_to_ids(token)) for token in ("<sep>", "<cls>")}
    cut.backend_tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(), processors.BertProcessing(ends["<sep>"], ends["<cls>"])]
    )
    return cut


def words():
    pieces = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces.train_from_iterator(sentences(), trainers.WordLevelTrainer(special_tokens=special, show_progress=False))
    pieces.post_processor = processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2))
    return _fast(pieces, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def _model(pieces):
    return json.loads(pieces.to_str())["model"]


def _fast(pieces, **special):
    return PreTrainedTokenizerFast(tokenizer_object=pieces, model_max_length=64, **special)


MAKERS = (
    bert,
    mpnet,
    roberta,
    t5,
    xlm_roberta,
    camembert,
    deberta_v2,
    unigram_with_bytes,
    bpe_of_characters,
    bpe_of_words_with_ends,
    words,
)


@cache
def _trained(maker):
    return maker()


def _fresh(maker):
    """A tokenizer of its own for each caller: a call with padding changes it."""
    return copy.deepcopy(_trained(maker))


KINDS = {maker.__name__: partial(_fresh, maker) for maker in MAKERS}
"""Name -> a function that returns the tokenizer."""
