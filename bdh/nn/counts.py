"""How many parameters and operations a shape has, and which GPT is a fair rival of a given BDH. No torch.

A multiply-add counts as two operations. Only matrix products are counted: norms, gates, rotations, softmax and
dropout are not. Causal attention counts the pairs that exist, not the whole square. One token costs forward what is
stated here and three times that in training (each product has two more in the backward pass), recomputation apart.
Mean over the tokens of a window of T tokens that starts from nothing.

The rival: width, depth, heads and MLP width from a budget, which is BDH's number of parameters, or its operations per
token at the training window. Rule of the shape, as in GPT-2: width = 64 * depth, heads of 64, MLP four times as wide,
the embedding tied to the readout, but never fewer layers and (where the width divides) never fewer heads than the BDH
it stands beside. The MLP width is the fine adjustment that meets the budget.

Tied embeddings settle what happens with a huge vocabulary: BDH spends 2*V*D parameters on it, a tied GPT of up to
twice the width spends the same, so neither is starved; when V*W would still eat the budget, the width shrinks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass


def bdh_neurons(n_embd: int, n_head: int, mlp_internal_dim_multiplier: int) -> int:
    """Neurons per head, N = multiplier * D // H."""
    return mlp_internal_dim_multiplier * n_embd // n_head


def bdh_parameters(n_embd: int, n_head: int, neurons: int, vocab_size: int) -> int:
    """3*H*N*D + 2*V*D; the layers share their weights."""
    return 3 * n_head * neurons * n_embd + 2 * vocab_size * n_embd


def bdh_operations(n_layer: int, n_embd: int, n_head: int, neurons: int, vocab_size: int, window: int) -> float:
    """Forward operations per token of BDH in the parallel form at a window of T tokens.

    L * H * (6*D*N + (T-1) * (N + D)) + 2*D*V: three products with weights; scores and their product with the values
    over the (T-1)/2 earlier tokens that a token has on average. (The state form costs 4*N*D in place of
    (T-1) * (N + D), at any T.)
    """
    per_head = 6 * n_embd * neurons + (window - 1) * (neurons + n_embd)
    return float(n_layer * n_head * per_head + 2 * n_embd * vocab_size)


def transformer_parameters(width: int, depth: int, hidden: int, positions: int, vocab_size: int) -> int:
    """Tied embedding and positions, then per layer 4*W^2 for attention, 2*W*hidden for the MLP, 4*W for two norms."""
    per_layer = 4 * width * width + 2 * width * hidden + 4 * width
    return (vocab_size + positions) * width + depth * per_layer + 2 * width


def transformer_operations(width: int, depth: int, hidden: int, vocab_size: int, window: int) -> float:
    """Forward operations per token of a GPT at a window of T tokens.

    depth * (8*W^2 + 4*W*hidden + 2*W*(T+1)) + 2*W*V: projections, MLP, scores and their product with the values over
    the (T+1)/2 tokens (itself included) that a token attends to on average, readout.
    """
    per_layer = 8 * width * width + 4 * width * hidden + 2 * width * (window + 1)
    return float(depth * per_layer + 2 * width * vocab_size)


WIDTH_PER_LAYER = 64
HEAD_WIDTH = 64
MLP_RATIO = 4.0
LARGEST_DEPTH = 64
EXACT_ENOUGH = 0.005
WIDE = 128


@dataclass(frozen=True)
class TransformerShape:
    """A GPT: width of the residual stream, layers, heads, width of the MLP."""

    width: int
    depth: int
    heads: int
    hidden: int


def shape_for_parameters(
    budget: int, vocab_size: int, positions: int, least_depth: int, least_heads: int
) -> TransformerShape:
    """The shape whose parameters are closest to `budget` among well-proportioned ones."""

    def cost(shape: TransformerShape) -> float:
        return transformer_parameters(shape.width, shape.depth, shape.hidden, positions, vocab_size)

    return _best(cost, budget, least_depth, least_heads)


def shape_for_operations(
    budget: float, vocab_size: int, window: int, least_depth: int, least_heads: int
) -> TransformerShape:
    """The shape whose operations per token at `window` are closest to `budget` among well-proportioned ones."""

    def cost(shape: TransformerShape) -> float:
        return transformer_operations(shape.width, shape.depth, shape.hidden, vocab_size, window)

    return _best(cost, budget, least_depth, least_heads)


def _best(
    cost: Callable[[TransformerShape], float], budget: float, least_depth: int, least_heads: int
) -> TransformerShape:
    """Least unfit shape: an error above 0.5 % of the budget weighs a hundred times a distortion of the proportions."""

    def unfit(shape: TransformerShape) -> float:
        error = max(abs(cost(shape) / budget - 1) - EXACT_ENOUGH, 0.0)
        return 100 * error + _distortion(shape, least_heads)

    return min(_candidates(cost, budget, least_depth, least_heads), key=unfit)


def _distortion(shape: TransformerShape, least_heads: int) -> float:
    """Sum of the logarithms by which MLP ratio, depth and heads miss the rule; odd head widths are slow on a GPU."""
    return (
        abs(math.log(shape.hidden / (MLP_RATIO * shape.width)))
        + abs(math.log(shape.width / (WIDTH_PER_LAYER * shape.depth)))
        + abs(math.log(shape.heads / _wanted_heads(shape.width, least_heads))) / 4
        + (0.05 if shape.width >= WIDE and shape.width // shape.heads % 8 else 0.0)
    )


def _candidates(
    cost: Callable[[TransformerShape], float], budget: float, least_depth: int, least_heads: int
) -> Iterator[TransformerShape]:
    """Shapes around the width that meets the budget at the rule's MLP ratio, for every depth."""
    for depth in range(least_depth, max(LARGEST_DEPTH, least_depth) + 1):
        middle = _width_at(cost, budget, depth)
        step = 8 if middle >= WIDE else 1
        for width in range(max(step, int(0.8 * middle) // step * step), int(1.2 * middle) + step + 1, step):
            yield _fill(cost, budget, TransformerShape(width, depth, _heads(width, least_heads), 0), step)
        if middle < WIDTH_PER_LAYER * depth / 2:
            return


def _width_at(cost: Callable[[TransformerShape], float], budget: float, depth: int) -> float:
    """Width at which `depth` layers of the rule's proportions cost the budget, by bisection (at least 1)."""
    low, high = 1, 2
    while cost(TransformerShape(high, depth, 1, int(MLP_RATIO * high))) < budget:
        high *= 2
    while high - low > 1:
        width = (low + high) // 2
        if cost(TransformerShape(width, depth, 1, int(MLP_RATIO * width))) < budget:
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


def _fill(
    cost: Callable[[TransformerShape], float], budget: float, bare: TransformerShape, step: int
) -> TransformerShape:
    """`bare` with the MLP width (a multiple of `step`) that brings its cost closest to the budget."""
    base = cost(bare)
    per_unit = cost(TransformerShape(bare.width, bare.depth, bare.heads, 1)) - base
    hidden = max(1, round((budget - base) / per_unit / step)) * step
    return TransformerShape(bare.width, bare.depth, bare.heads, hidden)
