"""`bdh export`: folders that torch and transformers read without this project, in a process that cannot import it."""

import dataclasses
import importlib.util
import itertools
import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bdh.corpora.tokenizer import BytePairs, Bytes, Characters
from bdh.generation import generate
from bdh.hub import TrainedRun
from bdh.hub.export import byte_signs, export
from bdh.project.errors import RunError
from tests.support.toys import TEXT
from tests.support.variants import KINDS, preset_of, tiny

TEXTS = ("the cat é", "saß 日", " \n\n  the the'll dog.")
TOKENIZERS = {
    "bytes": lambda: Bytes(False),
    "bytes_of_documents": lambda: Bytes(True),
    "characters": lambda: Characters(TEXT, True),
    "bpe": lambda: BytePairs.train([TEXT * 9], 280),
}
pytestmark = pytest.mark.timeout(900)
STATIC = {
    "bits_per_byte": 2.25, "bits_low": 2.0, "bits_high": 2.5, "nats_per_token": 1.5, "perplexity": 4.5,
    "tokens": 1000, "bytes": 1000,
}  # fmt: skip
USING = Path(__file__).parents[2] / "docs/using.md"
NEEDED = "transformers is not installed (pip install 'hatchery[hub]')"


def run_of(kind, tokenizer):
    model = tiny(kind, vocab_size=tokenizer.vocab_size, seed=1).eval()
    architecture, _ = preset_of(kind)
    config = {
        "variant": kind,
        "corpus": "toy",
        "seed": 0,
        "architecture": architecture,
        "model": dataclasses.asdict(model.config),
        "vocab_size": tokenizer.vocab_size,
    }
    return TrainedRun(f"{kind}-toy-0", Path(), config, model, tokenizer, {})


def write_expected(run, folder):
    """What the project itself says: logits, loss, ids of texts, a greedy continuation beyond a model's positions."""
    ids = torch.randint(run.tokenizer.vocab_size, (2, 20), generator=torch.Generator().manual_seed(0))
    logits = run.model(ids).logits.detach()
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    told = {
        "texts": [[text, run.tokenizer.encode(text)] for text in TEXTS],
        "loss": float(loss),
        "greedy": list(itertools.islice(generate(run.model, ids[0, :8].tolist(), 40, temperature=0.0), 40)),
    }
    save_file({"ids": ids, "logits": logits.contiguous()}, folder / "expected.safetensors")
    (folder / "told.json").write_text(json.dumps(told))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    if importlib.util.find_spec("transformers") is None:
        pytest.skip(NEEDED)
    root = tmp_path_factory.mktemp("exports")
    tokenizers = list(TOKENIZERS.values())
    for number, kind in enumerate(KINDS):
        run = run_of(kind, tokenizers[number % len(tokenizers)]())
        export(run, root / kind, root)
        write_expected(run, root / kind)
    (block,) = re.findall(r"```python\n(from transformers.*?)```", USING.read_text(encoding="utf-8"), flags=re.DOTALL)
    (root / "using.py").write_text(block.replace("out/bdh-plays", "bdh"))
    libraries = {Path(importlib.util.find_spec(name).origin).parents[1] for name in ("torch", "transformers", "regex")}
    site = [str(path) for path in {*libraries, Path(sysconfig.get_paths()["purelib"])}]
    program = Path(__file__).parents[1] / "support/hub_reader.py"
    done = subprocess.run(
        [sys.executable, "-I", "-S", program, root, *site],
        env={"HF_HOME": str(root / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_export_reads_and_writes_as_the_project_does(found, kind):
    one = found[kind]
    assert one["logits"] < 1e-5
    assert one["cached"] < 1e-5
    assert one["loss"] < 1e-5
    assert one["ids"] == one["texts"] == [True] * len(TEXTS)
    assert one["greedy"], "another continuation than bdh.generation writes"
    assert one["dtype"] == "torch.float32"


@pytest.mark.slow
def test_export_generates_2000_tokens_in_a_state_that_does_not_grow(found):
    """A cache that kept a token, or logits, would grow; a transformer's grows up to its positions and no further."""
    flat, limited = found["memory"]["bdh"], found["memory"]["transformer"]
    assert (flat["length"], flat["read"]) == (2005, 2004)
    assert (limited["length"], limited["read"]) == (105, 104)
    model = tiny("bdh", vocab_size=256)
    assert flat["bytes"] == [model.state_bytes()]
    assert len(limited["bytes"]) <= tiny("transformer", vocab_size=256).max_positions()


@pytest.mark.slow
def test_export_takes_padded_batches_beams_and_pipelines(found):
    assert found["batches"] == {"padded": [True, True], "beams": True}
    assert found["again"]["written"].startswith("the cat")
    assert len(found["again"]["written"]) > len("the cat")
    assert found["again"]["copy"] == 0.0
    assert found["using"].startswith("The king")


def test_export_spells_bytes_as_gpt2_does():
    """A sign in another place would read every text as other bytes."""
    from tokenizers import pre_tokenizers

    signs = byte_signs()
    assert sorted(signs) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert [signs[ord("A")], signs[ord(" ")], signs[ord("\n")], signs[0]] == ["A", "Ġ", "Ċ", "Ā"]


def test_export_leaves_a_folder_alone_that_is_no_export(tmp_path):
    run = run_of("bdh", Bytes(False))
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="is there already and no earlier export"):
        export(run, tmp_path, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    export(run, tmp_path / "new", tmp_path)
    export(run, tmp_path / "new", tmp_path)


def test_export_card_says_what_was_measured_and_what_was_not(tmp_path):
    """A card that claimed numbers of another arm, or hid that a licence forbids publishing."""
    run = run_of("bdh", Bytes(False))
    export(run, tmp_path / "bare", tmp_path)
    assert "Not measured" in (tmp_path / "bare/README.md").read_text()
    stats = tmp_path / "data/tokens/toy/stats.json"
    stats.parent.mkdir(parents=True)
    origin = {"origin": "https://example.org/a.txt", "sha256": "ab" * 32, "licence": "not established; measuring only"}
    stats.write_text(json.dumps({"provenance": [origin]}))
    results = {"hebbian": {"window": 128, "arms": {"static": STATIC}}, "train": {"validation/bits_per_byte": 2.3}}
    measured = dataclasses.replace(run, results={**results, "train": {**results["train"], "best_step": 40}})
    export(measured, tmp_path / "measured", tmp_path)
    card = (tmp_path / "measured/README.md").read_text()
    assert "| bits per byte | 2.2500 (95 % interval 2.0000 to 2.5000, over documents) |" in card
    assert "keep these weights to yourself" in card
    assert "ab" * 32 in card
    assert "license: other" in card
