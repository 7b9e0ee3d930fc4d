"""Decoding from the state equals the parallel form, token by token, for all windows, prompts and neurons."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bdh.generation import continue_text, generate
from bdh.kernels.decoding import reference as prefill_module
from bdh.kernels.decoding.decoder import Decoder
from bdh.kernels.decoding.memory import decodable, join_planes, split_planes
from bdh.kernels.decoding.reference import PlainStep
from bdh.nn.probe import listening
from bdh.project.errors import RunError
from tests.support.decoding_cases import LENGTHS, V, model_of, relative, texts, worst_error
from tests.support.variants import KINDS, tiny

DECODED = ("bdh", "eq8")
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}


@pytest.mark.parametrize("window", [1, 5, 16, 64])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("variant", DECODED)
def test_decoding_equals_the_parallel_form(variant, dtype, window):
    model = model_of(variant, dtype)
    errors = worst_error(model, Decoder(model, len(LENGTHS), window), 35)
    assert max(errors.values()) < TOLERANCE[dtype], errors


@pytest.mark.parametrize("settings", [{"n_head": 1}, {"n_embd": 30, "n_head": 3}, {"n_layer": 1}, {"n_layer": 4}])
def test_decoding_equals_the_parallel_form_at_other_shapes(settings):
    model = model_of(**settings)
    errors = worst_error(model, Decoder(model, len(LENGTHS), 7), 20)
    assert max(errors.values()) < 1e-10, errors


def shares_of_active(model):
    shares = []
    with listening(
        lambda name, layer, x: shares.append((x != 0).double().mean().item()) if name == "x_sparse" else None
    ):
        model(texts(20))
    return shares


@pytest.mark.parametrize(("kind", "share"), [("silent", 0.0), ("active", 1.0)])
def test_silent_and_active_neurons_alone(kind, share):
    model = model_of(kind=kind)
    assert set(shares_of_active(model)) == {share}
    for sparse in (False, True):
        decoder = Decoder(model, len(LENGTHS), 8)
        decoder.plain = PlainStep(decoder.weights, decoder.memory, sparse)
        errors = worst_error(model, decoder, 20)
        assert max(errors.values()) < 1e-10, (errors, sparse)


def test_usual_neurons_are_partly_silent():
    assert all(0.2 < share < 0.8 for share in shares_of_active(model_of()))


@pytest.mark.parametrize("variant", DECODED)
def test_sparse_reading_equals_dense_reading(variant):
    model, tokens, found = model_of(variant), texts(30), []
    for sparse in (False, True):
        decoder = Decoder(model, len(tokens), 8)
        decoder.plain = PlainStep(decoder.weights, decoder.memory, sparse)
        decoder.start([text[:4].tolist() for text in tokens])
        found.append(torch.stack([decoder.feed(column) for column in tokens[:, 4:].T]))
    assert relative(found[1], found[0]) < 1e-12


def test_bfloat16_products_stay_near_and_the_state_is_exact_for_them():
    """The state kept in two planes equals a float32 state that was given the same rounded tokens."""
    model, tokens = model_of(dtype=torch.float32), texts(50)
    decoder = Decoder(model, len(tokens), 16, narrow=torch.bfloat16)
    decoder.start([text[:1].tolist() for text in tokens])
    assert decoder.memory.high.dtype == torch.bfloat16
    added = torch.zeros_like(decoder.memory.high, dtype=torch.float64)
    for count, column in enumerate(tokens.T, start=1):
        decoder.feed(column)
        if count % 16 == 0:
            memory = decoder.memory
            added += memory.window_q.double() @ memory.window_x.double().unsqueeze(2)
            decoder.fold()
            assert relative(decoder.memory.state()["rho"], added) < 1e-6
            assert relative(decoder.memory.high, added) > 1e-4
    errors = worst_error(model, decoder, 35)
    assert errors["logits"] < 0.05
    assert errors["state"] < 0.02


@given(
    st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**126), max_value=2.0**126),
        min_size=1,
    )
)
@settings(max_examples=200, deadline=None)
def test_planes_give_every_number_back_and_the_upper_one_is_rounded(numbers):
    wide = torch.tensor(numbers, dtype=torch.float32)
    high, low = split_planes(wide)
    assert torch.equal(join_planes(high, low).view(torch.int32), wide.view(torch.int32))
    normal = wide.abs() > 1e-37
    assert ((high.float() - wide).abs()[normal] <= wide.abs()[normal] * 2.0**-8).all()


def test_streams_do_not_leak_into_each_other():
    model, tokens = model_of(), texts(40)
    decoder = Decoder(model, len(tokens), 8)
    results = []
    for other in (0, 1):
        changed = tokens.clone()
        changed[1:] = (changed[1:] + other) % V
        lengths = [5, 7 + 8 * other, 3]
        decoder.start([text[:n].tolist() for text, n in zip(changed, lengths, strict=True)])
        results.append(torch.stack([decoder.feed(column) for column in changed[:, 15:].T]))
    assert relative(results[1][:, 0], results[0][:, 0]) < 1e-12
    assert relative(results[1][:, 1], results[0][:, 1]) > 1e-3


def test_starting_again_forgets_everything():
    model, prompts = model_of(), texts(12).tolist()
    used, fresh = Decoder(model, len(prompts), 8), Decoder(model, len(prompts), 8)
    used.start([prompt[::-1] for prompt in prompts])
    used.run(11)
    for decoder in (used, fresh):
        decoder.start(prompts, seeds=[4, 5, 6])
    assert torch.equal(used.run(20), fresh.run(20))


@pytest.mark.parametrize("chunk", [1, 4, 11])
def test_prompts_are_read_in_chunks_of_any_size(monkeypatch, chunk):
    model = model_of("eq8")
    monkeypatch.setattr(prefill_module, "LONGEST_CHUNK", chunk)
    errors = worst_error(model, Decoder(model, len(LENGTHS), 8), 3)
    assert max(errors.values()) < 1e-10, errors


def test_state_goes_back_into_the_model():
    model, text = model_of(), texts(30)[:1]
    decoder = Decoder(model, 1, 8)
    decoder.start([text[0, :20].tolist()])
    decoder.feed(text[:, 19])
    found = model(text[:, 20:], state=decoder.state()).logits
    assert relative(found, model(text).logits[:, 20:]) < 1e-10


def test_positions_beyond_the_exact_phase_are_those_of_the_model():
    """A stream at position 16,380 crosses the place from which phases are computed in integers."""
    model, text = model_of(), texts(20)[:1]
    state = model.initial_state(1) | {"position": torch.tensor([16380])}
    decoder = Decoder(model, 1, 8)
    decoder.start([[0]])
    decoder.memory.position.fill_(16380)
    found = torch.stack([decoder.feed(column) for column in text.T], dim=1)
    assert relative(found, model(text, state=state).logits) < 1e-10


def test_memory_does_not_grow():
    decoder = Decoder(model_of(), 2, 8)
    decoder.start([[1], [2]])
    before = {name: tensor.data_ptr() for name, tensor in vars(decoder.memory).items() if torch.is_tensor(tensor)}
    size = decoder.memory.bytes_per_stream()
    decoder.run(40)
    after = {name: tensor.data_ptr() for name, tensor in vars(decoder.memory).items() if torch.is_tensor(tensor)}
    assert after == before
    assert decoder.memory.bytes_per_stream() == size


def test_only_the_family_is_decoded_here():
    models = {name: tiny(name, vocab_size=V) for name in KINDS}
    assert {name for name, model in models.items() if decodable(model)} == set(DECODED)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("variant", [*DECODED, "transformer", "recurrent"])
def test_text_is_that_of_the_generic_path(variant, dtype):
    model = tiny(variant, vocab_size=V).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6 if parameter.dim() > 1 else 1)
    prompt = [3, 1, 4, 1, 5]
    for arguments in ({"temperature": 0.0}, {"seed": 7}, {"seed": 7, "top_k": 4, "temperature": 0.7}):
        expected = list(generate(model, prompt, 80, **arguments))
        assert list(continue_text(model, prompt, 80, **arguments)) == expected, arguments
        assert len(set(expected)) > 1


def test_requests_that_cannot_be_met_are_refused_at_once():
    with pytest.raises(RunError, match="at least one token"):
        continue_text(model_of(), [], 3)
    for prompts, seeds in (([[1]], None), ([[1], []], None), ([[1], [2]], [1])):
        with pytest.raises(RunError, match="2 streams need as many prompts"):
            Decoder(model_of(), 2).start(prompts, seeds=seeds)
