"""The architectures: one file a family, data only; the words are those of `secateur.structure.architecture`."""
