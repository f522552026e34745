"""Measurements of models: latency, memory, sensitivity, inspection and scores.

The package has the name of the public function `secateur.measure`, so it can be called as that function.
"""

from secateur.system.moved import make_callable

make_callable(__name__, f"{__name__}.bench:measure")
