"""Vocabulary pruning: a model and its tokenizer with only the pieces that texts use.

The rows of word embeddings are chosen by a count, `counting`, and by what the algorithm of the tokenizer needs,
`algorithms`. The tokenizer is rewritten by `tokenizer`.
"""
