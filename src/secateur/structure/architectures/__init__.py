"""One file a family, data only. A new family is a new file here; see `secateur.structure.architecture` for the words used."""
