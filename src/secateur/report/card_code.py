"""The code in a model card: how the model is loaded, and how it is run on an input of one's own."""

from __future__ import annotations

import json

from secateur.deploy.card_metadata import RANKING, Kind

IMPORT = "import secateur  # installed from its repository"
"""How secateur is imported, and where it comes from, which is right before a release and after it."""
LOADING = """\
```python
{imported}

model = secateur.load("{folder}")
```

```python
import secateur
from transformers import {auto}

model = {auto}.from_pretrained("{folder}")
```

Without secateur installed, by the code in the folder (read `modeling_secateur.py` first):

```python
from transformers import {auto}

model = {auto}.from_pretrained("{folder}", trust_remote_code=True)
```
"""
BY_SENTENCE_TRANSFORMERS = """\
```python
{imported}

model = secateur.load("{folder}")
```

Without secateur, sentence-transformers loads it with the code in the folder (read `modeling_secateur.py` first).
"""
PIPELINE = """\
```python
import secateur  # or trust_remote_code=True below, without secateur
from transformers import pipeline

model = pipeline("{task}", model="{folder}")
print(model({given}))
```
"""
PAIR = '{"text": "A text of the kind that it was trained on.", "text_pair": "The other text of the pair."}'
PIPELINES = {
    "text-classification": "A text of the kind that it was trained on.",
    "token-classification": "Marie Curie was born in Warsaw.",
    "text-generation": "The beginning of a text",
    "image-classification": "picture.png",
}
"""Task on the hub that transformers has a pipeline for -> an input of it."""
BY_LOADER = """\
```python
from sentence_transformers import {loader}

model = {loader}("{folder}", trust_remote_code=True)
print({call})
```
"""
CALLS = {
    "SentenceTransformer": 'model.encode(["a text", "another text"]).shape',
    "CrossEncoder": 'model.predict([("a question", "a passage that may answer it")])',
}
"""Class of sentence-transformers -> a call of it."""
GENERATOR = "AutoModelForSeq2SeqLM"
"""The head whose card shows how to generate text."""
GENERATION = """\
To generate text (version 5 of transformers has no pipeline for it), with the model loaded as above:

```python
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
inputs = tokenizer([{text!r}], return_tensors="pt", padding=True)
print(tokenizer.batch_decode(model.generate(**inputs, num_beams=5), skip_special_tokens=True))
```
"""


def loading(folder: str, auto: str, kind: Kind) -> str:
    """How to load a model, in Markdown.

    Args:
        folder: its name on the hub, or the path that is shown.
        auto: the class of transformers that loads it.
    """
    if kind.library == "sentence-transformers":
        return BY_SENTENCE_TRANSFORMERS.format(imported=IMPORT, folder=folder).rstrip()
    return LOADING.format(imported=IMPORT, folder=folder, auto=auto).rstrip()


def running(folder: str, auto: str, kind: Kind, prefix: str = "", pairs: bool = False) -> str:
    """How to run a model on an input, in Markdown; empty for one that transformers has no short way for.

    Args:
        prefix: of every text, of a model that generates.
        pairs: whether a class is one of a pair of texts.
    """
    if kind.library == "sentence-transformers":
        loader = "CrossEncoder" if kind.task == RANKING else "SentenceTransformer"
        return BY_LOADER.format(folder=folder, loader=loader, call=CALLS[loader]).rstrip()
    if auto == GENERATOR:
        return GENERATION.format(folder=folder, text=f"{prefix}a text").rstrip()
    if kind.task in PIPELINES:
        given = PAIR if pairs else json.dumps(PIPELINES[kind.task])
        return PIPELINE.format(task=kind.task, folder=folder, given=given).rstrip()
    return ""
