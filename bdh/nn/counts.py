"""How many parameters and floating-point operations a shape has, and which rival of a BDH costs the same; no torch.

A multiply-add counts as two operations. Only matrix products are counted: norms, gates, rotations, softmax and
dropout are not. Causal attention counts the pairs that exist, not the whole square. One token costs forward what is
stated here and three times that in training (each product has two more in the backward pass), recomputation apart.
Mean over the tokens of a window of T tokens that starts from nothing.

A fair rival of a given BDH has its number of parameters, or its operations per token at the training window. Rule of
the shape, as in GPT-2: width = 64 * depth, heads of 64, MLP four times as wide (8/3 as wide when it is gated, which is
the same number of weights), the embedding tied to the readout, but never fewer layers and (where the width divides)
never fewer heads than the BDH it stands beside. A gated linear recurrence has as many heads as that BDH, whatever its
width: few heads are a large state. The MLP width is the fine adjustment that meets the budget.

Tied embeddings settle what happens with a huge vocabulary: BDH spends 2*V*D parameters on it, a tied GPT of up to
twice the width spends the same, so neither is starved; when V*W would still eat the budget, the width shrinks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bdh.project.errors import VariantError


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


WIDTH_PER_LAYER = 64
HEAD_WIDTH = 64
MLP_RATIO = 4.0
GATED_MLP_RATIO = 8.0 / 3.0
LARGEST_BUDGET = 1e10
LARGEST_DEPTH = 64
EXACT_ENOUGH = 0.005
WIDE = 128


@dataclass(frozen=True)
class TransformerShape:
    """A stack of layers: width of the residual stream, layers, heads, width of the MLP."""

    width: int
    depth: int
    heads: int
    hidden: int


@dataclass(frozen=True)
class Parts:
    """What a GPT is made of, as far as it changes a count; the defaults are those of GPT-2.

    tied: the readout is the embedding. gated: the MLP has a gate, a third matrix. qk_norm: queries and keys have a
    gain per entry of a head. even: heads must be of even width, as rotary positions need. bias: the maps of a layer
    have one each.
    """

    tied: bool = True
    gated: bool = False
    qk_norm: bool = False
    even: bool = False
    bias: bool = False

    @property
    def rule(self) -> Rule:
        """Proportions of a GPT of these parts."""
        return Rule(mlp_ratio=GATED_MLP_RATIO if self.gated else MLP_RATIO, even=self.even)


@dataclass(frozen=True)
class Rule:
    """Proportions to aim at: hidden = mlp_ratio * width, heads of `head_width` (None: as many as the BDH has).

    even: twice the number of heads must divide the width.
    """

    mlp_ratio: float = MLP_RATIO
    head_width: int | None = HEAD_WIDTH
    even: bool = False

    def heads_for(self, width: int, least_heads: int) -> float:
        """How many heads a model of `width` should have."""
        return float(least_heads) if self.head_width is None else max(least_heads, width / self.head_width)


GPT_2 = Parts()


def transformer_parameters(
    width: int, depth: int, hidden: int, positions: int, vocab_size: int, heads: int = 1, parts: Parts = GPT_2
) -> int:
    """Embedding (and readout) and positions, then per layer 4*W^2 for attention, 2*W*hidden for the MLP, 4*W for norms.

    A gated MLP has 3*W*hidden, QK norm 2*W/heads more per layer; biases are 5*W + hidden (gated: 2*hidden).
    `positions` is 0 where none are learned.
    """
    per_layer = 4 * width * width + (3 if parts.gated else 2) * width * hidden + 4 * width
    per_layer += 2 * (width // heads) if parts.qk_norm else 0
    per_layer += 5 * width + (2 if parts.gated else 1) * hidden if parts.bias else 0
    tables = (1 if parts.tied else 2) * vocab_size + positions
    return tables * width + depth * per_layer + 2 * width


def transformer_operations(
    width: int, depth: int, hidden: int, vocab_size: int, window: int, parts: Parts = GPT_2
) -> float:
    """Forward operations per token of a GPT at a window of T tokens.

    depth * (8*W^2 + 4*W*hidden + 2*W*(T+1)) + 2*W*V: projections, MLP (6*W*hidden when it is gated), scores and their
    product with the values over the (T+1)/2 tokens (itself included) that a token attends to on average, readout.
    """
    per_layer = 8 * width * width + (6 if parts.gated else 4) * width * hidden + 2 * width * (window + 1)
    return float(depth * per_layer + 2 * width * vocab_size)


def gated_linear_parameters(shape: TransformerShape, vocab_size: int, rank: int, tied: bool = True) -> int:
    """Parameters of `bdh.models.gated_linear`, whose keys are half as wide as the stream.

    Per layer: queries and keys W^2, values, output gate and projection 3*W^2, decay gate of rank r with bias
    r*(3*W/2) + W/2, norm of a head W/heads, gated MLP 3*W*hidden, two norms 2*W. Then the last norm and V*W for the
    embedding, twice that when the readout is a matrix of its own.
    """
    W, keys = shape.width, shape.width // 2
    per_layer = 4 * W * W + rank * (W + keys) + keys + W // shape.heads + 3 * W * shape.hidden + 2 * W
    return (1 if tied else 2) * vocab_size * W + shape.depth * per_layer + W


def gated_linear_operations(shape: TransformerShape, vocab_size: int, rank: int, chunk: int, window: int) -> float:
    """Forward operations per token of `bdh.models.gated_linear` at a window of T tokens, in chunks of C.

    Per layer 8*W^2 + 6*W*hidden for projections and MLP, 3*W*r for the decay gate; per head of K = W/2H keys and
    V = W/H values 4*K*V to read and to write the state and, with the (C+1)/2 tokens of its chunk that a token reads
    directly, (C+1) * (K+V). Then the readout. C is the window where that is shorter; the state makes it the same
    whatever the window is. How the state fades from chunk to chunk is no product by nature and not counted; the
    product that does it in `bdh.nn.attention` costs up to 1.2*K*V per head.
    """
    W, H = shape.width, shape.heads
    keys, values = W // (2 * H), W // H
    per_head = 4 * keys * values + (min(chunk, window) + 1) * (keys + values)
    per_layer = 8 * W * W + 6 * W * shape.hidden + 2 * rank * (W + W // 2) + H * per_head
    return float(shape.depth * per_layer + 2 * W * vocab_size)


def shape_for_parameters(
    budget: int, vocab_size: int, positions: int, least_depth: int, least_heads: int, parts: Parts = GPT_2
) -> TransformerShape:
    """The GPT whose parameters are closest to `budget` among well-proportioned ones."""

    def cost(shape: TransformerShape) -> float:
        counted = (shape.width, shape.depth, shape.hidden, positions, vocab_size)
        return transformer_parameters(*counted, shape.heads, parts)

    return shape_for(cost, budget, least_depth, least_heads, parts.rule)


def shape_for_operations(
    budget: float, vocab_size: int, window: int, least_depth: int, least_heads: int, parts: Parts = GPT_2
) -> TransformerShape:
    """The GPT whose operations per token at `window` are closest to `budget` among well-proportioned ones."""

    def cost(shape: TransformerShape) -> float:
        return transformer_operations(shape.width, shape.depth, shape.hidden, vocab_size, window, parts)

    return shape_for(cost, budget, least_depth, least_heads, parts.rule)


def shape_for(
    cost: Callable[[TransformerShape], float],
    budget: float,
    least_depth: int,
    least_heads: int,
    rule: Rule = GPT_2.rule,
) -> TransformerShape:
    """Least unfit shape: an error above 0.5 % of the budget weighs a hundred times a distortion of the proportions.

    Raises VariantError for a budget that no search of this kind should be asked for.
    """
    if budget > LARGEST_BUDGET:
        raise VariantError(
            f"a rival of {budget:.2g} parameters or operations per token is asked for, at most {LARGEST_BUDGET:.0e} "
            "are searched for; make the sizes of `model` (n_embd, mlp_internal_dim_multiplier, n_layer) smaller"
        )

    def unfit(shape: TransformerShape) -> float:
        error = max(abs(cost(shape) / budget - 1) - EXACT_ENOUGH, 0.0)
        return 100 * error + _distortion(shape, least_heads, rule)

    return min(_candidates(cost, budget, least_depth, least_heads, rule), key=unfit)


def _distortion(shape: TransformerShape, least_heads: int, rule: Rule) -> float:
    """Sum of the logarithms by which MLP ratio, depth and heads miss the rule; odd head widths are slow on a GPU."""
    return (
        abs(math.log(shape.hidden / (rule.mlp_ratio * shape.width)))
        + abs(math.log(shape.width / (WIDTH_PER_LAYER * shape.depth)))
        + abs(math.log(shape.heads / rule.heads_for(shape.width, least_heads))) / 4
        + (0.05 if shape.width >= WIDE and shape.width // shape.heads % 8 else 0.0)
    )


def _candidates(
    cost: Callable[[TransformerShape], float], budget: float, least_depth: int, least_heads: int, rule: Rule
) -> Iterator[TransformerShape]:
    """Shapes around the width that meets the budget at the rule's MLP ratio, for every depth."""
    for depth in range(least_depth, max(LARGEST_DEPTH, least_depth) + 1):
        middle = _width_at(cost, budget, depth, rule)
        step = 8 if middle >= WIDE else 1
        for width in range(max(step, int(0.8 * middle) // step * step), int(1.2 * middle) + step + 1, step):
            if width % 2 == 0 or not rule.even:
                yield _fill(cost, budget, TransformerShape(width, depth, _heads(width, least_heads, rule), 0), step)
        if middle < WIDTH_PER_LAYER * depth / 2:
            return


def _width_at(cost: Callable[[TransformerShape], float], budget: float, depth: int, rule: Rule) -> float:
    """Width at which `depth` layers of the rule's proportions cost the budget, by bisection (at least 1)."""
    low, high = 1, 2
    while cost(TransformerShape(high, depth, 1, int(rule.mlp_ratio * high))) < budget:
        high *= 2
    while high - low > 1:
        width = (low + high) // 2
        if cost(TransformerShape(width, depth, 1, int(rule.mlp_ratio * width))) < budget:
            low = width
        else:
            high = width
    return low


def _heads(width: int, least_heads: int, rule: Rule) -> int:
    """The divisor of the width (of its half for heads of even width) closest to the wanted number of heads."""
    divided = width // 2 if rule.even else width
    divisors = [heads for heads in range(1, divided + 1) if divided % heads == 0]
    return min(divisors, key=lambda heads: abs(math.log(heads / rule.heads_for(width, least_heads))))


def _fill(
    cost: Callable[[TransformerShape], float], budget: float, bare: TransformerShape, step: int
) -> TransformerShape:
    """`bare` with the MLP width (a multiple of `step`) that brings its cost closest to the budget."""
    base = cost(bare)
    per_unit = cost(TransformerShape(bare.width, bare.depth, bare.heads, 1)) - base
    hidden = max(1, round((budget - base) / per_unit / step)) * step
    return TransformerShape(bare.width, bare.depth, bare.heads, hidden)
