"""Vocabulary pruning: a model and its tokenizer with only the pieces that texts use.

Pieces are chosen by how often they occur (`counting`) and by what the tokenizer's algorithm needs (`algorithms`). Then
the tokenizer is rewritten (`tokenizer`, `content`), and the rows of the others are cut out of the model (`rows`).
`pruning` does all of it.
"""
