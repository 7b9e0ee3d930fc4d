"""Which GPT is a fair rival of a given BDH: its width, depth, heads and MLP width from a budget. No torch.

The budget is BDH's number of parameters, or its operations per token at the training window. Shape rule, as in GPT-2:
width = 64 * depth, heads of 64, MLP four times as wide, the embedding tied to the readout, but never fewer layers and
(where the width divides) never fewer heads than the BDH it stands beside. The MLP width is the fine adjustment that
meets the budget.

Tied embeddings settle what happens with a huge vocabulary: BDH spends 2*V*D parameters on it, a tied GPT of up to
twice the width spends the same, so neither is starved; when V*W would still eat the budget, the width shrinks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bdh.nn.operations import transformer_operations, transformer_parameters

WIDTH_PER_LAYER = 64
HEAD_WIDTH = 64
MLP_RATIO = 4.0
LARGEST_DEPTH = 64
EXACT_ENOUGH = 0.005
WIDE = 128


@dataclass(frozen=True)
class Shape:
    """A GPT: width of the residual stream, layers, heads, width of the MLP."""

    width: int
    depth: int
    heads: int
    hidden: int


def shape_for_parameters(budget: int, vocab_size: int, positions: int, least_depth: int, least_heads: int) -> Shape:
    """The shape whose parameters are closest to `budget` among well-proportioned ones."""

    def cost(shape: Shape) -> float:
        return transformer_parameters(shape.width, shape.depth, shape.hidden, positions, vocab_size)

    return _best(cost, budget, least_depth, least_heads)


def shape_for_operations(budget: float, vocab_size: int, window: int, least_depth: int, least_heads: int) -> Shape:
    """The shape whose operations per token at `window` are closest to `budget` among well-proportioned ones."""

    def cost(shape: Shape) -> float:
        return transformer_operations(shape.width, shape.depth, shape.hidden, vocab_size, window)

    return _best(cost, budget, least_depth, least_heads)


def _best(cost: Callable[[Shape], float], budget: float, least_depth: int, least_heads: int) -> Shape:
    """Least unfit shape: an error above 0.5 % of the budget weighs a hundred times a distortion of the proportions."""

    def unfit(shape: Shape) -> float:
        error = max(abs(cost(shape) / budget - 1) - EXACT_ENOUGH, 0.0)
        return 100 * error + _distortion(shape, least_heads)

    return min(_candidates(cost, budget, least_depth, least_heads), key=unfit)


def _distortion(shape: Shape, least_heads: int) -> float:
    """Sum of the logarithms by which MLP ratio, depth and heads miss the rule; odd head widths are slow on a GPU."""
    return (
        abs(math.log(shape.hidden / (MLP_RATIO * shape.width)))
        + abs(math.log(shape.width / (WIDTH_PER_LAYER * shape.depth)))
        + abs(math.log(shape.heads / _wanted_heads(shape.width, least_heads))) / 4
        + (0.05 if shape.width >= WIDE and shape.width // shape.heads % 8 else 0.0)
    )


def _candidates(cost: Callable[[Shape], float], budget: float, least_depth: int, least_heads: int) -> Iterator[Shape]:
    """Shapes around the width that meets the budget at the rule's MLP ratio, for every depth."""
    for depth in range(least_depth, max(LARGEST_DEPTH, least_depth) + 1):
        middle = _width_at(cost, budget, depth)
        step = 8 if middle >= WIDE else 1
        for width in range(max(step, int(0.8 * middle) // step * step), int(1.2 * middle) + step + 1, step):
            yield _fill(cost, budget, Shape(width, depth, _heads(width, least_heads), 0), step)
        if middle < WIDTH_PER_LAYER * depth / 2:
            return


def _width_at(cost: Callable[[Shape], float], budget: float, depth: int) -> float:
    """Width at which `depth` layers of the rule's proportions cost the budget, by bisection (at least 1)."""
    low, high = 1, 2
    while cost(Shape(high, depth, 1, int(MLP_RATIO * high))) < budget:
        high *= 2
    while high - low > 1:
        width = (low + high) // 2
        if cost(Shape(width, depth, 1, int(MLP_RATIO * width))) < budget:
            low = width
        else:
            high = width
    return low


def _wanted_heads(width: int, least_heads: int) -> float:
    return max(least_heads, width / HEAD_WIDTH)


def _heads(width: int, least_heads: int) -> int:
    """The divisor of the width closest to the wanted number of heads."""
    divisors = [heads for heads in range(1, width + 1) if width % heads == 0]
    return min(divisors, key=lambda heads: abs(math.log(heads / _wanted_heads(width, least_heads))))


def _fill(cost: Callable[[Shape], float], budget: float, bare: Shape, step: int) -> Shape:
    """`bare` with the MLP width (a multiple of `step`) that brings its cost closest to the budget."""
    base = cost(bare)
    per_unit = cost(Shape(bare.width, bare.depth, bare.heads, 1)) - base
    hidden = max(1, round((budget - base) / per_unit / step)) * step
    return Shape(bare.width, bare.depth, bare.heads, hidden)
