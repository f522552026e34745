"""One file a family, data only. A new family is a new file here; see `secateur.architecture` for the words used."""
