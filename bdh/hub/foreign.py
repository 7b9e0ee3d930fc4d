"""Checkpoints that were trained elsewhere, with the names and settings that this project has for them.

| format | what it is | becomes |
|---|---|---|
| bdh | the official model: `encoder`, `encoder_v`, `decoder`, `embed.weight`, `lm_head`, `attn.freqs` | bdh |
| gpt2 | GPT-2 of the `transformers` library: config.json beside the weights, maps stored transposed | transformer |
| hatchery | a folder that `bdh export` wrote | what it was |

Weights are read from safetensors, or from `.pt` and `.bin` files by a reader that runs nothing (`weights_only`). What
is no such checkpoint, or would compute something else here, is refused in one line.

Such a checkpoint becomes a variant: it lies in data/imported as a run whose folder carries the sha256 of the weights,
and its section in params.yaml says `init_from` that folder and `regime: none`. Stage `train` takes the weights as they
are, so DVC, the evaluations, the page and MLflow see a run like any other. Its `family` is `imported`: nothing is known
of the text that the weights have seen, so no claim counts on it.
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import models, pre_tokenizers
from torch import Tensor

from bdh.corpora.provenance import sha256_of
from bdh.corpora.tokenizer import END_OF_TEXT
from bdh.corpora.tokens import TokenCorpus
from bdh.models.base import LanguageModel, build
from bdh.models.bdh import COMPILED_PREFIX
from bdh.params import Params
from bdh.project.errors import ParamsError, RunError, one_line
from bdh.project.files import TOKENS, read_json, replacing, write_json
from bdh.training.checkpoints import CONFIG, SUM, WEIGHTS, put_into, save_run, tensors_of

FILES = ("model.safetensors", "pytorch_model.bin", "model.pt", "checkpoint.pt", "ckpt.pt")
SETTINGS = ("config", "model_args")
NESTED = ("model", "model_state_dict", "state_dict")
MASKS = (".attn.bias", ".attn.masked_bias")
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
GPT2_NAMES = {
    "ln_1": "norm_attention",
    "attn.c_attn": "qkv",
    "attn.c_proj": "project",
    "ln_2": "norm_mlp",
    "mlp.c_fc": "expand",
    "mlp.c_proj": "contract",
}
GPT2_TABLES = {"wte": "embed", "wpe": "positions", "ln_f": "norm"}
GELUS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
NEEDED = {"layer_norm_epsilon": 1e-5, "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
"""Settings of GPT-2 that this project has no choice of, with the only value that it computes."""

BYTE_IDS, GPT2_IDS = 256, 50257
PROBE = 4096
FOLDER = Path("data/imported")
FAMILY = "imported"
SHOWN_DIGITS = 12


@dataclass(frozen=True)
class Foreign:
    """A checkpoint in this project's terms: `tokenizer` is the file of its own, None without one."""

    format: str
    architecture: str
    settings: dict[str, Any]
    vocab_size: int
    tensors: dict[str, Tensor]
    tokenizer: tokenizers.Tokenizer | None

    def build(self, source: str) -> LanguageModel:
        """The model, on the CPU in float32; RunError when its weights are others than its settings say."""
        model = build(self.architecture, vocab_size=self.vocab_size, seed=0, **self.settings)
        put_into(model, self.tensors, source)
        return model.eval()


def read_foreign(source: Path, layers: int | None = None) -> Foreign:
    """The checkpoint in a file or folder; RunError for what is none or cannot be told. `layers`: of an official BDH."""
    if not source.exists():
        raise RunError(f"{source} does not exist; give a checkpoint: a folder with weights and config.json, or a file")
    folder = source if source.is_dir() else source.parent
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if not isinstance(config, dict):
        raise RunError(f"{folder / 'config.json'} holds no settings")
    weights, inside = read_weights(_weights_file(source))
    tokenizer = _own_tokenizer(folder)
    kind = config.get("model_type")
    if kind == "gpt2":
        return _gpt2(config, weights, tokenizer, folder)
    if kind == "hatchery":
        return _hatchery(config, weights, tokenizer, folder)
    if kind is not None and "encoder_v" not in weights:
        raise RunError(f"{folder / 'config.json'}: model_type {kind!r} is not supported; known: gpt2, hatchery")
    return _official(weights, inside | config, layers, source, tokenizer)


