"""The Triton program of `bdh.decoding.sampling.choose`; importing this file needs triton."""

# The arguments of a Triton program are pointers and numbers of the device, which Python's types do not describe.
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disallow-untyped-defs=False

import triton
import triton.language as tl


@triton.jit
def _mix(h):
    h = ((h ^ (h >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return h ^ (h >> 16)


@triton.jit
def choose(
    logits, temperature, top_k, seed, position, filled, tokens, history, V, C,
    VP: tl.constexpr, EARLY: tl.constexpr = False,
):  # fmt: skip
    """Next token of stream b into `tokens` and `history`; counts the token just read in `position` and `filled`.

    EARLY: launched before the program that writes the logits has ended.
    """
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    b = tl.program_id(0)
    v = tl.arange(0, VP)
    inside = v < V
    value = tl.load(logits + b.to(tl.int64) * V + v, mask=inside, other=float("-inf")).to(tl.float32)
    heat = tl.load(temperature + b)
    kept = tl.load(top_k + b)
    place = tl.load(position + b) + 1
    race = value
    if heat > 0.0:
        key = tl.load(seed + b)
        first = _mix(_mix((key & 0xFFFFFFFF) ^ 0x85EBCA6B) ^ (place & 0xFFFFFFFF))
        second = _mix(_mix(((key >> 32) & 0xFFFFFFFF) ^ _mix(first ^ 0x27D4EB2F)) ^ ((place >> 32) & 0xFFFFFFFF))
        hashed = _mix(_mix((first + v.to(tl.int64) * 0x9E3779B1) & 0xFFFFFFFF) ^ second)
        uniform = ((hashed >> 8).to(tl.float32) + 0.5) * 5.9604644775390625e-08
        waits = tl.where(uniform < 0.0009765625, uniform + 0.5 * uniform * uniform, -tl.log(1.0 - uniform))
        race = value / heat - tl.log(waits)
        if (kept > 0) & (kept < V):
            race = tl.where(value >= _least(value, kept), race, float("-inf"))
    chosen = tl.argmax(tl.where(inside, race, float("-inf")), 0).to(tl.int64)
    waiting = tl.load(filled + b)
    tl.store(tokens + b, chosen)
    tl.store(history + b * C + waiting, chosen)
    tl.store(position + b, place)
    tl.store(filled + b, waiting + 1)


@triton.jit
def _least(value, kept):
    """The kept-th largest of the values: its bits, as an integer of the same order, are found from the top down."""
    bits = value.to(tl.int32, bitcast=True)
    order = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64) + 2147483648
    found = tl.sum(order, 0) * 0
    bit = found + 2147483648
    for _ in range(32):
        enough = tl.sum((order >= found + bit).to(tl.int32), 0) >= kept
        found = tl.where(enough, found + bit, found)
        bit = bit // 2
    return tl.min(tl.where(order >= found, value, float("inf")), 0)
