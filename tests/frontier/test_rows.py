"""Rows of the frontier table: where a value stands among its nulls, and when a verdict is given."""

import numpy as np
import pytest
from scipy import stats

from bdh.frontier.rows import absent, metric_row
from bdh.frontier.run import weight_sparsity
from bdh.intervals import against_null, percentiles
from tests.support.held_out_text import small_bdh

FAR, NEAR = np.linspace(-1, 1, 50), np.linspace(4, 6, 50)


def row(value, nulls, interval=(None, None), untrained=()):
    return metric_row(
        value,
        nulls=nulls,
        interval=interval,
        n=10,
        untrained=list(untrained),
        reference=None,
        reference_untrained=[],
    )


def test_metrics_p_of_few_draws_is_the_predictive_one():
    draws = np.array([1.0, 2.0, 4.0])
    found = against_null(9.0, draws)
    z = (9.0 - draws.mean()) / draws.std(ddof=1)
    assert found["z"] == pytest.approx(z)
    assert found["p"] == pytest.approx(2 * stats.t.sf(z / np.sqrt(4 / 3), 2))
    assert found["p_method"] == "t"


def test_metrics_p_of_few_draws_keeps_its_level():
    draws = np.random.default_rng(0).normal(size=(4000, 6))
    rejected = [against_null(one[0], one[1:])["p"] < 0.05 for one in draws]
    assert np.mean(rejected) == pytest.approx(0.05, abs=0.012)


def test_metrics_p_of_many_draws_is_a_rank():
    draws = np.arange(99.0)
    assert against_null(97.5, draws)["p"] == pytest.approx(4 / 100)
    assert against_null(49.0, draws)["p"] == 1.0
    assert against_null(97.5, draws)["p_method"] == "rank"


def test_metrics_p_beyond_all_draws_goes_on_falling():
    draws = np.arange(99.0)
    near, far = (against_null(value, draws)["p"] for value in (99.0, 400.0))
    assert near == pytest.approx(2 / 100), "the rank alone, where a normal null would still reach"
    assert far < 1e-6
    assert against_null(1.0, np.zeros(99))["p"] == pytest.approx(2 / 100), (
        "draws without a spread have their rank alone"
    )
    assert against_null(1.0, np.zeros(99), grain=0.01)["p"] < 1e-6


@pytest.mark.parametrize("draws", [[], [3.0], [3.0, 3.0]])
def test_metrics_no_p_without_a_spread(draws):
    assert against_null(9.0, np.array(draws))["p"] is None


def test_metrics_verdict_needs_every_null_on_the_same_side():
    assert row(5.0, {"a": FAR})["verdict"] == "above its null"
    assert row(-5.0, {"a": FAR})["verdict"] == "below its null"
    assert row(5.0, {"a": FAR, "b": NEAR})["verdict"] == "not distinguishable from its null"
    assert row(2.5, {"a": FAR, "b": NEAR})["verdict"] == "not distinguishable from its null"
    assert row(9.0, {"a": FAR, "b": NEAR})["verdict"] == "above its null"


def test_metrics_verdict_needs_the_twins():
    assert row(5.0, {"a": FAR}, untrained=[4.8, 5.1, 5.0])["verdict"] == "not distinguishable from its null"
    assert row(5.0, {"a": FAR}, untrained=[0.1, -0.1, 0.0])["verdict"] == "above its null"
    assert row(5.0, {"a": FAR}, interval=(3.0, 7.0), untrained=[4.0])["verdict"] == "not distinguishable from its null"
    assert row(5.0, {"a": FAR}, interval=(4.5, 7.0), untrained=[4.0])["verdict"] == "above its null"
    assert row(5.0, {"a": FAR}, untrained=[4.0])["verdict"] == "not distinguishable from its null"


def test_metrics_absent_row_has_every_key_of_a_row():
    missing = absent("because")
    assert set(missing) == set(row(1.0, {"a": FAR})) | {"reason"}
    assert missing["value"] is None
    assert missing["verdict"] == "not measurable"


def test_metrics_percentiles_are_those_of_the_finite_values():
    assert percentiles(np.arange(1001.0)) == (25.0, 975.0)
    assert percentiles(np.array([1.0, np.nan])) == (None, None)


def test_metrics_weight_sparsity_counts_zeros_and_small_weights():
    model = small_bdh()
    for parameter in model.parameters():
        parameter.data.fill_(1.0)
    model.decoder.data.view(-1)[:3] = 0.0
    model.decoder.data.view(-1)[3:5] = -5e-4
    total = model.parameter_count()
    assert weight_sparsity(model) == {"exact_zeros": 3 / total, "below_0.001": 5 / total}
