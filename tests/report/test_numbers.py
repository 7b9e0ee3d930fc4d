"""Values, spreads, intervals and verdicts: the arithmetic below every table."""

import math
import re
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from bdh.project.errors import RunError
from bdh.report import formats
from bdh.report.data import spread
from bdh.report.data import spread as verdicts
from bdh.report.data.inputs import flatten, read_values
from bdh.report.plots.figure import Curve, Panel, draw_panel, spread_apart, tick_label


def test_values_reads_nested_and_slashed_keys_alike(tmp_path):
    nested, slashed = tmp_path / "a.json", tmp_path / "b.json"
    nested.write_text('{"validation": {"bits_per_byte": 1.5}, "density": {"x_sparse": {"mean": 0.1, "layers": [0.1]}}}')
    slashed.write_text('{"validation/bits_per_byte": 1.5}')
    assert read_values(nested).number("validation/bits_per_byte") == 1.5
    assert read_values(slashed).number("validation/bits_per_byte") == 1.5
    assert read_values(nested).children("density") == ["x_sparse"]
    assert read_values(nested).values["density/x_sparse/layers"] == [0.1]
    assert flatten({"a": {}}) == {}


def test_values_absent_is_empty_and_null_is_none(tmp_path):
    values = read_values(tmp_path / "none.json")
    assert not values
    assert values.number("x") is None
    (tmp_path / "null.json").write_text('{"x": null}')
    assert read_values(tmp_path / "null.json").number("x") is None


@pytest.mark.parametrize("text", ["{", "[1]", "{}", '"a"', "\x00", '{"a": NaN', ""])
def test_values_damaged_names_the_file(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(RunError, match=r"a\.json is damaged"):
        read_values(path)


@pytest.mark.parametrize("value", ['"1.5"', "true", "[1]", "NaN", "Infinity"])
def test_values_wrong_type_names_file_and_key(tmp_path, value):
    path = tmp_path / "a.json"
    path.write_text(f'{{"x": {value}}}')
    with pytest.raises(RunError, match=r"a\.json is damaged \(x is "):
        read_values(path).number("x")


def test_spread_over_seeds_equals_numpy():
    values = [1.0, 1.5, 4.0, None]
    found = spread.over_seeds(values)
    assert found is not None
    assert (found.mean, found.n) == (pytest.approx(np.mean(values[:3])), 3)
    assert found.sd == pytest.approx(np.std(values[:3], ddof=1))
    assert spread.over_seeds([2.0]) == spread.Spread(2.0, None, 1)
    assert spread.over_seeds([None]) is None


def test_seed_difference_equals_scipy_welch():
    a, b = [1.0, 1.2, 1.1, 1.4], [1.5, 1.45, 1.7]
    found = spread.seed_difference(spread.over_seeds(a), spread.over_seeds(b))
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert found.excludes_zero
    one = spread.seed_difference(spread.Spread(1.0, None, 1), spread.Spread(2.0, 0.1, 3))
    assert (one.value, one.low, one.high, one.excludes_zero) == (-1.0, None, None, False)


@given(st.floats(0.3, 500.0), st.floats(-40.0, 40.0))
def test_student_quantile_and_p_are_what_they_were(freedom, t):
    """They came from these special functions before `scipy.stats`; a number of the report may not move."""
    assert spread.t_quantile(freedom) == pytest.approx(float(special.stdtrit(freedom, 0.975)), rel=1e-12)
    assert spread.t_chance(t, freedom) == pytest.approx(2 * float(special.stdtr(freedom, -abs(t))), rel=1e-12, abs=0)


def documents(bits: np.ndarray, size: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(
        {"kind": "document", "id": np.arange(len(bits)), "nats": bits * size * math.log(2), "bytes": size}
    )


@pytest.mark.parametrize(
    ("low", "high", "adjusted", "word"),
    [
        (-0.03, -0.01, 0.01, verdicts.BETTER),
        (0.01, 0.03, 0.01, verdicts.WORSE),
        (-0.03, -0.01, 0.05, verdicts.NO_DIFFERENCE),
        (-0.03, -0.01, None, verdicts.BETTER),
        (-0.012, -0.002, 0.01, verdicts.NO_DIFFERENCE),
        (-0.009, -0.001, 0.01, verdicts.EQUAL),
        (-0.009, 0.009, 0.9, verdicts.EQUAL),
        (-0.01, 0.009, 0.9, verdicts.NO_DIFFERENCE),
    ],
)
def test_words_ask_for_the_interval_the_size_and_the_family(low, high, adjusted, word):
    assert verdicts.of_interval(low, high, 0.01, adjusted).word == word
    gap = verdicts.Difference((low + high) / 2, low, high, "seeds", seeds=2)
    assert verdicts.of_difference(gap, 0.01, adjusted).word == word
    alone = verdicts.Difference((low + high) / 2, low, high, "documents", seeds=1)
    assert verdicts.of_difference(alone, 0.01, adjusted).word == verdicts.ONE_SEED


def test_paired_difference_has_a_negative_and_a_positive_control():
    random = np.random.default_rng(5)
    size = random.integers(500, 4000, 30)
    covered = found = 0
    for _ in range(60):
        base = 2 + 0.3 * random.standard_normal(30)
        noise, shift = 0.05 * random.standard_normal(30), 0.08
        same = spread.paired_difference(documents(base + noise, size), documents(base, size))
        moved = spread.paired_difference(documents(base + noise + shift, size), documents(base, size))
        assert same is not None
        assert moved is not None
        covered += not same.excludes_zero
        found += moved.low > 0
        assert moved.value == pytest.approx(same.value + shift)
    assert covered >= 50
    assert found == 60


def test_paired_difference_needs_the_same_text_and_enough_of_them():
    size = np.full(10, 100)
    a, b = documents(np.full(10, 2.0), size), documents(np.full(10, 1.5), size)
    assert spread.paired_difference(a, b).value == pytest.approx(0.5)
    assert spread.paired_difference(a, b).excludes_zero
    assert spread.paired_difference(a, None) is None
    assert spread.paired_difference(a, b.iloc[1:]) is None
    assert spread.paired_difference(a, b.assign(bytes=99)) is None
    assert spread.paired_difference(a, b.assign(kind="block of 1024 tokens")) is None
    assert spread.paired_difference(a, b).over == "documents"
    few = spread.paired_difference(a.iloc[:7], b.iloc[:7])
    assert (few.value, few.low, few.high) == (pytest.approx(0.5), None, None)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (-2.0, -1.0, verdicts.BETTER),
        (1.0, 2.0, verdicts.WORSE),
        (-1.0, 1.0, verdicts.NO_DIFFERENCE),
        (-1.0, 0.0, verdicts.NO_DIFFERENCE),
        (0.0, 0.0, verdicts.EQUAL),
        (None, None, verdicts.NOT_TESTED),
    ],
)
def test_verdict_of_an_interval(low, high, word):
    assert verdicts.of_interval(low, high).word == word


