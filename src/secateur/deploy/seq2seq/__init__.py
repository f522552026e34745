"""Encoder-decoders in other runtimes: two files, one of the encoder and one of a step of the decoder with its cache."""
