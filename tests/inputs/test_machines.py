"""The inputs that start programs: other places, other machines, DVC's habits."""

import json

import pytest

from tests.inputs import table
from tests.inputs.machines import habit_cases, machine_cases

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("cases", [machine_cases, habit_cases], ids=["places", "habits"])
def test_inputs_give_the_same_everywhere(cases) -> None:
    """Catches a path, a locale, a line end or a habit that changes tokens or makes stages run again."""
    wrong = [row for row in table.rows(cases()) if not row["ok"]]
    assert not wrong, json.dumps(wrong, indent=1, ensure_ascii=False)
