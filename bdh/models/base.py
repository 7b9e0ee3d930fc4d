"""The interface that every architecture implements, and how one is built from plain numbers.

An architecture is a module `bdh/models/<architecture>.py` that defines three names:

- `Config`: a frozen dataclass of plain numbers, strings and booleans, all with defaults;
- `Model`: a subclass of `LanguageModel` whose constructor takes `(config, vocab_size)`;
- `TINY`: settings of the Config that make a model of a few thousand parameters, without dropout and with room for 32
  tokens; the contract suite (`tests/models/test_contract.py`) builds every architecture from them.

What a Model must do, and the contract suite tests:

- `forward` (causal, a pure function), `initial_state` and `flops_per_token`;
- every tensor of its state but `position` is in the dtype of its weights, float32 for weights that are narrower
  (`test_state_is_in_the_models_dtype`): a float64 model carries a float64 state;
- it shows the activity of its neurons through `bdh.nn.probe.tap(name, layer, tensor)` with the tensor that it goes on
  with (`test_taps_show_activations_with_the_batch_first`): `x_sparse`, `y_sparse`, `xy_sparse` of shape B,H,T,N, or
  those of them that it has; stages hebbian and frontier read nothing else.

A variant of the comparison is an architecture with settings (`bdh.params.Params`); nothing here knows of variants.

`LanguageModel` declares everything that training, decoding and evaluation may call, each with a default, so no other
package has to ask what a model has.

Shape letters in names, fixed for the whole project: B batch (independent streams), T tokens, D embedding,
H heads, N neurons per head, L layers, V vocabulary, S snapshots.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import traceback
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdh.models.catalog import known_architectures
from bdh.project.errors import HatcheryError, ParamsError, VariantError, one_line

if TYPE_CHECKING:
    from bdh.kernels.decoding.memory import DecodingWeights

DEFINES = "the docstring of bdh/models/base.py says what an architecture defines"
SURELY_SMALL = 1e11
"""Product of all whole numbers of a Config and the vocabulary below which the weights fit any machine."""

State = dict[str, Tensor]
"""What a stream needs to go on. Every tensor has the batch B as its first dimension; `position` (B,) int64
counts the tokens read so far. Tensors named `rho*` or `sigma*` are synaptic: they may be damped."""


@dataclasses.dataclass
class Output:
    """What `LanguageModel.forward` and `LanguageModel.training_pass` return.

    logits: B,T,V (B,0,V where a training pass never had them whole). loss: mean cross-entropy in nats per token, None
    without targets. state: None unless a state came in. l1: mean over layers of mean |x_sparse|, differentiable; None
    unless `model.measure_l1` is on. total: loss + l1_weight * l1 where a training pass found the gradients of this one
    number together with it, and not those of loss and l1: `LanguageModel.objective` knows both cases.
    """

    logits: Tensor
    loss: Tensor | None = None
    state: State | None = None
    l1: Tensor | None = None
    total: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class GraphFactors:
    """Low-rank factors of the neuron graph `decoder @ encoder` (neuron j feeds neuron i), H heads of N neurons.

    decoder: H*N, D (rows are neurons, head-major). encoder: H, D, N.
    """

    decoder: Tensor
    encoder: Tensor


class LanguageModel(nn.Module):
    """A causal language model.

    What a class says of itself. carries_state: a state of constant size can be carried over any number of tokens.
    trains: the regime `full` has trainable parameters. learning_rules: what `train.learning_rule` may be. prunes:
    `after_step` sets weights to zero that shall stay zero, in the average of the weights too. All but the first may
    depend on the Config. training_settings: settings of the Config that bear on training alone: before its first step a
    model is the same with any of them.

    What training settles on a model (`begin_training`). measure_l1: outputs hold the activity `l1`; l1_weight: its
    weight in the objective; kernel: `auto`, `plain` or `fused`, how a model that has kernels trains. latest_tokens_BT:
    the tokens of the newest step (all micro-batches of this process), set before `after_step`.

    layers: layers that a token passes through. vocab_size: V.
    """

    carries_state: ClassVar[bool] = True
    training_settings: ClassVar[tuple[str, ...]] = ("dropout",)
    trains: bool = True
    learning_rules: tuple[str, ...] = ("backprop",)
    prunes: bool = False
    measure_l1: bool = False
    l1_weight: float = 0.0
    kernel: str = "auto"
    latest_tokens_BT: Tensor | None = None
    layers: int = 1
    vocab_size: int

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor | None = None, state: State | None = None) -> Output:
        """Logits for the token after each of `tokens_BT` (B,T int64), given `state` (None: a fresh stream).

        With a state the output holds the state after the last token, and reading a text in chunks equals reading
        it at once. Without one nothing is carried and the parallel form is used. A pure function of the arguments,
        the weights and, while training, the random generator: it changes nothing in the model.
        """
        raise self._lacks("forward")

    def begin_training(self, *, kernel: str = "auto", l1_weight: float = 0.0) -> None:
        """Take what the settings of a training decide; an `l1_weight` above 0 has the activity measured."""
        self.kernel, self.l1_weight, self.measure_l1 = kernel, l1_weight, l1_weight > 0

    def training_pass(self, tokens_BT: Tensor, targets_BT: Tensor, state: State | None = None) -> Output:
        """What training calls in place of `forward`: the output has a loss, and `objective` is what to differentiate.

        A model that has kernels chooses them here. With `state` (`train.carry`) the output holds the state behind the
        window, as that of `forward`.
        """
        return self(tokens_BT, targets_BT, state)

    def objective(self, output: Output) -> Tensor:
        """The scalar that training differentiates, loss + l1_weight * l1 of an output with targets."""
        if output.total is not None:
            return output.total
        assert output.loss is not None, "an objective needs targets"
        if self.l1_weight == 0:
            return output.loss
        assert output.l1 is not None, f"{type(self).__name__} measures no activity"
        return output.loss + self.l1_weight * output.l1

    def local_update(self, tokens_BT: Tensor, targets_BT: Tensor) -> Output:
        """One step of learning rule `hebbian` or `hybrid` without a gradient; the output is that before the change."""
        raise NotImplementedError(f"{type(self).__name__} has no local learning rule")

    def after_step(self, step: int) -> None:
        """Called after training step 1, 2, ... with `latest_tokens_BT` set; slow plasticity goes here."""

    def step_kind(self, step: int) -> Hashable:
        """Training steps 1, 2, ... of one kind do the same with other numbers, `after_step` included.

        So one of them can be recorded as a CUDA graph and replayed for the others.
        """
        return 0

    def is_recordable(self) -> bool:
        """Whether a training step, in the present autocast, can be part of a CUDA graph.

        It must not ask the GPU for a number, nor draw random numbers on the CPU.
        """
        return True

    def decoding_weights(self) -> DecodingWeights | None:
        """The weights for `bdh.kernels.decoding.decoder.Decoder`, None for a model that only `forward` can continue."""
        return None

    def initial_state(self, batch_size: int) -> State:
        """The state of `batch_size` streams that have read nothing."""
        raise self._lacks("initial_state")

    def max_positions(self) -> int | None:
        """Longest text that one state can hold, None when there is no limit."""
        return None

    def flops_per_token(self, window: int) -> float:
        """Forward floating-point operations per token at context `window` (a multiply-add counts as two)."""
        raise self._lacks("flops_per_token")

    def _lacks(self, method: str) -> VariantError:
        """The error for a method that every architecture must define."""
        kind = type(self)
        try:
            place = f"bdh/models/{Path(inspect.getfile(kind)).name}, line {inspect.getsourcelines(kind)[1]}"
        except (OSError, TypeError):
            place = kind.__module__
        return VariantError(f"{place}: {kind.__name__} defines no {method}; {DEFINES}")

    def graph_factors(self) -> GraphFactors | None:
        """Factors of the neuron graph, None for a model that has none."""
        return None

    def l21_penalty(self) -> Tensor | None:
        """Structured L2,1 penalty (mean column norm of encoder and encoder_v, mean row norm of decoder), or None."""
        return None

    def weight_changes(self) -> dict[str, dict[str, Any]] | None:
        """Histogram of weight changes since initialisation per map of plastic synapses, None for a model without."""
        return None

    def trainable_parameters(self, regime: str) -> list[tuple[str, nn.Parameter]]:
        """Parameters that the regime (`none`, `readout`, `full`) trains, by name."""
        if regime == "none":
            return []
        named = list(self.named_parameters())
        if regime == "full":
            return named
        return [(name, parameter) for name, parameter in named if name.startswith("lm_head")]

    def parameter_count(self) -> int:
        """Number of parameters, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def state_bytes(self) -> int:
        """Bytes that one stream's state takes before it has read anything."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.initial_state(1).values())


def damp_state(state: State, factor: float) -> State:
    """The state with its synaptic tensors (`rho*`, `sigma*`) multiplied by `factor`."""
    return {name: tensor * factor if name.startswith(("rho", "sigma")) else tensor for name, tensor in state.items()}


def cross_entropy(logits_BTV: Tensor, targets_BT: Tensor | None) -> Tensor | None:
    """Mean negative log-likelihood in nats per token (float32 at least), None without targets."""
    if targets_BT is None:
        return None
    logits = logits_BTV.flatten(0, 1)
    return F.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), targets_BT.flatten())


def architecture_module(architecture: str) -> Any:
    """Import `bdh/models/<architecture>.py`; an unknown name raises ParamsError that lists the known ones.

    A file that cannot be imported, or lacks what an architecture defines, raises VariantError naming file and line.
    """
    known = known_architectures()
    if architecture not in known:
        raise ParamsError(f"unknown architecture {architecture!r}; known architectures: {', '.join(known)}")
    try:
        module = importlib.import_module(f"bdh.models.{architecture}")
    except (Exception, SystemExit) as error:
        raise VariantError(f"{_place(error, architecture)}: {type(error).__name__}: {one_line(error)}") from error
    for name in ("Config", "Model"):
        if not isinstance(vars(module).get(name), type):
            raise VariantError(f"bdh/models/{architecture}.py, line 1: it defines no class {name}; {DEFINES}")
    if not dataclasses.is_dataclass(module.Config):
        line = inspect.getsourcelines(module.Config)[1]
        raise VariantError(f"bdh/models/{architecture}.py, line {line}: Config is no dataclass; {DEFINES}")
    if not issubclass(module.Model, LanguageModel):
        line = inspect.getsourcelines(module.Model)[1]
        raise VariantError(f"bdh/models/{architecture}.py, line {line}: Model is no LanguageModel; {DEFINES}")
    return module


def _place(error: BaseException, architecture: str) -> str:
    """File and line where an import or a model failed: the last place inside the architecture's own file."""
    name = f"{architecture}.py"
    if isinstance(error, SyntaxError) and (error.filename or "").endswith(f"models/{name}"):
        return f"bdh/models/{name}, line {error.lineno}"
    lines = [entry.lineno for entry in traceback.extract_tb(error.__traceback__) if Path(entry.filename).name == name]
    return f"bdh/models/{name}, line {lines[-1] if lines else 1}"


