"""A process without secateur that loads folders by their own code: a folder a line, the verdict on it a line.

`trusted_elsewhere.py KNOWN`: KNOWN holds the right state, inputs and logits. See `faults_world`.
"""

import json
import sys

if __name__ == "__main__":
    sys.modules["secateur"] = None  # as if it were not installed
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    import torch
    import transformers
    from safetensors.torch import load_file

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    known = load_file(sys.argv[1])
    wanted = {name.removeprefix("state."): value for name, value in known.items() if name.startswith("state.")}
    batch = {name.removeprefix("input."): value for name, value in known.items() if name.startswith("input.")}
    for line in sys.stdin:
        try:
            auto = transformers.AutoModelForSequenceClassification
            model = auto.from_pretrained(json.loads(line), trust_remote_code=True).eval()
        except Exception as refusal:  # of any kind: what is broken may be the code itself
            answer = "refused", str(refusal)
        else:
            state = model.state_dict()
            same = set(state) == set(wanted) and all(torch.equal(state[name], wanted[name]) for name in state)
            with torch.no_grad():
                close = torch.allclose(model(**batch).logits, known["logits"], atol=1e-6)
            answer = ("right" if same and close else "WRONG"), "another model"
        print(json.dumps(answer), file=answers, flush=True)
