"""Read prompts into the memory in chunks, many streams at once, each as far as its own prompt goes.

Short prompts are padded at the end. A padded token writes nothing, because its activations are set to 0 before they
become keys; causality keeps it from the tokens before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bdh.decoding.memory import Memory
from bdh.decoding.weights import Weights
from bdh.device import autocast
from bdh.nn.linear_attention import attend_chunked
from bdh.nn.rope import rotate, rotation

TOKENS_AT_ONCE = {"cpu": 4096, "cuda": 16384}
LONGEST_CHUNK = 512


@torch.no_grad()
def prefill(weights: Weights, memory: Memory, prompts: Sequence[Sequence[int]]) -> None:
    """Read `prompts` (one per stream, each may be empty) on top of what the streams hold; the window must be empty.

    Products run in the narrow type of the memory, those with the state in its wide type.
    """
    longest = max(len(prompt) for prompt in prompts)
    device = weights.encoder.device
    lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
    padded = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts], dtype=torch.int64)
    chunk = max(1, min(LONGEST_CHUNK, TOKENS_AT_ONCE[device.type] // len(prompts)))
    for start in range(0, longest, chunk):
        tokens_BT = padded[:, start : start + chunk].to(device)
        places_T = torch.arange(start, start + tokens_BT.shape[1], device=device)
        real_BT = places_T < lengths_B[:, None]
        with autocast(device, torch.bfloat16 if memory.narrow == torch.bfloat16 else torch.float32):
            _read(weights, memory, tokens_BT, real_BT)
        memory.position += real_BT.sum(dim=1)


def _read(weights: Weights, memory: Memory, tokens_BT: Tensor, real_BT: Tensor) -> None:
    """All layers of one chunk. The last layer's answer is not needed: a prompt gives state, not logits."""
    H, B, T = weights.sizes[0], *tokens_BT.shape
    cos, sin = rotation(T, weights.frequency, memory.position)
    x_BTD = weights.embed[tokens_BT]
    xs_HBTN: Tensor | None = None
    for layer in range(weights.layers):
        gained = F.relu(torch.bmm(x_BTD.flatten(0, 1).expand(H, -1, -1), weights.encoder)).unflatten(1, (B, T))
        xs_HBTN = gained if xs_HBTN is None or not weights.accumulates else xs_HBTN + gained
        q_HBTN = rotate(xs_HBTN * real_BT[..., None], cos, sin)
        a_HBTD, rho_HBND = attend_chunked(q_HBTN, x_BTD, memory.layer(layer).transpose(0, 1), T)
        memory.store(layer, rho_HBND.transpose(0, 1))
        if layer + 1 < weights.layers:
            x_BTD = _answer(weights, x_BTD, xs_HBTN, a_HBTD)


def _answer(weights: Weights, x_BTD: Tensor, xs_HBTN: Tensor, a_HBTD: Tensor) -> Tensor:
    ys_HBTN = F.relu(torch.bmm(normalize(a_HBTD).flatten(1, 2), weights.encoder_v)).view_as(xs_HBTN)
    y_BTD = torch.bmm((xs_HBTN * ys_HBTN).flatten(1, 2), weights.decoder).sum(dim=0).view_as(x_BTD)
    return normalize(y_BTD) if weights.accumulates else normalize(x_BTD + normalize(y_BTD))


def normalize(x: Tensor) -> Tensor:
    """Layer norm over the last dimension without parameters."""
    return F.layer_norm(x, x.shape[-1:])
