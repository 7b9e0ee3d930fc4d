"""`bdh import`: checkpoints from elsewhere compute here what they do there, and become runs; all else is refused."""

import difflib
import importlib.util
import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from bdh import __main__ as cli
from bdh.corpora.tokenizer import BytePairs, Bytes
from bdh.corpora.tokens import TokenCorpus
from bdh.hub import load as load_trained
from bdh.hub.export import export
from bdh.hub.foreign import add_variant, misfit, read_foreign
from bdh.params import load
from bdh.project.errors import RunError
from tests.hub.test_export import NEEDED, run_of
from tests.support.shared import shared
from tests.support.stage_project import ROOT, make_project
from tests.support.toys import TEXT, write_corpus

SHAPE = {"n_layer": 3, "n_embd": 8, "n_head": 2, "mlp_internal_dim_multiplier": 4, "dropout": 0.0}


def official(vocab_size=256):
    """The reference's own model, tiny."""
    spec = importlib.util.spec_from_file_location("official_bdh", shared("references/bdh_original/bdh.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    return module.BDH(module.BDHConfig(**SHAPE, vocab_size=vocab_size)).eval()


def bdh_weights():
    """The weights of an official model by their names, where the reference is not at hand."""
    H, D, N = 2, 8, 16
    shapes = {"encoder": (H, D, N), "encoder_v": (H, D, N), "decoder": (H * N, D), "lm_head": (D, 256)}
    torch.manual_seed(0)
    return {name: torch.randn(shape) / 9 for name, shape in (shapes | {"embed.weight": (256, D)}).items()}


def tokens(vocab_size, length=12):
    return torch.randint(vocab_size, (2, length), generator=torch.Generator().manual_seed(1))


def gpt2(folder, **changes):
    """A tiny GPT-2 saved by its own library, with a tokenizer of its own."""
    if importlib.util.find_spec("transformers") is None:
        pytest.skip(NEEDED)
    import transformers

    folder.mkdir()
    tokenizer = BytePairs.train([TEXT * 9], 280)
    tokenizer.save(folder)
    torch.manual_seed(0)
    shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": tokenizer.vocab_size} | changes
    config = transformers.GPT2Config(**shape, bos_token_id=None, eos_token_id=None)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return model, tokenizer


@pytest.mark.parametrize("name", ["official.safetensors", "official.pt", "compiled.pt"])
def test_import_official_checkpoint_computes_the_same(tmp_path, name):
    theirs = official()
    state = {key: part.contiguous() for key, part in theirs.state_dict().items()}
    if name == "compiled.pt":
        torch.save(
            {"model": {f"_orig_mod.{key}": part for key, part in state.items()}, "config": SHAPE}, tmp_path / name
        )
    elif name.endswith(".pt"):
        torch.save(state, tmp_path / name)
    else:
        save_file(state, tmp_path / name)
    found = read_foreign(tmp_path / name, layers=None if name == "compiled.pt" else 3)
    assert found.settings == SHAPE
    ids = tokens(256)
    with torch.no_grad():
        torch.testing.assert_close(found.build("it")(ids).logits, theirs(ids)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"activation_function": "gelu"}, {"tie_word_embeddings": False}], ids=str)
def test_import_gpt2_computes_the_same(tmp_path, changes):
    """A map not transposed, a bias forgotten or the other GELU."""
    theirs, tokenizer = gpt2(tmp_path / "gpt2", **changes)
    found = read_foreign(tmp_path / "gpt2")
    ids = tokens(tokenizer.vocab_size)
    with torch.no_grad():
        torch.testing.assert_close(found.build("it")(ids).logits, theirs(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_inner": 24}, "n_inner 24 is not four times n_embd 16"),
        ({"activation_function": "relu"}, r"activation_function 'relu' \(known: gelu_new"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True is not what this project"),
    ],
)
def test_import_refuses_a_gpt2_that_would_compute_something_else(tmp_path, changes, message):
    gpt2(tmp_path / "gpt2", **changes)
    with pytest.raises(RunError, match=message):
        read_foreign(tmp_path / "gpt2")


def test_import_reads_what_export_wrote(tmp_path):
    run = run_of("eq8", Bytes(False))
    export(run, tmp_path / "eq8", tmp_path)
    found = read_foreign(tmp_path / "eq8")
    ids = tokens(256)
    assert torch.equal(found.build("it")(ids).logits, run.model(ids).logits)


class Harmful:
    """What a checkpoint must not be able to do."""

    def __reduce__(self):
        return (Path.touch, (Path("harmed"),))


def write_wrong(folder, kind):
    weights = bdh_weights()
    path = folder / "it.safetensors"
    if kind == "nothing":
        return path
    if kind == "pickle":
        path = folder / "it.pt"
        torch.save({"model": weights, "more": Harmful()}, path)
        return path
    if kind == "text":
        path.write_text("no weights")
        return path
    if kind == "llama":
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
        weights = {"model.layers.0.weight": torch.zeros(2, 2)}
    if kind == "part":
        del weights["decoder"]
    if kind == "other frequencies":
        weights["attn.freqs"] = torch.linspace(0, 1, 16)
    save_file(weights, path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nothing", "does not exist; give a checkpoint"),
        ("pickle", "cannot be read as weights alone"),
        ("text", "cannot be read as weights alone"),
        ("llama", "model_type 'llama' is not supported; known: gpt2, hatchery"),
        ("part", r"neither an official BDH \(decoder missing\)"),
        ("depth", r"does not say how many layers share its weights; give --layers \(official: 6\)"),
        ("other frequencies", "not the rotary frequencies of 16 neurons per head"),
    ],
)
def test_import_refuses_what_is_no_checkpoint(tmp_path, monkeypatch, kind, message):
    monkeypatch.chdir(tmp_path)
    path = write_wrong(tmp_path, kind)
    with pytest.raises(RunError, match=message) as told:
        read_foreign(path, layers=None if kind == "depth" else 3)
    assert "\n" not in str(told.value)
    assert not Path("harmed").exists()


