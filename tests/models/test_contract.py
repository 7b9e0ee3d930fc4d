"""What holds for every kind of model, whatever it is; properties come from its attributes, never from its name."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from bdh.models.base import LanguageModel, damp_state
from bdh.nn.probe import listening
from bdh.project.errors import HatcheryError
from tests.support import variants

pytestmark = pytest.mark.parametrize("variant", variants.KINDS)
V, B, T = 37, 3, 23
CHUNKS = (1, 3, 7, 1, 5, 6)


def tiny(variant: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> LanguageModel:
    return variants.tiny(variant, vocab_size=V, seed=seed).to(dtype).eval()


def text(seed: int = 0, batch: int = B, length: int = T, low: int = 0, high: int = V) -> torch.Tensor:
    return torch.randint(low, high, (batch, length), generator=torch.Generator().manual_seed(seed))


def read_in_chunks(model: LanguageModel, tokens: torch.Tensor, sizes: tuple[int, ...]):
    state = model.initial_state(tokens.shape[0])
    logits = []
    for chunk in tokens.split(sizes, dim=1):
        output = model(chunk, state=state)
        state = output.state
        logits.append(output.logits)
    return torch.cat(logits, dim=1), state


def assert_states_close(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"state {n}: {m}")


def token_table(model: LanguageModel) -> tuple[str, torch.Tensor]:
    """The embedding: the first V,d tensor that is not the readout."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.dim() == 2 and tensor.shape[0] == V and not name.startswith("lm_head"):
            return name, tensor
    raise AssertionError("no embedding of shape V,d")


