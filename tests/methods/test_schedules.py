"""Schedules: the published cubic, and the laws of every curve."""

import math
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.methods.schedules import Schedule, constant, cubic, exponential, linear
from secateur.system.errors import UserError

MOVING = [linear, cubic, exponential]
fractions = st.floats(0.0, 1.0)
values = st.floats(1e-6, 1e6)


@pytest.mark.parametrize(
    ("step", "density"),
    [
        (0, 1.0),
        (200, 1.0),
        (201, 0.98582113125),
        (250, 0.45078125),
        (300, 0.16875),
        (350, 0.06484375),
        (399, 0.05000011875),
        (400, 0.05),
        (1000, 0.05),
    ],
)
def test_golden_g3_grain_density(step, density):
    assert cubic(1.0, 0.05, begin=0.2, end=0.4)(step / 1000) == pytest.approx(density, abs=1e-11)


@pytest.mark.parametrize("factory", MOVING)
@settings(deadline=None)
@given(
    start=values,
    stop=values,
    window=st.tuples(fractions, fractions),
    progress=st.tuples(fractions, fractions),
)
def test_bounded_monotone_and_exact_at_the_ends(factory, start, stop, window, progress):
    begin, end = sorted(window)
    schedule = factory(start, stop, begin=begin, end=end)
    earlier, later = (schedule(p) for p in sorted(progress))
    assert min(start, stop) <= earlier <= max(start, stop)
    direction = math.copysign(1.0, stop - start)
    assert direction * (later - earlier) >= -1e-12 * max(start, stop)
    assert schedule(begin) == start
    assert schedule(1.0) == (stop if begin < 1.0 else start)


@settings(deadline=None)
@given(value=st.floats(-1e6, 1e6), progress=fractions)
def test_constant_is_constant(value, progress):
    assert constant(value)(progress) == value


@pytest.mark.parametrize(("factory", "middle"), [(linear, 0.505), (cubic, 0.13375), (exponential, 0.1)])
def test_middle_of_the_way(factory, middle):
    assert factory(1.0, 0.01, begin=0.2, end=0.6)(0.4) == pytest.approx(middle, rel=1e-12)


def test_an_empty_window_is_a_jump():
    jump = linear(1.0, 0.5, begin=0.3, end=0.3)
    assert (jump(0.3), jump(0.3001)) == (1.0, 0.5)


def test_outside_the_run_the_ends_hold():
    assert (cubic(1.0, 0.5)(-0.1), cubic(1.0, 0.5)(1.1)) == (1.0, 0.5)


def test_attributes_round_trip():
    schedule = cubic(1.0, 0.05, begin=0.2, end=0.4)
    assert (schedule.start, schedule.stop, schedule.begin, schedule.end) == (1.0, 0.05, 0.2, 0.4)
    assert Schedule(**asdict(schedule)) == schedule


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: cubic(1.0, 0.1, begin=0.5, end=0.4), "begin=0.5 and end=0.4"),
        (lambda: linear(1.0, 0.1, begin=-0.1), "0 <= begin"),
        (lambda: linear(1.0, 0.1, end=1.5), "end <= 1"),
        (lambda: linear(1.0, 0.1, begin=math.nan), "0 <= begin"),
        (lambda: cubic(math.nan, 0.1), "finite start"),
        (lambda: constant(math.inf), "finite start"),
        (lambda: exponential(1.0, 0.0), "above 0"),
        (lambda: Schedule("square", 1.0, 0.1), "'square'"),
    ],
)
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(UserError, match=message):
        build()


@pytest.mark.parametrize("name", ["start", "stop", "begin", "end"])
def test_a_schedule_of_what_is_no_number_is_refused(name):
    with pytest.raises(UserError, match=f"expected a number as {name}, got '0.5'"):
        Schedule(**{"curve": "linear", "start": 1.0, "stop": 0.5, name: "0.5"})