def _weights_file(source: Path) -> Path:
    if source.is_file():
        return source
    found = [source / name for name in FILES if (source / name).is_file()] or sorted(source.glob("*.safetensors"))
    if not found:
        raise RunError(f"{source} holds no weights; looked for {', '.join(FILES)}")
    if len(found) > 1 and not found[0].name.startswith(FILES):
        raise RunError(f"{source} holds its weights in {len(found)} files; join them into one model.safetensors")
    return found[0]


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name in float32, and the settings that lie in the same file; RunError for anything else."""
    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        told = one_line(error).split(". ")[0][:160]
        raise RunError(f"{path} cannot be read as weights alone ({told}); save its state_dict as safetensors") from None
    found = found if isinstance(found, Mapping) else {}
    inside: Mapping[str, Any] = next((found[name] for name in SETTINGS if isinstance(found.get(name), Mapping)), {})
    found = next((found[name] for name in NESTED if isinstance(found.get(name), Mapping)), found)
    tensors = {
        name.removeprefix(COMPILED_PREFIX): part.float() if part.is_floating_point() else part
        for name, part in found.items()
        if isinstance(part, Tensor)
    }
    if not tensors:
        raise RunError(f"{path} holds no tensors by name; save the model's state_dict")
    return tensors, dict(inside)


def _hatchery(
    config: dict[str, Any], weights: dict[str, Tensor], tokenizer: tokenizers.Tokenizer | None, folder: Path
) -> Foreign:
    """A folder that `bdh export` wrote; its buffers are computed anew."""
    try:
        architecture, settings, vocab_size = (config[name] for name in ("architecture", "settings", "vocab_size"))
    except KeyError as error:
        raise RunError(f"{folder / 'config.json'} has no {error.args[0]}") from None
    kept = tensors_of(build(architecture, vocab_size=vocab_size, **settings))
    tensors = {name.removeprefix("model."): part for name, part in weights.items()}
    tensors = {name: part for name, part in tensors.items() if name in kept}
    return Foreign("hatchery", architecture, settings, vocab_size, tensors, tokenizer)


def _official(
    weights: dict[str, Tensor],
    config: Mapping[str, Any],
    layers: int | None,
    source: Path,
    tokenizer: tokenizers.Tokenizer | None,
) -> Foreign:
    """The official model: all but the number of layers, which share their weights, is told by the shapes."""
    missing = sorted({"encoder", "encoder_v", "decoder", "lm_head", "embed.weight"} - weights.keys())
    if missing:
        raise RunError(
            f"{source} is neither an official BDH ({', '.join(missing)} missing) nor a folder with a config.json of "
            "GPT-2; known formats: bdh, gpt2, hatchery"
        )
    depth = layers or config.get("n_layer")
    if not isinstance(depth, int):
        raise RunError(f"{source} does not say how many layers share its weights; give --layers (official: 6)")
    H, D, N = weights["encoder"].shape
    if N * H % D:
        raise RunError(f"{source}: {N} neurons per head of {H} heads are no multiple of the embedding's {D}")
    settings: dict[str, Any] = {
        "n_layer": depth,
        "n_embd": D,
        "n_head": H,
        "mlp_internal_dim_multiplier": N * H // D,
        "dropout": 0.0,
    }
    vocab_size = weights["embed.weight"].shape[0]
    model = build("bdh", vocab_size=vocab_size, **settings)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(f"{source} is no official BDH ({one_line(error)[:200]})") from None
    return Foreign("bdh", "bdh", settings, vocab_size, tensors_of(model), tokenizer)


def _gpt2(
    config: dict[str, Any], weights: dict[str, Tensor], tokenizer: tokenizers.Tokenizer | None, folder: Path
) -> Foreign:
    """GPT-2 of `transformers`, whose maps are transposed; RunError for settings that would compute something else."""
    where = folder / "config.json"
    odd = [f"{name} {config[name]!r}" for name, only in NEEDED.items() if config.get(name, only) != only]
    if odd or config.get("activation_function", "gelu_new") not in GELUS:
        known = ", ".join(GELUS)
        told = ", ".join(odd) or f"activation_function {config['activation_function']!r} (known: {known})"
        raise RunError(f"{where}: {told} is not what this project computes")
    try:
        width, depth, heads, positions = (config[name] for name in ("n_embd", "n_layer", "n_head", "n_positions"))
    except KeyError as error:
        raise RunError(f"{where} has no {error.args[0]}") from None
    if config.get("n_inner") not in (None, 4 * width):
        raise RunError(f"{where}: n_inner {config['n_inner']} is not four times n_embd {width}, as it has to be here")
    tensors: dict[str, Tensor] = {}
    tied = True
    for given, part in weights.items():
        name = given.removeprefix("transformer.")
        if name.endswith(MASKS):
            continue
        if name == "lm_head.weight":
            table = weights.get("transformer.wte.weight", weights.get("wte.weight"))
            tied = table is not None and torch.equal(part, table)
            tensors |= {} if tied else {name: part}
            continue
        tensors[_gpt2_name(name)] = part.T.contiguous() if name.endswith(TRANSPOSED) else part
    settings = {
        "match": "none",
        "width": width,
        "depth": depth,
        "heads": heads,
        "block_size": positions,
        "dropout": 0.0,
        "mlp": GELUS[config.get("activation_function", "gelu_new")],
        "tied": tied,
        "bias": True,
    }
    return Foreign("gpt2", "transformer", settings, config["vocab_size"], tensors, tokenizer)


def _gpt2_name(name: str) -> str:
    """`blocks.0.qkv.weight` of `h.0.attn.c_attn.weight`; a name that nobody knows stays and fits no model."""
    stem, _, kind = name.rpartition(".")
    if stem in GPT2_TABLES:
        return f"{GPT2_TABLES[stem]}.{kind}"
    head, _, rest = stem.partition(".")
    number, _, part = rest.partition(".")
    return f"blocks.{number}.{GPT2_NAMES[part]}.{kind}" if head == "h" and part in GPT2_NAMES else name


def _own_tokenizer(folder: Path) -> tokenizers.Tokenizer | None:
    """The tokenizer beside the weights, None without one."""
    try:
        if (folder / "tokenizer.json").is_file():
            return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            pairs = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
            found = tokenizers.Tokenizer(pairs)
            found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            return found
    except Exception as error:  # tokenizers raises bare Exception
        raise RunError(f"the tokenizer in {folder} cannot be read ({one_line(error)[:160]})") from None
    return None


def misfit(foreign: Foreign, corpus: TokenCorpus) -> str | None:
    """Why the checkpoint cannot read the tokens of a corpus, None when it can: its ids must be the corpus's."""
    own = corpus.tokenizer
    if foreign.vocab_size != corpus.vocab_size:
        return f"it has {foreign.vocab_size} ids, the tokenizer {own.name} of {corpus.name} has {corpus.vocab_size}"
    if foreign.tokenizer is None:
        known = {"bytes": BYTE_IDS, "gpt2": GPT2_IDS}
        if known.get(own.name) != foreign.vocab_size:
            return (
                f"it brings no tokenizer.json, so nobody knows whether its ids are those of {corpus.name} ({own.name})"
            )
        return None
    text = corpus.decode([int(i) for i in corpus.tokens("validation")[:PROBE] if int(i) != corpus.end_of_text])
    theirs, ours = foreign.tokenizer.encode(text, add_special_tokens=False).ids, own.encode(text)
    if theirs != ours:
        return f"its tokenizer gives the text of {corpus.name} other ids than the tokenizer {own.name} does"
    end = foreign.tokenizer.token_to_id(END_OF_TEXT)
    if own.end_of_text is not None and end is not None and end != own.end_of_text:
        return f"its end of text has the id {end}, that of {corpus.name} has {own.end_of_text}"
    return None


