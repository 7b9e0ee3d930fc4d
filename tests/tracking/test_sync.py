"""dvc.lock, pointers and store: what audit finds, and that sync mends it without making DVC run anything again."""

import json
import shutil

import pytest

from bdh.params import load
from bdh.project import lockfile
from bdh.project.files import write_json
from bdh.tracking import identity
from bdh.tracking.champions import ALIAS, champions, crown
from bdh.tracking.record import flat
from bdh.tracking.store import open_store
from bdh.tracking.sync import audit, fill_in, stage_params, sync
from bdh.training.run import describe
from tests.support.toys import write_corpus
from tests.support.tracked_project import UNWANTED, finished_project

pytestmark = pytest.mark.slow

KEY = "bdh-sample_plays-0"
STAGES = (("train", KEY), ("hebbian", KEY), ("frontier", KEY), ("compare", "all"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return finished_project(tmp_path_factory)


def enter(project, monkeypatch):
    for name in UNWANTED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(project.folder)


@pytest.fixture
def inside(finished, monkeypatch):
    """The finished project as the current folder; nothing may be changed in it."""
    enter(finished, monkeypatch)
    return finished


@pytest.fixture
def copy(finished, tmp_path, monkeypatch):
    """A copy of the finished project, with a copy of its store, as the current folder."""
    project = finished.copy_to(tmp_path / "copy")
    for name in finished.folder.glob("mlflow.db*"):
        shutil.copy(name, project.folder / name.name)
    enter(project, monkeypatch)
    return project


@pytest.fixture
def clone(finished, tmp_path, monkeypatch):
    """What a fresh clone has: results in git, no data and no store."""
    project = finished.copy_to(tmp_path / "clone")
    shutil.rmtree(project.folder / "data")
    enter(project, monkeypatch)
    return project


def problems(findings):
    return {(finding.subject, finding.problem.split(" ")[0]) for finding in findings}


def rewrite_pointer(project, stage, key, **changes):
    path = project.pointer_path(stage, key)
    text = json.dumps(project.pointer(stage, key) | changes)
    path.unlink()  # it may be a link into DVC's cache
    path.write_text(text)


def test_audit_of_a_finished_pipeline_finds_nothing(inside):
    assert audit(open_store()) == []


def test_audit_tags_of_a_run_are_those_of_dvc_lock(inside):
    entry = lockfile.load_lock()[f"train@{KEY}"]
    tags = open_store().get_run(inside.pointer()["run_id"]).data.tags
    wanted = identity.lock_tags(entry)
    assert {"dvc.dep.data/tokens/sample_plays", "dvc.dep.data/code/train/bdh.json", "dvc.params_sha"} <= set(wanted)
    assert {name: tags[name] for name in wanted} == wanted
    assert identity.differing(tags, entry) == {}


def test_sync_of_a_finished_pipeline_keeps_every_run_and_stamps_outputs(copy):
    store = open_store()
    before = {key: copy.pointer(stage, key) for stage, key in STAGES}
    assert {action.done for action in sync(store)} == {"kept"}
    assert {key: copy.pointer(stage, key) for stage, key in STAGES} == before
    tags = store.get_run(copy.pointer()["run_id"]).data.tags
    outs = lockfile.load_lock()[f"train@{KEY}"].outs
    assert tags[f"dvc.out.data/runs/{KEY}"] == outs[f"data/runs/{KEY}"]


def test_sync_refills_an_empty_store_and_dvc_has_nothing_to_do(finished, clone):
    store = open_store()
    assert {name for name, _ in problems(audit(store))} == {lockfile.stage_name(*stage) for stage in STAGES}
    pointers = {key: clone.pointer(*key) for key in STAGES}
    assert {action.done for action in sync(store)} == {"rebuilt"}
    assert audit(store) == []
    assert {key: clone.pointer(*key) for key in STAGES} == pointers, "they travel with the results"
    assert {action.done for action in sync(store)} == {"kept"}
    assert len(list(store.search())) == len(STAGES)
    assert "up to date" in clone.run("dvc", "repro", "--dry", "--allow-missing").stdout


def test_repro_in_a_fresh_clone_fills_in_what_had_not_to_run(clone):
    told = clone.run("bdh", "repro").stdout
    assert "Running stage" not in told
    assert f"filled in from results that had not to be computed again: {len(STAGES)}" in told
    assert audit(open_store()) == []
    assert "filled in" not in clone.run("bdh", "repro").stdout


def test_repro_does_not_look_for_the_runs_of_a_variant_that_was_removed(copy, monkeypatch):
    """The pointer of a removed variant, whose run nobody has, used to start a whole sync at every `bdh repro`."""
    (copy.folder / "data/results/run/train/gone-sample_plays-0.json").write_text('{"run_id": "abc"}')
    (copy.folder / "data/results/run/hebbian/gone-sample_plays-0.json").write_text('{"run_id": null}')
    store, calls = open_store(), []
    monkeypatch.setattr("bdh.tracking.sync.sync", lambda store: calls.append(store) or [])
    assert fill_in(store) == 0
    assert calls == []
    rewrite_pointer(copy, "hebbian", KEY, run_id="abc")
    fill_in(store)
    assert calls == [store]


def test_repro_without_tracking_makes_no_store(clone):
    assert "filled in" not in clone.run("bdh", "repro", BDH_TRACKING="off").stdout
    assert not list(clone.folder.glob("mlflow.db"))


def test_repro_goes_on_where_the_store_cannot_be_filled(clone):
    (clone.folder / "mlflow.db").write_text("not a database")
    done = clone.run("bdh", "repro")
    assert "bdh sync" in done.stdout + done.stderr


def test_sync_rebuilds_the_run_that_the_stage_had_made(finished, clone):
    original = open_store(f"sqlite:///{finished.folder / 'mlflow.db'}").get_run(finished.pointer()["run_id"])
    store = open_store()
    sync(store)
    rebuilt = store.get_run(clone.pointer()["run_id"])
    assert rebuilt.info.run_id != original.info.run_id
    assert rebuilt.data.tags["original_run_id"] == original.info.run_id
    assert abs(rebuilt.info.start_time - original.info.start_time) <= 1
    assert rebuilt.info.run_name == original.info.run_name

    def own(metrics):
        return {name: value for name, value in metrics.items() if not name.startswith("system/")}

    assert own(rebuilt.data.metrics) == own(original.data.metrics)
    assert {**rebuilt.data.params, **original.data.params} == rebuilt.data.params
    for axis in ("variant", "corpus", "seed", "scale", "stage", "dvc.params_sha"):
        assert rebuilt.data.tags[axis] == original.data.tags[axis]
    steps = [point.step for point in store.client.get_metric_history(rebuilt.info.run_id, "curves/train_nats")]
    assert steps == [0, 10, 20, 30, 40, 50]
    assert rebuilt.inputs.dataset_inputs[0].dataset.name == "sample_plays"
    child = store.get_run(clone.pointer("hebbian")["run_id"])
    assert child.data.tags["mlflow.parentRunId"] == rebuilt.info.run_id
    page = store.client.list_artifacts(store.get_run(clone.pointer("compare", "all")["run_id"]).info.run_id)
    assert "index.html" in {item.path for item in page}


def test_sync_mends_an_untracked_stage(copy):
    store = open_store()
    for stage in ("train", "hebbian"):
        store.client.delete_run(copy.pointer(stage)["run_id"])
        rewrite_pointer(copy, stage, KEY, run_id=None, experiment_id=None)
    assert {(f"hebbian@{KEY}", "was"), (f"train@{KEY}", "was")} <= problems(audit(store))
    done = {action.name: action.done for action in sync(store)}
    assert [done[f"{stage}@{KEY}"] for stage in ("train", "hebbian", "frontier")] == ["rebuilt", "rebuilt", "kept"]
    assert audit(store) == []
    assert {action.done for action in sync(store)} == {"kept"}
    assert fill_in(store) == 0


def test_audit_says_how_a_lost_pointer_comes_back(copy):
    for home in ("data/results", "reports"):
        (copy.folder / f"{home}/run/frontier/{KEY}.json").unlink()
    store = open_store()
    (finding,) = audit(store)
    assert (finding.subject, f"`dvc checkout frontier@{KEY}`" in finding.remedy) == (f"frontier@{KEY}", True)
    assert {action.done for action in sync(store)} == {"kept"}
    copy.run("dvc", "checkout", "-q", f"frontier@{KEY}")
    assert audit(store) == []


def test_sync_replaces_a_deleted_run_and_rehangs_its_children(copy):
    store = open_store()
    lost = copy.pointer()["run_id"]
    store.client.delete_run(lost)
    assert (f"train@{KEY}", "run") in problems(audit(store))
    actions = {action.name: action.done for action in sync(store)}
    assert actions[f"train@{KEY}"] == "rebuilt"
    assert actions[f"hebbian@{KEY}"] == "kept"
    assert audit(store) == []
    parent = store.get_run(copy.pointer()["run_id"])
    assert parent.info.run_id != lost
    assert copy.pointer()["run_id"] == lost
    assert store.get_run(copy.pointer("hebbian")["run_id"]).data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert "test/bits_per_byte/static" in parent.data.metrics
    assert "frontier/tmi" in parent.data.metrics


@pytest.mark.parametrize(
    ("tag", "value"), [("dvc.params_sha", "0" * 64), ("dvc.dep.data/tokens/sample_plays", "0" * 32), ("dvc.stage", "x")]
)
def test_audit_finds_a_tag_that_is_not_what_dvc_lock_says(copy, tag, value):
    store = open_store()
    store.client.set_tag(copy.pointer()["run_id"], tag, value)
    (finding,) = audit(store)
    assert (finding.subject, tag in finding.problem, value in finding.problem) == (f"train@{KEY}", True, True)
    assert "bdh sync" in finding.remedy
    sync(store)
    assert audit(store) == []


def test_audit_finds_a_run_that_is_not_finished(copy):
    store = open_store()
    store.client.set_terminated(copy.pointer("frontier")["run_id"], "FAILED")
    (finding,) = audit(store)
    assert "FAILED" in finding.problem


def test_audit_finds_a_number_that_is_not_the_report_s(copy):
    store = open_store()
    store.client.log_metric(copy.pointer()["run_id"], "validation/bits_per_byte", 0.5, step=7)
    (finding,) = audit(store)
    assert "validation/bits_per_byte is 0.5" in finding.problem
    sync(store)
    assert audit(store) == []


def test_audit_finds_pointers_of_no_stage_and_damaged_ones(copy):
    (copy.folder / "data/results/run/train/old-sample_plays-0.json").write_text('{"run_id": "abc"}')
    (copy.folder / f"data/results/run/hebbian/{KEY}.json").unlink()
    (copy.folder / f"data/results/run/hebbian/{KEY}.json").write_text("{")
    found = {finding.subject: finding for finding in audit(open_store())}
    assert "delete" in found["train@old-sample_plays-0"].remedy
    assert "damaged" in found[f"hebbian@{KEY}"].problem


def test_audit_finds_a_dead_run(copy):
    store = open_store()
    run = store.client.create_run(store.experiment_id, run_name="train@x", tags=identity.process_tags(999999999) | {})
    (finding,) = audit(store)
    assert "its process is gone" in finding.problem
    assert ("closed", run.info.run_id) in {(action.done, action.name) for action in sync(store)}
    assert audit(store) == []


def summary_with(key, bits=1.5):
    variant, corpus, seed = key.split("-")
    lowest = {"key": key, "variant": variant, "seed": int(seed), "test_bits_per_byte": bits}
    return {"corpora": {corpus: {"lowest": lowest}}}


def test_champion_follows_the_best_and_copies_no_weights(copy):
    store = open_store()
    name = "hatchery-sample_plays"
    first = store.client.get_model_version_by_alias(name, ALIAS)
    assert first.tags["dvc.out"] == f"data/runs/{KEY}"
    assert first.source == f"dvc://data/runs/{KEY}?md5={lockfile.outputs(lockfile.load_lock())[f'data/runs/{KEY}']}"
    assert first.run_id == copy.pointer()["run_id"]
    assert crown(store, summary_with(KEY)) == {"sample_plays": KEY}
    assert len(store.client.search_model_versions(f"name = '{name}'")) == 1
    assert crown(store, summary_with("other-sample_plays-0")) == {"sample_plays": "other-sample_plays-0"}
    assert store.client.get_model_version_by_alias(name, ALIAS).tags["variant"] == "other"
    crown(store, summary_with(KEY))
    assert store.client.get_model_version_by_alias(name, ALIAS).version == first.version
    assert not list((copy.folder / "mlruns").rglob("*.safetensors"))


def test_champion_needs_a_number():
    assert [candidate.key for candidate in champions(summary_with(KEY))] == [KEY]
    assert list(champions(summary_with(KEY, bits=None))) == []
    assert list(champions({"corpora": {"sample_plays": {}}})) == []


def test_lock_declaration_names_what_dvc_lock_records(inside):
    for stage, key in STAGES:
        declaration = lockfile.declared(stage, key)
        entry = lockfile.load_lock()[lockfile.stage_name(stage, key)]
        assert set(declaration.deps) == set(entry.deps)
        assert set(declaration.params) == set(entry.params)
        assert set(declaration.outs) == set(entry.outs)
        assert lockfile.params_sha(lockfile.current_params(declaration.params)) == lockfile.params_sha(entry.params)
        known = lockfile.current_deps(declaration, lockfile.load_lock())
        assert known.items() <= entry.deps.items()


@pytest.mark.parametrize("variant", ["bdh", "neuro_trained", "transformer", "transformer_flops", "neuro_only_kwta"])
def test_lock_parameters_of_a_run_are_those_that_training_records(variant, tmp_path, monkeypatch):
    """Settings of one scale, those that follow the window and those that a preset inherits were lost once."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "data/tokens/sample_plays", name="sample_plays")
    key = f"{variant}-sample_plays-0"
    live = describe(load(values={"device": "cpu"}), variant, "sample_plays", 0).settings()
    timing = {name: live[name] for name in ("device", "precision", "devices")}
    write_json(tmp_path / f"data/results/timing/{key}.json", timing)
    asked = lockfile.current_params(lockfile.declared("train", key).params)
    entry = lockfile.LockedStage(f"train@{key}", params=asked)
    assert flat(stage_params(entry)) == flat(live)
    if variant == "neuro_trained":
        assert [live[f"train.{name}"] for name in ("steps", "batch_size", "window")] == [100, 32, 64]
    gone = lockfile.LockedStage("train@gone-sample_plays-0", params={"variant.gone": {"of": "nothing"}})
    assert stage_params(gone) == gone.params


def test_pipeline_change_and_back_restores_the_pointer_and_makes_no_run(copy):
    store = open_store()
    before, count = copy.pointer(), len(list(store.search()))
    raw = copy.read_params()
    raw["variant"]["bdh"]["train"] = {"learning_rate": 0.001}
    copy.write_params(raw)
    ran = copy.repro()
    assert {f"train@{KEY}", "compare"} <= ran
    assert copy.pointer()["run_id"] != before["run_id"]
    assert audit(store) == []
    raw["variant"]["bdh"] = {}
    copy.write_params(raw)
    assert copy.repro() == {"compare"}, "cheap, and it writes what git keeps"
    assert copy.pointer() == before
    assert len(list(store.search())) == count + len(ran - {"code"}) + 1
    assert audit(store) == []
