"""One colour and one line style per variant, the same in every table and every plot.

Eight colours for light pages and eight for dark ones: any two of a set stay at least 24 CIELAB units apart under full
protanopia, deuteranopia and tritanopia (matrices of Machado et al., 2009) and 3:1 in contrast from the page. The ninth
variant starts again with another line style and marker.
"""

from __future__ import annotations

from collections.abc import Sequence

LIGHT = ("#3a3ee8", "#9c3f0c", "#00724f", "#821494", "#1f98ff", "#be8d00", "#202a39", "#ff41a9")
DARK = ("#206dff", "#f25206", "#45ff84", "#a25fba", "#a0d2fb", "#fad700", "#f1ffdf", "#dc7d94")
DASHES = ("-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2)), (0, (2, 3)), (0, (9, 2, 1, 2, 1, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P")
INK, FAINT = "#010203", "#040506"


def slot_of(variants: Sequence[str], variant: str) -> int:
    """Colour slot of a variant: its place in params.yaml."""
    return list(variants).index(variant)


def paint(slot: int) -> str:
    """Placeholder colour of a slot inside a plot; `themed` turns it into the page's own colour."""
    return f"#fe{slot % len(LIGHT):02x}01"


def dash(slot: int) -> str | tuple[int, tuple[float, ...]]:
    """Line style of a slot."""
    return DASHES[slot // len(LIGHT) % len(DASHES)]


def marker(slot: int) -> str:
    """Marker of a slot."""
    return MARKERS[slot // len(LIGHT) % len(MARKERS)]


def themed(svg: str) -> str:
    """`svg` with the placeholder colours replaced by the page's, so that it follows light and dark mode."""
    for slot in range(len(LIGHT)):
        svg = svg.replace(paint(slot), f"var(--v{slot})")
    return svg.replace(INK, "var(--ink)").replace(FAINT, "var(--rule)")


def variables(colours: Sequence[str]) -> str:
    """CSS variables `--v0` ... of one set of colours."""
    return " ".join(f"--v{slot}: {colour};" for slot, colour in enumerate(colours))


def swatch_rules(count: int) -> str:
    """CSS of the small line beside a variant's name, for `count` variants."""
    styles = ("3px solid", "3px dashed", "3px dotted", "5px double", "1px dashed", "1px solid")
    return "\n".join(
        f".s{slot} {{ border-top: {styles[slot // len(LIGHT) % len(styles)]} var(--v{slot % len(LIGHT)}); }}"
        for slot in range(count)
    )
