"""docs/using.md: every command and every piece of Python in it does what a reader expects."""

import dataclasses
import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from bdh import __main__ as cli
from bdh.corpora.tokenizer import Bytes
from bdh.project.files import REPORTS, RUNS
from bdh.training.checkpoints import save_run
from tests.hub.test_export import STATIC, run_of
from tests.hub.test_import import bdh_weights
from tests.support.stage_project import ROOT, make_project

PAGE = (ROOT / "docs/using.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def write_gpt2(folder):
    """A tiny GPT-2 of bytes by the names of its library, with zeros where nothing matters."""
    folder.mkdir(parents=True)
    W, positions = 8, 128
    shape = {"n_embd": W, "n_layer": 1, "n_head": 2, "n_positions": positions, "vocab_size": 256}
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", **shape}))
    sizes = {"attn.c_attn": (W, 3 * W), "attn.c_proj": (W, W), "mlp.c_fc": (W, 4 * W), "mlp.c_proj": (4 * W, W)}
    tensors = {f"transformer.h.0.{name}.weight": torch.zeros(size) for name, size in sizes.items()}
    tensors |= {f"transformer.h.0.{name}.bias": torch.zeros(size[1]) for name, size in sizes.items()}
    for norm in ("h.0.ln_1", "h.0.ln_2", "ln_f"):
        tensors |= {f"transformer.{norm}.weight": torch.ones(W), f"transformer.{norm}.bias": torch.zeros(W)}
    tensors |= {"transformer.wte.weight": torch.randn(256, W), "transformer.wpe.weight": torch.zeros(positions, W)}
    save_file(tensors, folder / "model.safetensors")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Two runs on a corpus of bytes, with a result, and checkpoints from elsewhere."""
    make_project(tmp_path)
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    for kind in ("bdh", "eq8"):
        run = run_of(kind, Bytes(False))
        key = f"{kind}-sample_plays-0"
        save_run(RUNS / key, run.model, run.config | {"corpus": "sample_plays"})
        for stage, result in (("train", {"parameters": 3}), ("hebbian", {"window": 128, "arms": {"static": STATIC}})):
            (REPORTS / stage).mkdir(parents=True, exist_ok=True)
            (REPORTS / stage / f"{key}.json").write_text(json.dumps(result))
    Path("checkpoints").mkdir()
    save_file(bdh_weights(), "checkpoints/official.safetensors")
    write_gpt2(Path("checkpoints/gpt2"))
    return tmp_path


def test_using_every_command_of_the_page_runs(project, monkeypatch, capfdbinary):
    """What follows `bdh import`, a training of no steps, is a test of its own."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert {shlex.split(line.rpartition("|")[2])[1] for line in lines} == {"generate", "inspect", "export", "import"}
    done = subprocess.CompletedProcess([], 0)
    for line in lines:
        given, _, command = line.rpartition("| ")
        words = shlex.split(command.replace("transcripts", "sample_plays"))
        with monkeypatch.context() as here:
            here.setattr("bdh.commands.hub.subprocess", SimpleNamespace(run=lambda *words, **options: done))
            if given:
                here.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(shlex.split(given)[1].encode())))
            with pytest.raises(SystemExit) as ended:
                cli.main(words[1:])
        assert ended.value.code == 0, (line, capfdbinary.readouterr().err)
    assert Path("eq8.html").exists()
    assert Path("out/bdh-plays/modeling_hatchery.py").exists()


def test_using_python_of_the_page_runs(project, capsys):
    (own,) = [block for block in blocks("python") if "import bdh" in block]
    exec(own, {})
    assert capsys.readouterr().out.startswith("2.25 3\n")


def test_using_load_is_light_until_it_is_called():
    """`import bdh` comes before every command: it must not read torch."""
    code = "import sys, bdh; assert callable(bdh.load); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_using_names_every_field_of_a_loaded_run():
    from bdh.hub import TrainedRun

    assert all(
        f"run.{field.name}" in PAGE for field in dataclasses.fields(TrainedRun) if field.name not in ("key", "folder")
    )
