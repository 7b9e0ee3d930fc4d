"""`bdh inspect`: numbers that are what they say, for every architecture, and a page that no text can break out of."""

import math

import pytest
import torch

from bdh import __main__ as cli
from bdh.commands.hub import draw_page
from bdh.corpora.tokenizer import Bytes
from bdh.hub.inspection import inspect_text, show_token
from bdh.project.errors import RunError
from bdh.project.files import RUNS, TOKENS
from bdh.training.checkpoints import save_run
from tests.hub.test_export import run_of
from tests.support.toys import write_corpus
from tests.support.tracked_project import ROOT
from tests.support.variants import KINDS

TEXT = "the cat <b>sat</b>\n"


@pytest.mark.parametrize("kind", KINDS)
def test_inspect_tells_something_true_of_every_architecture(kind):
    run = run_of(kind, Bytes(False))
    found = inspect_text(run, TEXT, top=4)
    ids = list(TEXT.encode())
    with torch.no_grad():
        logits = run.model(torch.tensor([ids])).logits[0].double()
    bits = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none") / math.log(2)
    assert [row["bits"] for row in found["predictions"][:-1]] == pytest.approx(bits.tolist(), rel=1e-3, abs=1e-4)
    assert found["predictions"][0]["state_bits"] == pytest.approx(0.0, abs=1e-4), "nothing was read before"
    assert found["predictions"][-1]["bits"] is None
    assert len(found["state"]["norm"]) == len(ids)
    assert found["state"]["norm"][-1] > 0
    assert len(found["neurons"]) <= 4
    carries = run.model.carries_state
    assert bool(found["synapses"]) == carries
    assert draw_page(found).count("<h2>") == 4


def test_inspect_synapses_of_bdh_are_what_the_tokens_wrote():
    """rho is a sum over tokens: all that is written adds up to what is there, and a zeroed layer is a layer's part."""
    run = run_of("bdh", Bytes(False))
    ids = list(TEXT.encode())
    found = inspect_text(run, TEXT, top=3)
    with torch.no_grad():
        state = run.model(torch.tensor([ids]), state=run.model.initial_state(1)).state
    for one in found["synapses"]:
        assert one["value"] == pytest.approx(float(state["rho"][(0, *one["index"])]), rel=1e-4)
        assert abs(one["value"]) >= 0.99 * float(state["rho"].abs().flatten(0, -2).max(dim=1).values.topk(3).values[-1])
        assert sum(abs(writer["change"]) for writer in one["writers"]) > abs(one["value"]) / len(ids)
    assert all(len(row["layer_bits"]) == run.model.layers for row in found["predictions"][:-1])


def test_inspect_neurons_are_those_that_fire():
    run = run_of("bdh", Bytes(False))
    found = inspect_text(run, TEXT, tap="x_sparse", top=5)
    row = found["neurons"][0]
    x_D = torch.nn.functional.layer_norm(run.model.embed.weight[list(TEXT.encode())], (16,))
    if row["layer"] == 0:
        expected = torch.relu(x_D @ run.model.encoder[row["head"]][:, row["neuron"]])
        assert row["activity"] == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-6)
    first = inspect_text(run, TEXT, tap="x_sparse", top=1)["neurons"]
    assert first == found["neurons"][:1]
    assert found["activities"] == ["xy_sparse", "x_sparse", "y_sparse"]


@pytest.mark.parametrize(
    ("kind", "text", "tap", "message"),
    [
        ("bdh", "a", None, "the text has 1 tokens; give 2 to 512"),
        ("transformer", "a" * 33, None, "the text has 33 tokens; give 2 to 32"),
        ("bdh", "ab", "mlp_sparse", "no activity 'mlp_sparse'; it shows xy_sparse, x_sparse, y_sparse"),
    ],
)
def test_inspect_mistakes_are_one_line(kind, text, tap, message):
    with pytest.raises(RunError, match=message):
        inspect_text(run_of(kind, Bytes(False)), text, tap=tap)


def test_inspect_page_escapes_every_text():
    run = run_of("bdh", Bytes(False))
    found = inspect_text(run, TEXT)
    found["tokens"][4] = "<script>alert(1)</script>"
    found["run"] = '"><img src=x onerror=alert(1)>'
    page = draw_page(found)
    assert "<script" not in page
    assert "<img" not in page
    assert "http" not in page


def test_inspect_shows_white_space_and_broken_characters():
    assert [show_token(piece) for piece in (" a", "\n", "\ufffd", "\x00", "")] == ["␣a", "⏎", "·", "·", "·"]


def test_inspect_command_draws_and_writes(tmp_path, monkeypatch, capsys):
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / TOKENS / "toy")
    run = run_of("bdh", Bytes(False))
    save_run(tmp_path / RUNS / "bdh-toy-0", run.model, run.config)
    for words, wanted in (([], "all of it: data/inspect/bdh-toy-0.html"), (["--json"], '"run": "bdh-toy-0"')):
        with pytest.raises(SystemExit) as ended:
            cli.main(["inspect", "bdh-toy-0", "--text", "the cat", "--top", "3", *words])
        said = capsys.readouterr()
        assert (ended.value.code, wanted in said.out) == (0, True), said
    assert "█" not in said.out
    assert (tmp_path / "data/inspect/bdh-toy-0.html").read_text().startswith("<!doctype html>")