def parameters_of(module: Any, config: Any, vocab_size: int) -> int:
    """Parameters of a model that is built without memory (device meta); 0 for one that cannot be built so."""
    try:
        with torch.device("meta"):
            return module.Model(config, vocab_size).parameter_count()
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        sized = "overflow" in str(error).lower() or "storage size" in str(error).lower()
        return 2**62 if sized else 0


def check_fits(architecture: str, module: Any, config: Any, vocab_size: int) -> None:
    """Raise VariantError, with an estimate, when the weights alone are more than the machine's memory.

    The model is built without memory first (device meta). One that cannot be built so is not estimated.
    """
    numbers = [value for value in dataclasses.asdict(config).values() if type(value) is int and value > 1]
    if math.prod(numbers) * vocab_size < SURELY_SMALL:
        return
    parameters = parameters_of(module, config, vocab_size)
    need, have = 4 * parameters, psutil.virtual_memory().total
    if need > have:
        raise VariantError(
            f"{architecture} with these settings has {parameters:.2g} parameters, {need / 2**30:.3g} GiB of weights, "
            f"four times that in training; this machine has {have / 2**30:.3g} GiB: make the sizes of `model` smaller"
        )


def build(architecture: str, *, vocab_size: int, seed: int | None = None, **config: Any) -> LanguageModel:
    """Build an architecture from plain numbers, on the CPU in float32; `seed` fixes the initial weights.

    Raises ParamsError for an unknown architecture or a key that its Config does not have. Of a variant that is a preset
    `bdh.params.Params` knows both: `architecture_of` and the settings of its model. What its file raises with these
    settings becomes a VariantError that names file and line.
    """
    module = architecture_module(architecture)
    known = [field.name for field in dataclasses.fields(module.Config)]
    for name in config:
        if name not in known:
            raise ParamsError(f"{architecture} has no setting {name!r}; it has {', '.join(known)}")
    try:
        settings = module.Config(**config)
        check_fits(architecture, module, settings, vocab_size)
        if seed is None:
            return module.Model(settings, vocab_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return module.Model(settings, vocab_size)
    except HatcheryError:
        raise
    except Exception as error:
        told = f"{type(error).__name__}: {one_line(error)}"
        raise VariantError(f"{_place(error, architecture)}: Model cannot be built: {told}") from error
