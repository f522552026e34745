"""The command of secateur, in which no process but the main one may load a model."""

import os

from transformers import PreTrainedModel

from secateur.cli import app


def refused(*args, **kwargs):
    raise AssertionError("this process loads a model")


if __name__ == "__main__":
    if os.environ["RANK"] != "0":
        PreTrainedModel.from_pretrained = refused
    app.main()