def bring_in(
    source: Path, variant: str, corpora: Sequence[str], params: Params, file: Path, layers: int | None, compare: bool
) -> list[str]:
    """Write the weights and the section of a new variant; the corpora (all that are tokenized, if none) it can read.

    compare: also add it to `variants`, which every corpus of the comparison must allow. Raises ParamsError and RunError
    before anything is written.
    """
    if not variant.isidentifier() or variant != variant.lower():
        raise ParamsError(f"{variant!r} is no name of a variant; take small letters, digits and _")
    if variant in params.variant:
        raise ParamsError(f"variant.{variant} is there already; choose another name or delete the section")
    foreign = read_foreign(source, layers)
    model = foreign.build(str(source))
    readable = _readable(foreign, model, corpora, params)
    if compare and (unfit := [name for name in params.corpora if name not in readable]):
        raise ParamsError(
            f"{source} cannot join a comparison on {', '.join(unfit)}; "
            f"name in `corpora` what it reads ({', '.join(readable)}), or go without --compare"
        )
    folder = _write(foreign, source, variant, model, readable)
    add_variant(file, variant, _section(foreign, folder, model, params), compare)
    return readable


def _write(foreign: Foreign, source: Path, variant: str, model: LanguageModel, readable: Sequence[str]) -> Path:
    """The weights as a run: other weights get another folder, so that DVC sees them as another setting."""
    tokenizers_of = [TokenCorpus.open(TOKENS / name).tokenizer.description() for name in readable]
    config = {
        "variant": variant,
        "architecture": foreign.architecture,
        "vocab_size": foreign.vocab_size,
        "corpus": readable[0],
        "seed": 0,
        "model": foreign.settings,
    }
    if all(one == tokenizers_of[0] for one in tokenizers_of):
        config["tokenizer"] = tokenizers_of[0]
    new = FOLDER / f".{variant}"
    save_run(new, model, config)
    digest = sha256_of(new / WEIGHTS)
    imported = {"source": source.name, "format": foreign.format, "sha256": digest}
    write_json(new / CONFIG, config | {SUM: digest, "imported": imported})
    folder = FOLDER / f"{variant}-{digest[:SHOWN_DIGITS]}"
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
    return folder


