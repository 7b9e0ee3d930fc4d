"""The Triton program of `bdh.reservoir.kernel`; importing this file needs triton.

Shape letters: B batch, T tokens, D embedding, N neurons, K synaptic kernels; KP, DP, NP: padded to powers of two.
"""

# The arguments of a Triton program are pointers and numbers of the device, which Python's types do not describe.
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disallow-untyped-defs=False

import triton
import triton.language as tl


@triton.jit
def _normalize(z, inside, size: tl.constexpr, degrees: tl.constexpr):
    """(z - mean) / (std + 1e-6) of the entries that are inside, 0 outside."""
    centred = tl.where(inside, z - tl.sum(tl.where(inside, z, 0.0), 0) / size, 0.0)
    return centred / (tl.sqrt(tl.sum(centred * centred, 0) / degrees) + 1e-6)


@triton.jit
def neuro_kernel(
    drive_ptr, e_ptr, spikes_ptr, x_ptr, E_ptr, Dy_ptr, decays_ptr, reads_ptr, rho_ptr,
    x_out, y_out, v_out, gain_out, T,
    x_decay, threshold, tau, gamma, log_d, eta,
    N: tl.constexpr, D: tl.constexpr, K: tl.constexpr, NP: tl.constexpr, DP: tl.constexpr, KP: tl.constexpr,
    NORMALIZED: tl.constexpr, SIGNED: tl.constexpr, THRESHOLD: tl.constexpr, BEFORE: tl.constexpr,
    BRANCH: tl.constexpr, K_WTA: tl.constexpr, DEGREES_D: tl.constexpr, DEGREES_N: tl.constexpr,
    SPIKES: tl.constexpr, X_KWTA: tl.constexpr, HOMEOSTASIS: tl.constexpr, MODULATED: tl.constexpr,
):  # fmt: skip
    """Read T tokens of one stream (program b); see `bdh.reservoir.step.step` for what a token does."""
    b = tl.program_id(0).to(tl.int64)
    n, d, k = tl.arange(0, NP), tl.arange(0, DP), tl.arange(0, KP)
    in_n, in_d = n < N, d < D
    in_dn = in_d[:, None] & in_n[None, :]
    E_DN = tl.load(E_ptr + d[:, None] * N + n[None, :], mask=in_dn, other=0.0)
    Dy_DN = tl.load(Dy_ptr + n[None, :] * D + d[:, None], mask=in_dn, other=0.0)
    rho_at = ((b * K + k[:, None, None]) * D + d[None, :, None]) * N + n[None, None, :]
    in_kdn = (k < K)[:, None, None] & in_dn[None, :, :]
    rho_KDN = tl.load(rho_ptr + rho_at, mask=in_kdn, other=0.0)
    u_K = tl.load(decays_ptr + k, mask=k < K, other=0.0)
    w_K = tl.load(reads_ptr + k, mask=k < K, other=0.0)
    x = tl.load(x_ptr + b * N + n, mask=in_n, other=0.0)
    for t in range(T):
        row = b * T + t
        x = x_decay * x + tl.load(drive_ptr + row * N + n, mask=in_n, other=0.0)
        if NORMALIZED:
            x = x / (tl.sum(tl.abs(x), 0) + 1e-6)
        if THRESHOLD:
            x = tl.where(x > threshold * tl.max(tl.where(in_n, x, float("-inf")), 0), x, 0.0)
        a_D = tl.sum(tl.sum(rho_KDN * x[None, None, :], 2) * w_K[:, None], 0)
        if BEFORE:
            a_D = _normalize(a_D, in_d, D, DEGREES_D)
        core = tl.sum(Dy_DN * a_D[:, None], 0)
        if BRANCH == "softplus":
            core = tl.where(core > 20.0, core, tl.log(1.0 + tl.exp(core)))
        if BRANCH == "relu":
            core = tl.maximum(core, 0.0)
        if not BEFORE:
            core = _normalize(core, in_n, N, DEGREES_N)
        if SPIKES:
            core = core + tl.load(spikes_ptr + row * N + n, mask=in_n, other=0).to(tl.float32)
        core = tl.where(in_n, core, float("-inf"))
        if K_WTA < N:
            larger = core[None, :] > core[:, None]
            tied = (core[None, :] == core[:, None]) & (n[None, :] > n[:, None])
            core = tl.where(tl.sum((larger | tied).to(tl.int32), 1) < K_WTA, core, 0.0)
        y = tl.maximum(core, 0.0) * (tl.maximum(x, 0.0) if SIGNED else x)
        if HOMEOSTASIS:
            total = tl.sum(y, 0)
            y = tl.where(total > 1e-8, y * tl.minimum(tau / (total + 1e-8), 1.0), y)
        v_D = _normalize(tl.sum(E_DN * y[None, :], 1), in_d, D, DEGREES_D)
        if MODULATED:
            shifted = tl.where(in_d, v_D - tl.max(tl.where(in_d, v_D, float("-inf")), 0), float("-inf"))
            size_D = tl.exp(shifted)
            mass = tl.sum(size_D, 0)
            entropy = tl.log(mass) - tl.sum(tl.where(in_d, size_D * shifted, 0.0), 0) / mass
            gain = tl.minimum(entropy * (gamma / log_d), gamma)
        else:
            gain = tl.sum(v_D, 0) * 0.0 + 1.0
        if X_KWTA:
            keep = tl.minimum(tl.maximum((N * (0.05 + 0.25 * gain)).to(tl.int32), 1), N)
            masked = tl.where(in_n, x, float("-inf"))
            x = tl.where(tl.sum((masked[None, :] > masked[:, None]).to(tl.int32), 1) < keep, x, 0.0)
        e_D = tl.load(e_ptr + row * D + d, mask=in_d, other=0.0)
        stays_N = tl.where(x > 0.0, 1.0, 1.0 - eta)
        written_DN = e_D[:, None] * (gain * x)[None, :]
        rho_KDN = u_K[:, None, None] * (rho_KDN * stays_N[None, None, :] + written_DN[None, :, :])
        tl.store(x_out + row * N + n, x, mask=in_n)
        tl.store(y_out + row * N + n, y, mask=in_n)
        tl.store(v_out + row * D + d, v_D, mask=in_d)
        tl.store(gain_out + row, gain)
    tl.store(rho_ptr + rho_at, rho_KDN, mask=in_kdn)