def test_import_takes_only_corpora_with_the_same_ids(tmp_path):
    """Equal numbers of ids are not equal ids: a model would be scored on noise."""
    _, tokenizer = gpt2(tmp_path / "gpt2")
    found = read_foreign(tmp_path / "gpt2")
    corpus = TokenCorpus.open(write_corpus(tmp_path / "toy"))
    assert "it has" in misfit(found, corpus)
    for trained, same in ((TEXT * 9, True), ("other words, elsewhere: one two three four five six. " * 9, False)):
        own = BytePairs.train([trained, TEXT], tokenizer.vocab_size) if not same else tokenizer
        if own.vocab_size != tokenizer.vocab_size:
            continue
        write_pairs(tmp_path / "pairs", own)
        reason = misfit(found, TokenCorpus.open(tmp_path / "pairs"))
        assert (reason is None) == same, reason


def write_pairs(folder, tokenizer):
    folder.mkdir(exist_ok=True)
    tokenizer.save(folder)
    ids = tokenizer.encode_many([TEXT * 6])[0]
    ids.tofile(folder / "validation.bin")
    facts = {split: {"tokens": len(ids)} for split in ("train", "validation", "test")}
    stats = {"name": "pairs", "digest": "0" * 64, "tokenizer": tokenizer.description(), "splits": facts}
    (folder / "stats.json").write_text(json.dumps(stats))


@pytest.mark.parametrize("compare", [False, True])
@pytest.mark.parametrize("flow", [False, True])
def test_import_adds_lines_to_params_and_changes_none(tmp_path, compare, flow):
    """Comments and other sections stay; what is added is read as it was meant."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    if flow:
        before, rest = text.split("variants:", 1)
        text = f"{before}variants: [bdh, eq8]   # two\n{rest[rest.index('seeds:') :]}"
    file = tmp_path / "params.yaml"
    file.write_text(text, encoding="utf-8")
    train = {"regime": "none", "init_from": "data/imported/mine-abc"}
    add_variant(file, "mine", {"of": "bdh", "family": "imported", "model": SHAPE, "train": train}, compare)
    after, params = file.read_text(encoding="utf-8").splitlines(), load(file)
    changes = difflib.SequenceMatcher(None, text.splitlines(), after, autojunk=False).get_opcodes()
    kinds = [kind for kind, *_ in changes if kind != "equal"]
    assert kinds == (["replace"] if flow and compare else ["insert"] * compare) + ["insert"]
    assert params.train_of("mine", "sample_plays").init_from == "data/imported/mine-abc"
    assert params.model_of("mine", "sample_plays")["n_layer"] == 3
    assert ("mine" in params.variants) == compare
    assert len(params.variants) == len(load(ROOT / "params.yaml").variants if not flow else ["bdh", "eq8"]) + compare


@pytest.mark.slow
def test_import_makes_a_run_that_dvc_can_make_again(tmp_path, monkeypatch, capsys):
    """The whole way: the section, the run, its report, its card; mistakes write nothing."""
    monkeypatch.setenv("BDH_TRACKING", "off")
    project = make_project(tmp_path / "project")
    (project / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    monkeypatch.chdir(project)
    save_file(bdh_weights(), tmp_path / "it.safetensors")

    def bdh(*words):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        return ended.value.code, capsys.readouterr()

    code, said = bdh("import", "../it.safetensors", "--variant", "theirs", "--layers", "3", "--corpus", "sample_plays")
    assert code == 0, said.err
    assert "theirs-sample_plays-0 is there" in said.out
    run = load_trained("theirs-sample_plays-0")
    assert torch.equal(run.model.encoder, bdh_weights()["encoder"])
    origin = json.loads((project / run.config["train"]["init_from"] / "config.json").read_text())
    assert (origin["imported"]["source"], origin["imported"]["format"]) == ("it.safetensors", "bdh")
    assert run.config["train"]["init_from"].endswith(origin["imported"]["sha256"][:12])
    export(run, tmp_path / "out", project)
    card = (tmp_path / "out/README.md").read_text()
    assert "The weights were not trained here. They come from it.safetensors" in card
    assert run.results["train"]["steps_done"] == 0
    assert run.results["train"]["validation/bits_per_byte"] > 0
    assert load().family_of("theirs") == "imported"
    for words, message in (
        (("../it.safetensors", "--variant", "theirs", "--layers", "3"), "variant.theirs is there already"),
        (("../it.safetensors", "--variant", "a-b", "--layers", "3"), "'a-b' is no name of a variant"),
        (
            ("../it.safetensors", "--variant", "more", "--layers", "3", "--compare"),
            "cannot join a comparison on sample_",
        ),
    ):
        code, said = bdh("import", *words)
        assert (code, message in said.err, said.err.count("\n")) == (2, True, 1), said.err
    assert "more" not in yaml.safe_load(Path("params.yaml").read_text())["variant"]
