"""Intervals over units of text: how often they err, what they find, and when there is none."""

import numpy as np
import pytest
from scipy import stats

from bdh.intervals import FEWEST_UNITS, ratio_interval, too_few


def test_bootstrap_of_equal_units_is_about_students_t():
    values = np.random.default_rng(0).standard_normal(12)
    low, high = ratio_interval(values, np.ones(12), resamplings=20_000)
    known = stats.ttest_1samp(values, 0.0).confidence_interval()
    assert (low, high) == pytest.approx((known.low, known.high), abs=0.06 * (known.high - known.low))


@pytest.mark.parametrize("units", [8, 14, 40])
def test_bootstrap_errs_no_more_than_its_level_and_finds_what_is_planted(units):
    """Documents of unequal length; plain percentiles would err 9 % of the time with 8 of them."""
    random = np.random.default_rng(units)
    wrong = found = 0
    for _ in range(600):
        size = random.integers(500, 4000, units).astype(float)
        noise = random.standard_normal(units) * size
        low, high = ratio_interval(noise, size, resamplings=400)
        wrong += low > 0 or high < 0
        low, high = ratio_interval(noise - 3.0 * size, size, resamplings=400)
        found += high < 0
    assert wrong <= 46, "5 % of 600 are due, 47 would come up once in 500"
    assert found >= 590


def test_bootstrap_of_few_units_is_not_measurable():
    values = np.arange(FEWEST_UNITS - 1.0)
    assert ratio_interval(values, np.ones(values.size), resamplings=100) == (None, None)
    assert "7; the paired bootstrap takes 8 or more" in too_few(values.size, "document")
    assert too_few(FEWEST_UNITS, "document") is None


def test_bootstrap_is_the_same_again_and_exact_without_chance():
    size = np.array([3.0, 5.0, 2.0, 7.0, 1.0, 4.0, 6.0, 8.0])
    assert ratio_interval(0.25 * size, size, resamplings=200) == pytest.approx((0.25, 0.25))
    noise = np.random.default_rng(1).standard_normal(8)
    assert ratio_interval(noise, size, resamplings=200) == ratio_interval(noise, size, resamplings=200)
