"""Sentence embeddings: what makes one vector of an encoder's states, and the folders of sentence-transformers."""
