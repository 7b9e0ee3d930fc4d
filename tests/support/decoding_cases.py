"""Models, texts and the comparison with the parallel form that the decoding tests share."""

import torch

from bdh.kernels.decoding.decoder import Decoder
from bdh.models.base import LanguageModel, build

V = 37
ODD = {"n_layer": 2, "n_embd": 24, "n_head": 2, "mlp_internal_dim_multiplier": 5, "dropout": 0.3}
LENGTHS = (1, 9, 30)


def model_of(variant="bdh", dtype=torch.float64, kind="usual", **settings) -> LanguageModel:
    """A small model of odd sizes (60 neurons a head) whose weights matter; all neurons silent or active on demand."""
    model = build(variant, vocab_size=V, seed=0, **(ODD | settings))
    generator = torch.Generator().manual_seed(1)
    base_D = torch.randn(model.encoder.shape[1], generator=generator)

    def near(shape, scale):
        return scale * (base_D + 0.3 * torch.randn(shape, generator=generator))

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6)
        if kind == "silent":
            model.encoder.zero_()
        if kind == "active":
            H, D, N = model.encoder.shape
            model.embed.weight.copy_(near((V, D), 1.0))
            model.decoder.copy_(near((H * N, D), 1.0))
            model.encoder.copy_(near((H, N, D), 0.1).mT)
            model.encoder_v.copy_(near((H, N, D), 0.1).mT)
    return model.to(dtype).eval()


def texts(length: int, streams: int = len(LENGTHS)) -> torch.Tensor:
    return torch.randint(V, (streams, length), generator=torch.Generator().manual_seed(2))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30)).item()


@torch.no_grad()
def worst_error(model: LanguageModel, decoder: Decoder, steps: int) -> dict[str, float]:
    """Largest relative error of logits over streams whose prompts differ in length, and of the state after them."""
    tokens = texts(max(LENGTHS) + steps)
    decoder.start([text[:length].tolist() for text, length in zip(tokens, LENGTHS, strict=True)])
    ends = torch.tensor(LENGTHS)
    found = []
    for step in range(steps):
        found.append(decoder.feed(tokens[torch.arange(len(LENGTHS)), ends - 1 + step].to(decoder.memory.tokens)))
    logits_BTV, state = torch.stack(found, dim=1).cpu(), decoder.state()
    errors = {"logits": 0.0, "state": 0.0}
    for stream, (text, length) in enumerate(zip(tokens, LENGTHS, strict=True)):
        whole = text[None, : length - 1 + steps]
        expected = model(whole).logits[0, length - 1 :]
        carried = model(whole, state=model.initial_state(1)).state
        assert state["position"][stream].item() == whole.shape[1]
        errors["logits"] = max(errors["logits"], relative(logits_BTV[stream], expected))
        errors["state"] = max(errors["state"], relative(state["rho"][stream].cpu(), carried["rho"][0]))
    return errors
