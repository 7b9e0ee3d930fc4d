"""Numbers as people read them; a missing one is an en dash."""

from __future__ import annotations

from collections.abc import Iterable

from bdh.report.data.spread import Difference, Spread

ABSENT = "–"
PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def fixed(value: float | None, digits: int = 3) -> str:
    """`1.234`; the minus sign is a real one."""
    return ABSENT if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """`+1.234` or `−1.234`; exactly zero is `0`."""
    if value is None:
        return ABSENT
    text = f"{value:+.{digits}f}" if round(value, digits) else f"{value:+.1g}"
    return "0" if value == 0 else text.replace("-", "−")


def chance(value: float | None) -> str:
    """A p-value: `0.012`, or `< 0.001`."""
    return "< 0.001" if value is not None and value < 0.001 else fixed(value)


def whole(value: float | None) -> str:
    """`12,345`."""
    return ABSENT if value is None else f"{value:,.0f}".replace("-", "−")


def percent(value: float | None, digits: int = 1) -> str:
    """A share as `12.3 %`."""
    return ABSENT if value is None else f"{100 * value:.{digits}f} %".replace("-", "−")


def scaled(value: float | None, unit: str) -> str:
    """Three figures with a decimal prefix: `1.53 GFLOP`."""
    if value is None:
        return ABSENT
    for size, prefix in PREFIXES:
        if abs(value) >= size:
            return f"{three_figures(value / size)} {prefix}{unit}"
    return f"{three_figures(value)} {unit}"


def three_figures(value: float) -> str:
    """`1.50`, `15.0` or `150`."""
    return f"{value:.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f}".replace("-", "−")


def size_in_bytes(value: float | None) -> str:
    """Bytes with a binary prefix: `1.5 MiB`."""
    if value is None:
        return ABSENT
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} B"


def deviation(value: Spread, digits: int = 3) -> str:
    """`± 0.010, n 3`: half the 95 % interval over seeds and their number, empty for one seed."""
    return "" if value.half is None else f"± {fixed(value.half, digits)}, n {value.n}"


def spread(value: Spread | None, digits: int = 3) -> str:
    """`1.234`, over several seeds `1.234 ± 0.010 (n 3)` with half the 95 % interval of the mean."""
    if value is None:
        return ABSENT
    if value.half is None:
        return fixed(value.mean, digits)
    return f"{fixed(value.mean, digits)} ± {fixed(value.half, digits)} (n {value.n})"


def interval(low: float | None, high: float | None, digits: int = 3, sign: bool = True) -> str:
    """`[−0.012, +0.034]`, without plus signs when `sign` is off, empty without bounds."""
    if low is None or high is None:
        return ""
    shown = signed if sign else fixed
    return f"[{shown(low, digits)}, {shown(high, digits)}]"


def widest(bounds: Iterable[tuple[float | None, float | None]], digits: int = 3, sign: bool = True) -> str:
    """From the lowest to the highest end of several intervals, empty without a bound on either side."""
    pairs = list(bounds)
    lows, highs = [low for low, _ in pairs if low is not None], [high for _, high in pairs if high is not None]
    return interval(min(lows), max(highs), digits, sign) if lows and highs else ""


def difference(value: Difference | None, digits: int = 3) -> str:
    """`+0.012 [+0.003, +0.021]`."""
    if value is None:
        return ABSENT
    return f"{signed(value.value, digits)} {interval(value.low, value.high, digits)}".strip()
