"""`train.init_from`: a training begins with the weights of another run; and what a changed setting says."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bdh.params import load
from bdh.project.errors import RunError
from bdh.training.resume import Checkpoint, CheckpointFolder
from bdh.training.run import describe
from stages.train import main
from tests.support.stage_project import make_project

KEY = "bdh-sample_plays-0"


def train(folder, monkeypatch, **settings):
    """One training in this process, with these settings."""
    make_project(folder, **settings)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("BDH_TRACKING", "off")
    main("bdh", "sample_plays", 0)
    return Path("data/runs") / KEY


def test_training_begins_with_the_weights_of_a_run(tmp_path, monkeypatch):
    run = train(tmp_path, monkeypatch, steps=4)
    shutil.copytree(run, "own/run")
    make_project(tmp_path, steps=4, learning_rate=0.001, init_from="own/run")
    begun = describe(load(), "bdh", "sample_plays", 0).build()
    for name, tensor in load_file("own/run/model.safetensors").items():
        assert torch.equal(dict(begun.state_dict())[name], tensor), name
    main("bdh", "sample_plays", 0)
    config = json.loads((run / "config.json").read_text())
    assert config["train"]["init_from"] == "own/run"
    assert config["tokenizer"] == {"name": "bytes", "vocab_size": 256, "end_of_text": None}


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("nowhere-0-0", None, r"train.init_from: data/runs/nowhere-0-0 holds no run; .* copy its folder"),
        ("own/run", {"n_embd": 16}, r"train.init_from: own/run does not fit the model"),
    ],
)
def test_what_is_no_origin_is_one_line(tmp_path, monkeypatch, name, change, told):
    run = train(tmp_path, monkeypatch, steps=2)
    shutil.copytree(run, "own/run")
    make_project(tmp_path, model=change, steps=2, init_from=name)
    with pytest.raises(RunError, match=told):
        describe(load(), "bdh", "sample_plays", 0).build()


def test_a_changed_setting_says_that_the_checkpoint_goes(tmp_path, capsys):
    """It was deleted without a word."""
    before = CheckpointFolder("bdh-x-0", "one", tmp_path)
    before.prepare()
    before.write(Checkpoint(40, {"w": torch.zeros(1)}, {}))
    assert capsys.readouterr().err == ""
    CheckpointFolder("bdh-x-0", "two", tmp_path).prepare()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("bdh-x-0: the checkpoint of step 40 is of other settings")
    assert "train.init_from: RUN" in said
    assert before.steps() == []
