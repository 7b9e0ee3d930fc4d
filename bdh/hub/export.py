"""A run as a folder of the `transformers` library, loadable without this project.

| file | what it is |
|---|---|
| config.json, generation_config.json | architecture, settings, limits; how `generate` samples |
| modeling_hatchery.py | the architecture's own source and what makes it a model of the library (`bdh.hub.bundle`) |
| model.safetensors | the weights, in float32 as they were trained |
| tokenizer.json, tokenizer_config.json | the tokenizer of the corpus, for `PreTrainedTokenizerFast` |
| README.md | the model card, made of the run's results; what was not measured is said to be so |
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jinja2
import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import decoders, models, pre_tokenizers

from bdh.corpora.tokenizer import BYTES, END_OF_TEXT, BytePairs, Characters, Tokenizer
from bdh.hub import TrainedRun
from bdh.hub.bundle import Symbol, bundle, home
from bdh.models.base import LanguageModel
from bdh.project.errors import RunError
from bdh.project.files import TOKENS, read_json, write_json
from bdh.tracking.identity import git_tags

CODE = "modeling_hatchery.py"
WRAPPER = "bdh.hub.wrapper"
TEMPERATURE = 0.8
LONGEST = 10**30
"""What `transformers` calls a length without limit."""
TEMPLATE = Path(__file__).with_name("card.md")
UNLICENSED = ("not established", "unknown", "none")
"""How licences begin that allow nothing."""


def export(run: TrainedRun, target: Path, root: Path) -> None:
    """Write the folder `target`; RunError when there is something else in it than an earlier export."""
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not (target / CODE).is_file())):
        raise RunError(f"{target} is there already and no earlier export; give a new folder")
    target.mkdir(parents=True, exist_ok=True)
    name = type(run.model).__name__ + "ForCausalLM"
    write_json(target / "config.json", _config(run, name))
    write_json(target / "generation_config.json", _generation(run.tokenizer))
    (target / CODE).write_text(modeling(run.config["architecture"], name), encoding="utf-8")
    save_file(_weights(run.model), target / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(run.tokenizer, run.model, target)
    (target / "README.md").write_text(model_card(run, root), encoding="utf-8")
    if (root / "LICENSE").exists():
        shutil.copyfile(root / "LICENSE", target / "LICENSE")


def modeling(architecture: str, name: str) -> str:
    """The file that defines the class `name`: an architecture of this project as a model of `transformers`."""
    module = f"bdh.models.{architecture}"
    model, config = home(module, "Model"), home(module, "Config")
    base = Symbol(WRAPPER, "HatcheryForCausalLM")
    text, names = bundle([model, config, base])
    return (
        f'"""{architecture} as a model of the `transformers` library.\n\nMade by `bdh export` from the sources of '
        f'Hatchery (MIT licence), word for word; programs for GPUs are left out.\n"""\n\n# ruff: noqa\n\n{text}\n\n'
        f'class {name}({names[base]}):\n    """The architecture `{architecture}`."""\n\n'
        f"    architecture = {names[model]}\n    settings = {names[config]}\n"
    )


def _config(run: TrainedRun, name: str) -> dict[str, Any]:
    end = run.tokenizer.end_of_text
    return {
        "model_type": "hatchery",
        "architectures": [name],
        "auto_map": {
            "AutoConfig": f"{Path(CODE).stem}.HatcheryConfig",
            "AutoModelForCausalLM": f"{Path(CODE).stem}.{name}",
        },
        "architecture": run.config["architecture"],
        "settings": run.config["model"],
        "vocab_size": run.config["vocab_size"],
        "num_hidden_layers": run.model.layers,
        "max_position_embeddings": run.model.max_positions(),
        "eos_token_id": end,
        "pad_token_id": end,
        "dtype": "float32",
        "use_cache": True,
        "hatchery": {part: run.config[part] for part in ("variant", "corpus", "seed")},
    }


def _generation(tokenizer: Tokenizer) -> dict[str, Any]:
    end = tokenizer.end_of_text
    ends = {} if end is None else {"eos_token_id": end, "pad_token_id": end}
    return {"do_sample": True, "temperature": TEMPERATURE, "top_k": 0} | ends


