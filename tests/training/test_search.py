"""The search of settings: equal draws for every variant, resumable, chosen on validation, written without harm."""

from pathlib import Path

import pytest
import yaml

from bdh.params import load
from bdh.params.training import OneOf, Space, Span
from bdh.params.trials import read_trials
from bdh.project.errors import ParamsError
from bdh.training import search
from tests.support.stage_project import make_project

SPACE = Space(
    model={"dropout": OneOf(choices=[0.0, 0.1, 0.3])},
    train={
        "learning_rate": Span(low=0.001, high=0.1, spread="logarithmic"),
        "weight_decay": Span(low=1.0, high=2.0, spread="even"),
    },
)


def row(draw, nats, variant="bdh", **more):
    return {
        "scale": "laptop",
        "corpus": "sample_plays",
        "variant": variant,
        "draw": draw,
        "validation_nats": nats,
    } | more


def test_points_are_the_same_every_time_and_the_first_changes_nothing():
    first, again = search.points(SPACE, 9, 0), search.points(SPACE, 9, 0)
    assert first == again
    assert first[0] == {"model": {}, "train": {}}
    assert len(first) == 9
    assert len({str(point) for point in first}) == 9
    assert search.points(SPACE, 9, 1) != first


def test_points_cover_the_space_evenly_and_stay_inside():
    points = search.points(SPACE, 65, 0)[1:]
    rates = sorted(point["train"]["learning_rate"] for point in points)
    assert rates[0] >= 0.001
    assert rates[-1] <= 0.1
    assert abs(sum(rate < 0.01 for rate in rates) - 32) <= 2
    assert abs(sum(point["train"]["weight_decay"] < 1.5 for point in points) - 32) <= 2
    shares = [sum(point["model"]["dropout"] == value for point in points) for value in (0.0, 0.1, 0.3)]
    assert max(shares) - min(shares) <= 4
    assert all(float(f"{rate:.3g}") == rate for rate in rates)


def test_a_variant_goes_without_the_keys_that_it_lacks():
    params = load()
    point = {"model": {"dropout": 0.3}, "train": {"steps": 5}}
    assert search.trimmed(params, "bdh", point) == point
    assert search.trimmed(params, "recurrent", point) == {"model": {}, "train": {"steps": 5}}


def test_table_keeps_one_row_per_trial_in_one_order(tmp_path):
    params, path = load(), tmp_path / "tuning.csv"
    search.add_rows(params, [row(1, 2.0), row(0, 3.0)], path)
    search.add_rows(params, [row(1, 1.5)], path)
    found = read_trials(path)
    assert [(r["draw"], float(r["validation_nats"])) for r in found] == [("0", 3.0), ("1", 1.5)]
    before = path.read_bytes()
    search.add_rows(params, [row(0, 3.0)], path)
    assert path.read_bytes() == before


def test_a_row_made_with_other_settings_does_not_count():
    point = {"model": {"dropout": 0.3}, "train": {"learning_rate": 0.01}}
    made = {"model.dropout": "0.3", "train.learning_rate": "0.01", "train.weight_decay": ""}
    assert search.same_settings(made, point)
    assert not search.same_settings(made | {"train.learning_rate": "0.02"}, point)
    assert not search.same_settings(made | {"train.weight_decay": "1.0"}, point)


def test_nothing_is_chosen_before_all_draws_are_made_and_a_diverged_one_never():
    rows = [row(0, "2.0"), row(1, "1.0"), row(2, "")]
    assert search.best_draws(rows, "laptop", 4) == {}
    chosen = search.best_draws(rows, "laptop", 3)
    assert chosen["sample_plays", "bdh"]["draw"] == 1
    assert search.best_draws(rows, "gpu", 3) == {}


def test_choices_change_the_section_tuned_and_nothing_else(tmp_path, monkeypatch):
    found = Path("params.yaml").read_text(encoding="utf-8").split("\ntuned:")[0]
    text = found + "\ntuned:\n  laptop: {}\n  gpu:\n    shakespeare:\n      bdh: {model: {}, train: {steps: 7}}\n"
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    params = load(path)
    points = search.points(params.tune.laptop.space, params.tune.laptop.draws, params.tune.seed)
    rows = [row(n, str(3.0 - n / 10), v) for n in range(len(points)) for v in ("bdh", "gated_linear")]
    monkeypatch.setattr(search, "read_trials", lambda: rows)
    search.write_choices(params, ["bdh", "gated_linear", "eq8"], ["sample_plays"], path)
    changed = path.read_text(encoding="utf-8")
    assert changed.split("\ntuned:")[0] == text.split("\ntuned:")[0]
    assert "&" not in changed.split("\ntuned:")[1]
    tuned = load(path, values={"recipe": "tuned"})
    last = points[-1]
    assert tuned.train_of("bdh", "sample_plays").learning_rate == last["train"]["learning_rate"]
    assert tuned.model_of("gated_linear", "sample_plays")["dropout"] == last["model"]["dropout"]
    assert yaml.safe_load(changed)["tuned"]["gpu"] == yaml.safe_load(text)["tuned"]["gpu"]
    with pytest.raises(ParamsError, match="no settings for eq8; `bdh tune eq8 --corpus sample_plays` finds them"):
        tuned.train_of("eq8", "sample_plays")
    assert tuned.train_of("bdh_structured", "sample_plays").l21 > 0
    same = [tuned.train_of(name, "sample_plays").learning_rate for name in ("bdh", "bdh_structured")]
    assert same[0] == same[1], "a preset without a search of its own keeps the settings of what it is made of"
    assert tuned.train_of("recurrent", "sample_plays").regime == "none", "nothing to search for, nothing missing"


def test_trial_trains_with_its_draw_and_looks_at_validation_alone(tmp_path, monkeypatch):
    make_project(tmp_path, steps=4, validate_every=2)
    monkeypatch.chdir(tmp_path)
    params = load()
    found = search.run_trial(params, "bdh", "sample_plays", 1)
    point = search.points(params.tune.laptop.space, params.tune.laptop.draws, params.tune.seed)[1]
    assert found["train.learning_rate"] == point["train"]["learning_rate"]
    assert found["validation_nats"] > 0
    assert found["steps_done"] == 4
    assert not list(Path("reports").rglob("*")) if Path("reports").exists() else True
    assert not Path("data/runs").exists()
    worse = search.run_trial(params.model_copy(), "bdh", "sample_plays", 0)
    assert worse["validation_nats"] != found["validation_nats"]
