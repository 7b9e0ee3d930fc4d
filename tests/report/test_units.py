"""The units that variants are compared over: what stage hebbian writes is what the report pairs."""

import math

import numpy as np
import pytest

from bdh.hebbian.scores import Scores, unit_table
from bdh.report.data.spread import paired_difference
from tests.support.held_out_text import held_out


@pytest.mark.parametrize(
    ("lengths", "kind", "over"),
    [((40,) * 9, "document", "documents"), ((20_001,), "block of 1024 tokens", "blocks of 1024 tokens")],
)
def test_units_sum_to_the_arm_and_give_its_interval(lengths, kind, over):
    text = held_out(lengths=lengths)
    random = np.random.default_rng(3)
    static = random.gamma(2.0, 1.0, text.scored)
    carry = static - 0.1 + 0.05 * random.standard_normal(text.scored)
    table = unit_table({"static": static, "carry": carry}, text)
    assert set(table["kind"]) == {kind}
    for arm, nats in (("static", static), ("carry", carry)):
        rows = table[table["arm"] == arm]
        assert rows["nats"].sum() == pytest.approx(nats.sum())
        assert (rows["tokens"].sum(), rows["bytes"].sum()) == (text.scored, text.token_bytes.sum())
    report = Scores(text, static, 2000).arm(carry)
    arms = [table[table["arm"] == arm].reset_index(drop=True) for arm in ("carry", "static")]
    found = paired_difference(arms[0], arms[1])
    assert found is not None
    assert found.value == pytest.approx(report["difference_to_static"])
    assert (found.low, found.high) == (pytest.approx(report["ci_low"]), pytest.approx(report["ci_high"]))
    assert found.over == over
    assert found.value == pytest.approx((carry - static).sum() / math.log(2) / text.token_bytes.sum())