def test_build_is_a_function_of_the_seed(variant):
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    first, again, other = tiny(variant), tiny(variant), tiny(variant, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
        assert torch.isfinite(tensor).all(), name
    with torch.no_grad():
        assert not torch.equal(first(text()).logits, other(text()).logits)


@torch.no_grad()
def test_loss_is_the_cross_entropy_of_the_logits(variant):
    model, tokens, targets = tiny(variant), text(0), text(1)
    output = model(tokens, targets)
    assert output.logits.shape == (B, T, V)
    assert output.state is None
    assert model(tokens).loss is None
    expected = -output.logits.log_softmax(-1).gather(-1, targets[..., None]).mean()
    torch.testing.assert_close(output.loss, expected, rtol=1e-6, atol=0)
    chosen = output.logits.argmax(-1)
    if not torch.allclose(output.logits, output.logits[..., :1].expand_as(output.logits)):
        assert model(tokens, chosen).loss < output.loss


@torch.no_grad()
def test_fresh_state_equals_no_state(variant):
    model, tokens = tiny(variant), text()
    output = model(tokens, state=model.initial_state(B))
    torch.testing.assert_close(output.logits, model(tokens).logits, rtol=1e-9, atol=1e-9)
    assert output.state["position"].tolist() == [T] * B
    assert all(tensor.shape[0] == B for tensor in output.state.values())


@torch.no_grad()
@pytest.mark.parametrize("sizes", [CHUNKS, (1,) * T, (22, 1)], ids=["odd", "single", "last"])
def test_state_chunked_equals_full(variant, sizes):
    model, tokens = tiny(variant), text()
    logits, state = read_in_chunks(model, tokens, sizes)
    torch.testing.assert_close(logits, model(tokens).logits, rtol=1e-9, atol=1e-9)
    assert_states_close(state, model(tokens, state=model.initial_state(B)).state)


@torch.no_grad()
def test_state_is_not_changed_by_reading_on(variant):
    model, tokens = tiny(variant), text()
    state = model(tokens[:, :9], state=model.initial_state(B)).state
    copies = {name: tensor.clone() for name, tensor in state.items()}
    first = model(tokens[:, 9:], state=state).logits
    assert all(torch.equal(tensor, copies[name]) for name, tensor in state.items())
    assert torch.equal(model(tokens[:, 9:], state=state).logits, first)


@torch.no_grad()
def test_streams_of_a_batch_do_not_see_each_other(variant):
    model, tokens = tiny(variant), text()
    together, states = model(tokens).logits, model(tokens, state=model.initial_state(B)).state
    for stream in range(B):
        alone = tokens[stream : stream + 1]
        torch.testing.assert_close(model(alone).logits[0], together[stream], rtol=1e-9, atol=1e-9)
        state = model(alone, state=model.initial_state(1)).state
        assert_states_close(state, {name: tensor[stream : stream + 1] for name, tensor in states.items()})
    changed = tokens.clone()
    changed[1] = (changed[1] + 1) % V
    after = model(changed).logits
    assert torch.equal(after[[0, 2]], together[[0, 2]])
    assert not torch.equal(after[1], together[1])


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_causality_later_tokens_leave_earlier_logits_bit_equal(variant, dtype):
    model, tokens = tiny(variant, dtype=dtype), text()
    logits = model(tokens).logits
    for t in (0, 10, 21):
        changed = tokens.clone()
        changed[:, t + 1 :] = (changed[:, t + 1 :] + 1 + text(5, length=T - t - 1, high=V - 1)) % V
        after = model(changed).logits
        assert torch.equal(after[:, : t + 1], logits[:, : t + 1]), t
        assert not torch.equal(after[:, t + 1 :], logits[:, t + 1 :]), t


def test_causality_gradient_to_later_tokens_is_exactly_zero(variant):
    model, half = tiny(variant), V // 2
    name, table = token_table(model)
    table = table.detach().clone().requires_grad_()
    for t in (0, 10, 21):
        tokens = torch.cat((text(1, length=t + 1, high=half), text(2, length=T - t - 1, low=half)), dim=1)
        logits = torch.func.functional_call(model, {name: table}, (tokens,)).logits[..., :half]
        if not logits.requires_grad:
            assert name not in dict(model.trainable_parameters("full"))
            return
        (early,) = torch.autograd.grad(logits[:, : t + 1].square().sum(), table, retain_graph=True)
        (late,) = torch.autograd.grad(logits[:, t + 1 :].square().sum(), table)
        assert (early[half:] == 0).all(), t
        # a reservoir reads before its first write; a readout of zeros says nothing yet
        assert t == 0 or (early[:half] != 0).any() or not logits[:, : t + 1].any(), t
        assert (late[half:] != 0).any(), t


@torch.no_grad()
def test_bfloat16_autocast_stays_close(variant):
    model, tokens, targets = tiny(variant, dtype=torch.float32), text(0), text(1)
    exact = model(tokens, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(tokens, targets)
        carried = model(tokens, state=model.initial_state(B))
    assert rough.loss.dtype == torch.float32
    assert abs(rough.loss - exact.loss) < 0.02 * exact.loss
    spread = exact.logits.std() + 1e-6
    assert (rough.logits.float() - exact.logits).abs().mean() < 0.1 * spread
    assert (carried.logits.float() - exact.logits).abs().mean() < 0.1 * spread
    for name, tensor in model.initial_state(B).items():
        assert carried.state[name].dtype == tensor.dtype, name


def test_operations_and_parameters_are_counted(variant):
    model = tiny(variant)
    assert model.parameter_count() == sum(parameter.numel() for parameter in set(model.parameters()))
    assert math.isfinite(model.flops_per_token(16))
    assert model.flops_per_token(16) > 0
    assert model.flops_per_token(32) >= model.flops_per_token(16)
    assert all(parameter.dtype == torch.float64 for parameter in model.parameters())


@torch.no_grad()
def test_safetensors_round_trip_restores_the_function(variant, tmp_path):
    model, other = tiny(variant), tiny(variant, seed=1)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / "m.safetensors")
    other.load_state_dict(load_file(tmp_path / "m.safetensors"))
    assert torch.equal(model(text()).logits, other(text()).logits)


@torch.no_grad()
def test_taps_show_activations_with_the_batch_first(variant):
    seen: dict[str, torch.Size] = {}
    model = tiny(variant)
    with listening(lambda name, layer, tensor: seen.update({f"{name} {layer}": tensor.shape})):
        model(text())
    assert seen, f"{type(model).__module__} shows no activity: call bdh.nn.probe.tap (see bdh/models/base.py)"
    for name, shape in seen.items():
        assert shape[0] == B, name
        assert shape[2 if len(shape) == 4 else 1] == T, name


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_state_is_in_the_models_dtype(variant, dtype):
    """A state of another type makes every carried stream compute in it, or fail in the middle of an evaluation."""
    model = tiny(variant, dtype=dtype)
    fresh = model.initial_state(B)
    for name, tensor in fresh.items():
        assert tensor.dtype == (torch.int64 if name == "position" else dtype), (
            f"{type(model).__module__}.initial_state: {name} is {tensor.dtype}; make it in the weights' dtype, {dtype}"
        )
    carried = model(text(), state=fresh).state
    kinds = {name: (tensor.dtype, fresh[name].dtype) for name, tensor in carried.items()}
    assert all(found == wanted for found, wanted in kinds.values()), (
        f"{type(model).__module__}.forward changes the dtype of its state: {kinds}; keep that of the weights"
    )


def test_penalties_are_scalars_with_a_gradient_or_absent(variant):
    model = tiny(variant)
    assert model(text()).l1 is None
    model.measure_l1 = True
    for penalty in (model(text()).l1, model.l21_penalty()):
        assert penalty is None or (penalty.dim() == 0 and torch.isfinite(penalty) and penalty >= 0)
        if penalty is not None and model.trains and penalty.requires_grad:
            parameters = [parameter for _, parameter in model.trainable_parameters("full")]
            gradients = torch.autograd.grad(penalty, parameters, allow_unused=True)
            assert any(gradient is not None and (gradient != 0).any() for gradient in gradients)


def test_regimes_choose_parameters_of_the_model(variant):
    model = tiny(variant)
    names = dict(model.named_parameters())
    full, readout = dict(model.trainable_parameters("full")), dict(model.trainable_parameters("readout"))
    assert model.trainable_parameters("none") == []
    assert readout.keys() <= full.keys() <= names.keys()
    assert all(parameter.requires_grad for parameter in full.values())
    assert bool(full) == model.trains


def test_learning_lowers_the_loss_of_one_batch(variant):
    model, tokens, targets = tiny(variant, dtype=torch.float32), text(0), text(1)
    if not model.trains:
        assert model.trainable_parameters("full") == []
        return
    model.train()
    before = model(tokens, targets).loss.item()
    parameters = [parameter for _, parameter in model.trainable_parameters("full")]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    for step in range(60):
        if "backprop" in model.learning_rules or "hybrid" in model.learning_rules:
            optimizer.zero_grad()
            model(tokens, targets).loss.backward()
            optimizer.step()
        else:
            with torch.no_grad():
                model.local_update(tokens, targets)
        model.after_step(step)
    after = model(tokens, targets).loss.item()
    assert after < before - 0.01, (before, after)


@torch.no_grad()
def test_local_learning_changes_weights_without_autograd(variant):
    model = tiny(variant, dtype=torch.float32).train()
    assert set(model.learning_rules) <= {"backprop", "hebbian", "hybrid"}
    local = {"hebbian", "hybrid"} & set(model.learning_rules)
    if not local:
        with pytest.raises(NotImplementedError, match="no local learning rule"):
            model.local_update(text(0), text(1))
    else:
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        assert torch.isfinite(model.local_update(text(0), text(1)).loss)
        assert any(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@torch.no_grad()
def test_state_has_constant_size_exactly_if_it_can_be_carried(variant):
    model, tokens = tiny(variant), text()
    state = model(tokens, state=model.initial_state(B)).state
    grown = sum(tensor.numel() * tensor.element_size() for tensor in state.values()) / B
    assert (grown == model.state_bytes()) == model.carries_state
    damped = damp_state(state, 0.5)
    for name, tensor in state.items():
        synaptic = name.startswith(("rho", "sigma"))
        assert torch.equal(damped[name], tensor * 0.5 if synaptic else tensor), name
    if any(name.startswith(("rho", "sigma")) for name in state):
        assert not torch.equal(model(tokens, state=damped).logits, model(tokens, state=state).logits)


@torch.no_grad()
def test_context_limit_is_a_clear_error(variant):
    model = tiny(variant)
    limit = model.max_positions()
    if limit is None:
        assert model.carries_state
        return
    assert limit >= 32
    full = model(text(length=limit), state=model.initial_state(B)).state
    with pytest.raises(HatcheryError, match=str(limit)):
        model(text(length=1), state=full)
    with pytest.raises(HatcheryError, match=str(limit)):
        model(text(length=limit + 1))


def test_compiled_model_computes_the_same(variant):
    model, tokens, targets = tiny(variant), text(0), text(1)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    with torch.set_grad_enabled(model.trains and "backprop" in model.learning_rules):
        found, expected = compiled(tokens, targets), model(tokens, targets)
        torch.testing.assert_close(found.logits, expected.logits, rtol=1e-9, atol=1e-9)
        if not expected.loss.requires_grad:
            return
        parameters = [parameter for _, parameter in model.trainable_parameters("full")]
        for first, second in zip(
            torch.autograd.grad(found.loss, parameters, allow_unused=True),
            torch.autograd.grad(expected.loss, parameters, allow_unused=True),
            strict=True,
        ):
            torch.testing.assert_close(first, second, rtol=1e-7, atol=1e-10)


@torch.no_grad()
def test_targets_do_not_change_the_logits(variant):
    model, tokens = tiny(variant), text()
    assert torch.equal(model(tokens, text(1)).logits, model(tokens, text(2)).logits)