def test_verdict_of_several_seeds_says_when_they_differ():
    better, even = verdicts.of_interval(-2, -1), verdicts.of_interval(-1, 1)
    assert verdicts.of_seeds([better, better]) == better
    assert verdicts.of_seeds([better, even, better]).word == "seeds differ: 2 better, 1 no difference shown"
    assert verdicts.of_seeds([]).word == verdicts.NOT_TESTED
    assert verdicts.of_seeds([better]).word == verdicts.ONE_SEED
    assert verdicts.of_seeds([verdicts.Verdict(verdicts.NOT_TESTED)]).word == verdicts.NOT_TESTED


def test_verdict_beside_a_null_prefers_the_written_one():
    assert verdicts.of_null("below its null", 0.5).word == verdicts.BELOW
    assert verdicts.of_null(None, 0.049).word == verdicts.DISTINCT
    assert verdicts.of_null(None, 0.05).word == verdicts.NOT_DISTINCT
    assert "not tested" in verdicts.of_null(None, None).word


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (formats.fixed(-1.23456), "−1.235"),
        (formats.fixed(None), "–"),
        (formats.signed(0.0), "0"),
        (formats.signed(-0.02), "−0.020"),
        (formats.signed(-0.00002, 4), "−2e−05"),
        (formats.signed(0.0002), "+0.0002"),
        (formats.chance(0.0004), "< 0.001"),
        (formats.chance(0.0124), "0.012"),
        (formats.whole(25296896), "25,296,896"),
        (formats.percent(0.1234), "12.3 %"),
        (formats.scaled(1.1e6, "FLOP"), "1.10 MFLOP"),
        (formats.scaled(25.4e12, "FLOP"), "25.4 TFLOP"),
        (formats.scaled(9.999, ""), "10.0 "),
        (formats.size_in_bytes(1536), "1.5 KiB"),
        (formats.size_in_bytes(12), "12 B"),
        (formats.spread(spread.Spread(1.5, 0.25, 3)), "1.500 ± 0.621 (n 3)"),
        (formats.interval(-0.1, 0.2, 2), "[−0.10, +0.20]"),
        (formats.interval(0.1, 0.2, 2, sign=False), "[0.10, 0.20]"),
    ],
)
def test_formats_show(text, expected):
    assert text == expected


@given(st.lists(st.floats(0, 200), min_size=1, max_size=24), st.floats(1, 12))
def test_labels_never_touch_and_keep_their_order(wanted, gap):
    placed = spread_apart(wanted, gap, 0.0, 300.0)
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    steps = [placed[b] - placed[a] for a, b in pairwise(order)]
    assert all(step >= gap - 1e-6 for step in steps)
    assert max(placed) <= 300.0 + 1e-6
    if len(wanted) * gap <= 300:
        assert min(placed) >= -1e-6


def test_marks_of_logarithmic_axes_are_plain_numbers():
    values = (2e12, 5e4, 1000, 900, 1, 0.9, 0.02, 0.001, 1e-5, 2e-12)
    assert [tick_label(v) for v in values] == [
        "2 T",
        "50 k",
        "1 k",
        "900",
        "1",
        "0.9",
        "0.02",
        "0.001",
        "1e−5",
        "2e−12",
    ]


@pytest.mark.parametrize("high", [1.7, 3.0, 40.0, 1e6])
def test_logarithmic_axes_of_any_reach_have_several_marks(high):
    panel = Panel("p", "t", "x", "y", [Curve("a", 0, [0, 1], [0.92, high])], log_y=True)
    marks = re.findall(r'<text class="y"[^>]*>([^<]+)</text>', draw_panel(panel))
    assert len(marks) >= 3
