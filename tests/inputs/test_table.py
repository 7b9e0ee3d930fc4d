"""Every input of the table once more: what comes of it is what docs/inputs.json says, a right value or one line."""

import json

import pytest

from tests.inputs import table

KINDS = {case.kind: [other for other in table.quick_cases() if other.kind == case.kind] for case in table.quick_cases()}


def written() -> dict[tuple[str, str], dict]:
    rows = json.loads(table.FILE.read_text(encoding="utf-8"))["rows"]
    return {(row["kind"], row["input"]): row for row in rows}


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_give_what_the_table_says(kind: str) -> None:
    """Catches a traceback, a wrong document, token, date or split, and a table that was not written again."""
    found = table.rows(KINDS[kind])
    wrong = [row for row in found if not row["ok"]]
    assert not wrong, json.dumps(wrong, indent=1, ensure_ascii=False)
    known = written()
    for row in found:
        entry = known.get((kind, row["input"]))
        assert entry is not None, f"{kind}: {row['input']} is not in docs/inputs.json; python -m tests.inputs.table"
        assert entry["expected"] == row["expected"], f"{row['input']}: python -m tests.inputs.table writes it again"


def test_inputs_table_is_whole() -> None:
    """No row is wrong, none stands twice, and none is left of a case that is gone."""
    rows = json.loads(table.FILE.read_text(encoding="utf-8"))["rows"]
    assert len(rows) >= 80
    assert all(set(row) == {"kind", "input", "expected", "got", "ok"} and row["ok"] for row in rows)
    names = [(row["kind"], row["input"]) for row in rows]
    assert len(set(names)) == len(names)
    assert set(names) == {(case.kind, case.input) for case in table.all_cases()}
