"""`neuro`: the reservoir with mechanisms borrowed from neurons; as published only a linear readout is trained.

- x leaks (`x_decay`) and is L1-normalised (`x_normalized`); after the read only its largest entries stay (`x_kwta`).
- Dy is split into `branches` with a non-linearity each; Bernoulli spikes are added; k-WTA keeps the largest of the
  core; homeostasis scales y down to a target sum (the published target of 0.15 n is never reached while x is
  L1-normalised: then the sum of y is at most the largest core value).
- The write is scaled by a gain, the entropy of softmax(v); synapses of silent neurons fade (`local_forget_eta`).
- rho decays by a mixture of kernels. As published this is algebraically one decay, sum_k w_k u_k; `separate_kernels`
  keeps one rho per kernel and reads their weighted sum, which remembers longer.
- Every mechanism is switched off by its setting alone; the presets `neuro_no_*` and `neuro_only_*` do that. Without any
  (`neuro_none`) it is `recurrent` with a trained readout. `truncation` trains the core, as in `recurrent`.
- Spikes are drawn while training and are a fixed function of the position in evaluation (`bdh.reservoir.step`).

Shape letters: B batch, T tokens, D embedding, N neurons, K synaptic kernels, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from bdh.models.recurrent import TINY as TINY
from bdh.models.recurrent import RecurrentConfig
from bdh.models.stabilized import ReadoutReservoir
from bdh.project.errors import ParamsError
from bdh.reservoir.step import Rules


@dataclass(frozen=True)
class NeuroConfig(RecurrentConfig):
    """Settings of `neuro`; names and values are those of the published code, counts given as shares of n.

    U_kernels, U_weights: decays of rho and their weights, numbers with commas between (empty: u_decay alone).
    separate_kernels: one rho per kernel. x_decay: leak of x (1: none). x_normalized: L1 norm of x. x_kwta: k-WTA on x.
    local_forget_eta: fading of silent synapses per token (0: off). homeostasis_tau: largest sum of y, times n (0: off).
    k_wta: share of neurons that may fire (0: all). branches: blocks of Dy (0: off), branch_nl: softplus or relu.
    mod_gamma_max: largest gain (0: gain 1). spike_rate: spikes per neuron and token (0: off).
    """

    U_kernels: str = "0.99,0.97,0.94"
    U_weights: str = "0.5,0.3,0.2"
    separate_kernels: bool = False
    x_decay: float = 0.97
    x_normalized: bool = True
    x_kwta: bool = True
    local_forget_eta: float = 0.02
    homeostasis_tau: float = 0.15
    k_wta: float = 0.125
    branches: int = 2
    branch_nl: str = "softplus"
    mod_gamma_max: float = 0.8
    spike_rate: float = 0.01


class Neuro(ReadoutReservoir):
    """The neuro reservoir as a language model."""

    config: NeuroConfig

    def make_rules(self) -> Rules:
        """The dynamics that the settings stand for; raises ParamsError for settings that contradict each other."""
        c = self.config
        return Rules(
            kernels=_numbers("U_kernels", c.U_kernels) if c.U_kernels else (c.u_decay,),
            kernel_weights=_numbers("U_weights", c.U_weights) if c.U_kernels else (1.0,),
            separate_kernels=c.separate_kernels,
            use_relu_lowrank=c.use_relu_lowrank,
            ln_before_Dy=c.ln_before_Dy,
            unbiased_std=c.unbiased_std,
            x_decay=c.x_decay,
            x_normalized=c.x_normalized,
            x_kwta=c.x_kwta,
            branches=c.branches,
            branch_nl=c.branch_nl,
            k_wta=max(1, int(c.k_wta * c.n)) if c.k_wta > 0 else 0,
            homeostasis_tau=c.homeostasis_tau * c.n,
            mod_gamma_max=c.mod_gamma_max,
            local_forget_eta=c.local_forget_eta,
            spike_rate=c.spike_rate,
        )


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ParamsError(f"{name} is {text!r}; give numbers with commas between, such as 0.99,0.97") from None


Config = NeuroConfig
Model = Neuro
