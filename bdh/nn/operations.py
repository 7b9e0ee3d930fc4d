"""How many parameters and floating-point operations a shape has; plain arithmetic, no torch.

A multiply-add counts as two operations. Only matrix products are counted: norms, gates, rotations, softmax and
dropout are not. Causal attention counts the pairs that exist, not the whole square. One token costs forward what is
stated here and three times that in training (each product has two more in the backward pass), recomputation apart.
Mean over the tokens of a window of T tokens that starts from nothing.
"""

from __future__ import annotations


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
