"""Measurements of models: latency, memory, sensitivity, inspection and scores.

The package has the name of the public function `secateur.measure`, so it can be called as that function.
"""

from secateur.system.moved import make_callable

The package has the name of the public function `secateur.measure`, so it can be called as that function.