def _weights(model: LanguageModel) -> dict[str, torch.Tensor]:
    """All parameters and buffers, those that the project does not keep with a run too."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {f"model.{name}": tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in named}


def write_tokenizer(tokenizer: Tokenizer, model: LanguageModel, target: Path) -> None:
    """tokenizer.json and its settings: the same ids for the same text.

    The end of text has a token of its own, which `transformers` finds in a text where this project reads ordinary
    words; of the tokenizer `bytes` it is the sign with the number 0, which no text holds.
    """
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.max_positions() or LONGEST,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
    }
    fast = fast_tokenizer(tokenizer, target)
    if tokenizer.end_of_text is not None:
        end = fast.id_to_token(tokenizer.end_of_text)
        fast.add_special_tokens([tokenizers.AddedToken(end, special=True, normalized=False)])
        settings |= {"eos_token": end, "pad_token": end}
    (target / "tokenizer.json").write_text(fast.to_str() + "\n", encoding="utf-8")
    write_json(target / "tokenizer_config.json", settings)


def fast_tokenizer(tokenizer: Tokenizer, target: Path) -> tokenizers.Tokenizer:
    """The tokenizer in the form of the library `tokenizers`; one that is so already is saved in `target` first."""
    if isinstance(tokenizer, BytePairs):
        tokenizer.save(target)
        return tokenizers.Tokenizer.from_file(str(target / tokenizer.FILE))
    if isinstance(tokenizer, Characters):
        return _characters(tokenizer)
    return _bytes(tokenizer)


def _bytes(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """A byte-level BPE without merges: every byte has the number that it is."""
    signs = byte_signs()
    vocabulary = {signs[byte]: byte for byte in range(BYTES)}
    if tokenizer.end_of_text is not None:
        vocabulary = {END_OF_TEXT if byte == tokenizer.end_of_text else sign: byte for sign, byte in vocabulary.items()}
    fast = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.decoder = decoders.ByteLevel()
    return fast


def _characters(tokenizer: Characters) -> tokenizers.Tokenizer:
    """A BPE without merges over whole characters; what is none of them is spelled in bytes."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(BYTES)}
    vocabulary |= {character: BYTES + place for place, character in enumerate(tokenizer.characters)}
    if tokenizer.end_of_text is not None:
        vocabulary[END_OF_TEXT] = tokenizer.end_of_text
    fast = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    fast.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return fast


def byte_signs() -> list[str]:
    """The sign that the byte-level alphabet of GPT-2 writes for every byte."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(BYTES, 2 * BYTES))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(BYTES)]


def model_card(run: TrainedRun, root: Path) -> str:
    """README.md of the exported folder, with the metadata that the hub reads at its head."""
    train, hebbian = run.results.get("train", {}), run.results.get("hebbian", {})
    files = _files(root / TOKENS / run.config["corpus"] / "stats.json")
    origin = root / (run.config.get("train", {}).get("init_from") or "-") / "config.json"
    imported = read_json(origin).get("imported") if origin.is_file() else None
    unlicensed = [file["licence"] for file in files if file["licence"].startswith(UNLICENSED)]
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        key=run.key,
        folder=run.key,
        **{part: run.config[part] for part in ("architecture", "variant", "corpus", "seed", "model")},
        train=run.config.get("train", {}),
        tokenizer=run.tokenizer.description(),
        parameters=run.model.parameter_count(),
        state_bytes=run.model.state_bytes(),
        limit=run.model.max_positions(),
        test=run.test,
        carry=hebbian.get("arms", {}).get("carry"),
        window=hebbian.get("window"),
        validation=train.get("validation/bits_per_byte"),
        best_step=train.get("best_step"),
        imported=imported,
        files=files,
        unlicensed=", ".join(dict.fromkeys(unlicensed)),
        licence_tag="other" if unlicensed or imported else "mit",
        commit=_commit(),
    )


def _files(stats: Path) -> list[dict[str, Any]]:
    """Where the files of the corpus came from, none when it is not here."""
    found = read_json(stats).get("provenance", []) if stats.exists() else []
    return [{name: str(file[name]) for name in ("origin", "sha256", "licence")} for file in found]


def _commit() -> str:
    """The commit of the code around the current folder, with a word about changes since; `unknown` outside git."""
    tags = git_tags()
    changed = " with local changes" if tags.get("git.dirty") == "true" else ""
    return tags.get("mlflow.source.git.commit", "unknown") + changed
