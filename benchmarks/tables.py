"""The tables of docs/speed.md, from the files of benchmarks/results.

python -m benchmarks.tables
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS, PAGE = Path("benchmarks/results"), Path("docs/speed.md")
RATIOS = ("h200_train", "h200_decode", "h200_scaling", "h200_scaling_neuro", "cpu_train", "coactivation", "tmi")
LARGEST = ("N 16384", "16384 neurons", "4096 neurons", "train_laptop")
RESERVOIRS = {"cpu_recurrent": "2 CPU cores", "h200_recurrent_reference": "H200"}
SCALES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def ratios() -> str:
    """Ours beside a peer; a ratio above 1 means that ours is better."""
    lines = ["| work | metric | ours | peer | ratio | n | device | commit |", "|---|---|---|---|---|---|---|---|"]
    for name in RATIOS:
        for row in read(name)["rows"]:
            if not name.startswith("h200") and not any(size in row["work"] for size in LARGEST):
                continue
            numbers = f"{short(row['ours'])} | {short(row['peer'])} | {short(row['ratio'])} | {row['n']}"
            lines.append(f"| {row['work']} | {row['metric']} | {numbers} | {row['device']} | {row['commit'][:7]} |")
    return "\n".join(lines)


def reservoirs() -> str:
    """Tokens per second of the recurrent family beside the published step loop on one stream."""
    lines = [
        "| variant | streams | published loop, tokens/s | ours, tokens/s | ratio | rounds | machine |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, machine in RESERVOIRS.items():
        for row in read(name)["rows"]:
            numbers = f"{short(row['baseline_tokens_per_s'])} | {short(row['tokens_per_s'])} | {row['ratio']:,.0f}"
            lines.append(f"| {row['variant']} | {row['streams']} | {numbers} | {row['rounds']} | {machine} |")
    return "\n".join(lines)


def curves() -> str:
    """Loss of the same training with both codes."""
    lines = ["| work | steps | ours minus peer, nats per token | deviation between seeds |", "|---|---|---|---|"]
    for row in read("h200_curve")["curves"]:
        lines.append(f"| {row['work']} | {row['steps']} | {row['difference']:+.4f} | {row['seed_sd']:.4f} |")
    return "\n".join(lines)


def with_tables(page: str) -> str:
    """The page with every table between its markers replaced."""
    for name, table in (("ratios", ratios()), ("reservoirs", reservoirs()), ("curves", curves())):
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, rest = page.split(start)
        page = f"{before}{start}\n{table}\n{end}{rest.split(end)[1]}"
    return page


def read(name: str) -> dict[str, Any]:
    """One file of results."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def short(value: float | None) -> str:
    """Three digits with a decimal prefix; nothing where nothing was measured."""
    if value is None:
        return "-"
    for size, prefix in SCALES:
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g}"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
