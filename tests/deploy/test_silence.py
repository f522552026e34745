"""What the code around exporters, quantisers and compilers suppresses, and what it lets pass."""

import logging
import warnings

import pytest

from secateur.deploy.silence import ADVICE, silence


def test_progress_bars_and_warnings_for_developers_are_suppressed(capsys, caplog):
    with silence():
        print("50% done")
        warnings.warn("an internal name is old", DeprecationWarning, stacklevel=1)
        logging.warning("Please consider to run pre-processing before quantization. Refer to a page.")
        logging.warning("Please consider pre-processing before quantization. See a page.")
        logging.warning("Bias of Gemm node 'pooler/Gemm' is not constant. Please exclude this node.")
    assert capsys.readouterr().out == "" and caplog.messages == []


def test_other_warnings_pass(caplog):
    with pytest.warns(UserWarning, match="the range is empty"), silence():
        warnings.warn("the range is empty", UserWarning, stacklevel=1)
        logging.getLogger("nncf").warning("a layer was left out")
    assert caplog.messages == ["a layer was left out"]


def test_nothing_is_suppressed_afterwards(caplog):
    with pytest.raises(RuntimeError), silence():
        raise RuntimeError
    logging.warning(ADVICE[0])
    assert caplog.messages == [ADVICE[0]]
