"""Measurements of models: latency, memory, sensitivity, inspection and scores."""
