"""Run an exported folder where neither secateur nor torch is installed: texts in, vectors out, as JSON.

    python -I serve.py fastembed FOLDER FILE SIZE < texts.json

`test_served.py` calls it in the environment of `serving.txt`.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path


def by_fastembed(folder, file, size, texts):
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    TextEmbedding.add_custom_model(
        model="our/model",
        sources=ModelSource(hf="our/model"),
        model_file=file,
        dim=size,
        pooling=PoolingType.DISABLED,
        normalization=False,
        output_name="sentence_embedding",
    )
    return TextEmbedding("our/model", specific_model_path=folder).embed(texts)


def by_reranker(folder, file, size, texts):
    from fastembed.common.model_description import ModelSource
    from fastembed.rerank.cross_encoder import TextCrossEncoder

    TextCrossEncoder.add_custom_model(model="our/model", sources=ModelSource(hf="our/model"), model_file=file)
    scores = TextCrossEncoder("our/model", specific_model_path=folder).rerank(texts[0], texts[1:])
    return [[score] for score in scores]


def by_onnxruntime(folder, file, size, texts):
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    rows = Tokenizer.from_file(str(Path(folder, "tokenizer.json"))).encode_batch(texts)
    given = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    session = onnxruntime.InferenceSession(Path(folder, file))
    inputs = {port.name: np.array([getattr(row, given[port.name]) for row in rows]) for port in session.get_inputs()}
    return session.run(None, inputs)[0]


RUNS = {"fastembed": by_fastembed, "reranker": by_reranker, "onnxruntime": by_onnxruntime}

if __name__ == "__main__":
    name, folder, file, size = sys.argv[1:]
    vectors = [list(map(float, vector)) for vector in RUNS[name](folder, file, int(size), json.load(sys.stdin))]
    absent = [package for package in ("secateur", "torch", "transformers") if find_spec(package) is None]
    print(json.dumps({"vectors": vectors, "absent": absent}))
