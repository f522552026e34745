"""Masks on a model, cutting it, and compact models in memory and on disk."""
