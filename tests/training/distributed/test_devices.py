"""How many processes a training gets, and which GPUs the runs of `bdh repro --jobs` get."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bdh.commands.repro import gpus_wanted
from bdh.commands.schedule import Cards, Schedule, Work
from bdh.params import load
from bdh.project.closure import closure
from bdh.project.errors import DeviceError
from bdh.training.distributed.launch import processes
from benchmarks import scaling
from tests.support.toys import settings


@pytest.mark.parametrize(
    ("devices", "gpus", "regime", "expected"),
    [
        (1, 8, "full", 1),
        (4, 8, "full", 4),
        ("all", 8, "full", 8),
        ("all", 0, "full", 1),
        (3, 0, "full", 3),
        ("all", 8, "none", 1),
        (4, 2, "none", 1),
    ],
)
def test_parallel_processes_follow_the_settings(devices, gpus, regime, expected):
    assert processes(settings(devices=devices, regime=regime), gpus) == expected


def test_parallel_more_gpus_than_there_are_is_one_clear_line():
    with pytest.raises(DeviceError, match=r"train.devices: 4 were asked for and 2 can be used"):
        processes(settings(devices=4), 2)


def test_parallel_default_is_one_device():
    params = load()
    assert {params.train_of(*run[:2]).devices for run in params.runs()} == {1}
    assert set(gpus_wanted(params).values()) == {1}


def test_parallel_cards_give_several_gpus_and_make_others_wait():
    cards = Cards(dict.fromkeys(["0", "1", "2", "3"]), jobs=3)
    assert (cards.take(1), cards.take(2)) == (["0"], ["1", "2"])
    assert cards.take("all") is None
    cards.give(["0"])
    cards.give(["1", "2"])
    assert cards.take("all") == ["0", "1", "2", "3"]


def test_parallel_cards_are_shared_when_there_are_fewer_than_jobs():
    cards = Cards(dict.fromkeys(["a", "b"]), jobs=4)
    assert sorted(gpu for _ in range(4) for gpu in cards.take(1)) == ["a", "a", "b", "b"]
    assert cards.take(1) is None
    assert Cards({}, jobs=4).take(2) == []


def test_parallel_cards_pack_by_memory_and_never_beyond_it():
    """Three cells of 30 GiB on a card of 80 ended all of them with out of memory."""
    cards = Cards({"0": 80.0, "1": 80.0}, jobs=9)
    assert [cards.take(1, 30.0) for _ in range(5)] == [["0"], ["1"], ["0"], ["1"], None]
    assert cards.take(1, 20.0) == ["0"]
    cards.give(["1"], 30.0)
    cards.give(["1"], 30.0)
    assert cards.take(1, 500.0) == ["1"], "an empty card takes what no card has room for"
    assert cards.take(2, 1.0) is None


def test_parallel_repro_shows_every_run_its_gpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cards = Cards(dict.fromkeys(["4", "5", "6"]), jobs=1)
    command = (sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])")
    works = [Work(name, command, gpus=gpus) for name, gpus in {"a": 1, "b": 2, "c": "all", "d": 9}.items()]
    assert Schedule(works, 1, cards, told=lambda line: None).run().failed == {}
    seen = {name: (tmp_path / f"data/logs/{name}.log").read_text().strip() for name in "abcd"}
    assert seen == {"a": "4", "b": "4,5", "c": "4,5,6", "d": "4,5,6"}


def test_parallel_modules_are_part_of_the_train_stage():
    files = {file.as_posix() for file in closure(["stages.train"], Path())}
    assert {f"bdh/training/distributed/{name}.py" for name in ("group", "worker", "launch")} <= files


def test_parallel_scaling_rows_say_tokens_per_second_against_one_device():
    seconds = {1: [0.1, 0.2, 0.3], 2: [0.25, 0.2, 0.3], 4: [0.4]}
    two, four = scaling.rows_of("bdh", 32 * 512, seconds, "c", torch.device("cpu"))
    assert two == {
        "work": "ddp_2", "metric": "efficiency", "ours": 2 * 32 * 512 / 0.25, "peer": 2 * 32 * 512 / 0.2,
        "ratio": pytest.approx(0.8), "n": 3, "tokens_per_device": 32 * 512, "device": "cpu", "commit": "c",
    }  # fmt: skip
    assert (four["work"], four["ratio"], four["n"]) == ("ddp_4", pytest.approx(0.5), 1)
    small = scaling.rows_of("neuro_trained", 64, seconds, "c", torch.device("cpu"))
    assert small[0]["work"] == "ddp_2_neuro_trained"


def test_parallel_scaling_takes_the_settings_of_the_gpu_scale():
    options = SimpleNamespace(batch=None, window=None, compile=None)
    official = scaling.settings_on_one_device("bdh", options)
    assert (official.batch_size, official.window) == (32, 512)
    streams = scaling.settings_on_one_device("neuro_trained", options)
    assert (streams.batch_size, streams.window, streams.compile) == (1024, 64, "off")
    options.batch = 4
    assert scaling.settings_on_one_device("bdh", options).batch_size == 4
