"""Untrained twins: computed once per shape, shared by what differs in training alone, never those of another shape."""

import json
import threading

import pytest
import torch

from bdh.frontier import twins
from bdh.frontier.twins import Shape
from bdh.models.base import architecture_module
from bdh.models.catalog import known_architectures, settings_of
from bdh.params import load
from bdh.project.errors import RunError

OTHER = {"rule": "plain", "homeostatic": False, "plastic": False, "truncation": 8, "dropout": 0.5}


def shown(architecture, model):
    """The weights of a fresh model and what it says of a text, as it is read in evaluation."""
    one = Shape(architecture, 17, model).twin(-1)
    with torch.no_grad():
        logits = one(torch.arange(24)[None] % 17).logits
    return [*one.state_dict().values(), logits]


@pytest.mark.parametrize("architecture", known_architectures())
def test_twins_settings_of_training_change_nothing_before_the_first_step(architecture):
    """A setting that is declared to bear on training alone and changes a twin would give it another shape's numbers."""
    module = architecture_module(architecture)
    idle = [name for name in module.Model.training_settings if name in settings_of(architecture)]
    before = shown(architecture, module.TINY)
    for name in idle:
        default = settings_of(architecture)[name].default
        changed = module.TINY | {name: OTHER[name] if name in OTHER else 2 * default + 1}
        assert all(torch.equal(a, b) for a, b in zip(before, shown(architecture, changed), strict=True)), name
        assert Shape(architecture, 17, changed).identity() == Shape(architecture, 17, module.TINY).identity()


def test_twins_of_presets_that_differ_in_training_are_the_same_shape():
    params = load()
    shapes = {}
    for variant in params.variants:
        shape = Shape(params.architecture_of(variant), 99, params.model_of(variant, "sample_plays")).identity()
        shapes.setdefault(json.dumps(shape), []).append(variant)
    groups = list(shapes.values())
    assert ["bdh", "bdh_structured"] in groups
    slim = {"slim_backprop", "slim_hebbian", "slim_hybrid"}
    assert any(slim <= set(group) for group in groups)
    assert ["transformer"] in groups


def test_twins_have_seeds_that_no_run_can_have():
    assert len(set(twins.seeds(20))) == 20
    assert max(twins.seeds(20)) < 0 <= min(load().seeds)


def test_twins_are_computed_once_by_two_that_want_them_at_a_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made, entered, found = [], threading.Event(), []

    def make():
        made.append(1)
        entered.wait(0.3)
        return {name: {} for name in twins.FORM}

    both = [threading.Thread(target=lambda: found.append(twins.once({"a": 1}, make))) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert len(made) == 1
    assert found[0] == found[1]
    twins.once({"a": 2}, make)
    assert len(made) == 2


def test_twins_kept_by_another_version_are_made_anew(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = {name: {} for name in twins.FORM}
    twins.once({"a": 1}, lambda: {"old": 1})
    assert twins.once({"a": 1}, lambda: whole) == whole


def test_twins_of_another_shape_are_refused(tmp_path):
    config = {"architecture": "bdh", "vocab_size": 17, "model": architecture_module("bdh").TINY}
    shape = Shape(**config).identity()
    path = tmp_path / "twins.json"
    path.write_text(json.dumps({name: {} for name in twins.FORM} | {"shape": shape}))
    assert twins.load(path, config).shape == shape
    with pytest.raises(RunError, match="another shape"):
        twins.load(path, config | {"vocab_size": 18})
    path.write_text("{}")
    with pytest.raises(RunError, match=r"no file of untrained twins"):
        twins.load(path, config)
