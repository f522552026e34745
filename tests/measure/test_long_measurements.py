"""The deprecated argument `say`, by which version 0.1.0 reported progress."""

import logging

import pytest

import secateur as sec
from secateur.measure import deprecated_say
from secateur.measure.deprecated_say import accepts_say

LOG = logging.getLogger("secateur.measure.something")


@accepts_say
def work(count):
    """Log each of `count` steps."""
    for number in range(count):
        LOG.info("step %d", number)
    if not count:
        raise ValueError("nothing to do")
    return count


def test_say_is_deprecated_and_called_with_each_line():
    lines = []
    with pytest.warns(DeprecationWarning, match=r"work\(say=...\) is deprecated: add a handler .* 'secateur.measure'"):
        assert work(2, say=lines.append) == 2
    assert lines == ["step 0", "step 1"]


@pytest.mark.parametrize("count", [0, 1])
def test_the_logger_is_restored_also_after_an_error(count):
    logger = logging.getLogger(deprecated_say.LOGGER)
    before = list(logger.handlers), logger.level
    with pytest.warns(DeprecationWarning):
        try:
            work(count, say=print)
        except ValueError:
            assert count == 0
    assert (list(logger.handlers), logger.level) == before


@pytest.mark.parametrize("function", [sec.benchmark, sec.sensitivity])
def test_public_functions_of_0_1_0_accept_it(function):
    with pytest.warns(DeprecationWarning, match="say"), pytest.raises(TypeError):
        function(say=print)