def _readable(foreign: Foreign, model: LanguageModel, corpora: Sequence[str], params: Params) -> list[str]:
    """The corpora whose tokens the model reads; RunError for a named one that it does not, and when there is none."""
    reasons = {}
    window, limit = params.hebbian_scale().window, model.max_positions()
    if limit is not None and limit < window:
        raise RunError(
            f"it has {limit} positions, hebbian.{params.scale}.window reads {window} tokens at once; shorten it first"
        )
    found = [name for name in params.corpus if (TOKENS / name / "stats.json").is_file()]
    for name in corpora or found:
        if name not in params.corpus:
            raise ParamsError(f"unknown corpus {name!r}; sections of corpus in params.yaml: {', '.join(params.corpus)}")
        reason = misfit(foreign, TokenCorpus.open(TOKENS / name))
        if reason is not None:
            reasons[name] = reason
    fitting = [name for name in corpora or found if name not in reasons]
    if not fitting or (corpora and reasons):
        told = "; ".join(reasons.values()) or "no corpus is tokenized; `dvc repro tokenize@<corpus>` does it"
        raise RunError(f"the checkpoint does not fit: {told}")
    return fitting


def _section(foreign: Foreign, folder: Path, model: LanguageModel, params: Params) -> dict[str, Any]:
    train: dict[str, Any] = {"regime": "none", "init_from": folder.as_posix(), "refit": False, "carry": False}
    limit = model.max_positions()
    if limit is not None and limit < getattr(params.scales, params.scale).train.window:
        train["window"] = limit
    return {
        "of": foreign.architecture,
        "family": FAMILY,
        "model": foreign.settings,
        "train": train,
    }


def add_variant(file: Path, name: str, section: dict[str, Any], compare: bool) -> None:
    """Add a section to `variant` (and its name to `variants`) in the text of a params file; all else stays as it is."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    root: Any = yaml.compose("".join(lines))
    parts = {key.value: value for key, value in root.value}
    text = yaml.safe_dump({name: section}, sort_keys=False, default_flow_style=False)
    edits = {_end(parts["variant"]): "".join(f"  {line}\n" for line in text.splitlines())}
    if compare:
        names = parts["variants"]
        if names.flow_style:
            end = names.end_mark
            line = lines[end.line]
            lines[end.line] = f"{line[: end.column - 1]}, {name}{line[end.column - 1 :]}"
        else:
            edits[_end(names)] = f"{' ' * names.start_mark.column}- {name}\n"
    for number, added in sorted(edits.items(), reverse=True):
        lines.insert(number, added)
    with replacing(file) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def _end(node: yaml.Node) -> int:
    """Number of the line after the last value inside a node; comments that follow belong to what comes next."""
    while isinstance(node, yaml.CollectionNode) and node.value and not node.flow_style:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return node.end_mark.line + 1
