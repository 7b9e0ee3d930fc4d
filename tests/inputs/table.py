"""The table of inputs, docs/inputs.json: what people bring, what must come of it and what does.

    python -m tests.inputs.table        # try every input and write the table

Every input is made here, and every right result is stated in full; `tests/inputs/test_table.py` tries them again.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.inputs.case import Case
from tests.inputs.machines import habit_cases, machine_cases
from tests.inputs.numbers import number_cases, table_cases
from tests.inputs.places import doctor_cases, own_file_cases, prompt_cases, resume_cases, variant_cases
from tests.inputs.texts import format_cases, text_cases, tokenizer_cases
from tests.support.project import ROOT

FILE = ROOT / "docs/inputs.json"


def quick_cases() -> list[Case]:
    """Every input that is tried inside this process."""
    made = (number_cases, text_cases, table_cases, format_cases, tokenizer_cases, own_file_cases, variant_cases)
    return [case for cases in (*made, doctor_cases, prompt_cases, resume_cases) for case in cases()]


def all_cases() -> list[Case]:
    """Those and the ones that start programs."""
    return [*quick_cases(), *machine_cases(), *habit_cases()]


def rows(cases: list[Case]) -> list[dict[str, Any]]:
    """A row per case, each tried in a folder of its own."""
    found = []
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            found.append(case.row(Path(folder)))
    return found


def main() -> None:
    """Write the table; exit 1 where a row is not what it must be."""
    wanted = sys.argv[1:]
    found = rows([case for case in all_cases() if not wanted or case.kind in wanted])
    if wanted:
        known = {(row["kind"], row["input"]): row for row in json.loads(FILE.read_text(encoding="utf-8"))["rows"]}
        known |= {(row["kind"], row["input"]): row for row in found}
        found = [known[case.kind, case.input] for case in all_cases() if (case.kind, case.input) in known]
    FILE.write_text(json.dumps({"rows": found}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    wrong = [row for row in found if not row["ok"]]
    for row in wrong:
        sys.stderr.write(f"{row['kind']}: {row['input']}\n  expected {row['expected']}\n  got      {row['got']}\n")
    sys.stderr.write(f"{len(found)} rows, {len(wrong)} wrong\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
