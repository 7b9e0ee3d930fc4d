"""One run in a store: batches, names that MLflow accepts, and what happens when the store fails in the middle."""

import os
import time

import pytest

from bdh.tracking import writer as writing
from bdh.tracking.record import Record, flat, now_ms, plain_name
from bdh.tracking.store import Store, open_store
from bdh.tracking.writer import Sampler, Writer


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_store(f"sqlite:///{tmp_path_factory.mktemp('records') / 'mlflow.db'}")


@pytest.fixture
def record(store):
    return Record(store, store.client.create_run(store.experiment_id).info.run_id, fresh=True)


class Unreliable:
    """A client in front of a real one that breaks for a while; a batch may arrive although the answer is lost."""

    def __init__(self, client):
        self._client = client
        self.broken = False
        self.batches = []

    def __getattr__(self, name):
        return getattr(self._client, name)

    def log_batch(self, run_id, **content):
        self.batches.append(len(content.get("metrics", ())))
        self._client.log_batch(run_id, **content)
        if self.broken:
            raise ConnectionError("the line went dead")


def steps_of(store, run_id, name):
    return [point.step for point in store.client.get_metric_history(run_id, name)]


def test_record_sends_at_most_a_thousand_metrics_at_once(store, record):
    client = Unreliable(store.client)
    record.store = Store(store.uri, client, store.experiment_id)
    for step in range(1250):
        record.add({"loss": float(step), "norm": 1.0}, step, now_ms())
    record.flush()
    assert client.batches == [1000, 1000, 500]
    assert steps_of(store, record.run_id, "loss") == list(range(1250))


def test_record_never_writes_a_step_twice(store, record):
    for _ in range(2):
        record.add({"loss": 1.0}, 3, now_ms())
        record.flush()
    again = Record(store, record.run_id)
    again.add({"loss": 2.0}, 3, now_ms())
    again.add({"loss": 2.0}, 4, now_ms())
    again.flush()
    assert steps_of(store, record.run_id, "loss") == [3, 4]


def test_record_value_without_step_is_the_next_point_unless_equal(store, record):
    for value in (1.0, 1.0, 2.0, 2.0, 1.0):
        record.add({"best": value}, None, now_ms())
    record.flush()
    points = store.client.get_metric_history(record.run_id, "best")
    assert [(point.step, point.value) for point in points] == [(0, 1.0), (1, 2.0), (2, 1.0)]


def test_record_leaves_out_what_is_not_finite(store, record):
    record.add({"a": float("nan"), "b": float("inf"), "c": 1.0}, 0, now_ms())
    record.flush()
    assert set(store.client.get_run(record.run_id).data.metrics) == {"c"}


def test_record_lost_answer_makes_no_second_point(store, record):
    client = Unreliable(store.client)
    record.store = Store(store.uri, client, store.experiment_id)
    record.add({"loss": 1.0}, 1, now_ms())
    client.broken = True
    with pytest.raises(ConnectionError):
        record.flush()
    client.broken = False
    record.reload()
    record.add({"loss": 1.0}, 1, now_ms())
    record.add({"loss": 0.5}, 2, now_ms())
    record.flush()
    assert steps_of(store, record.run_id, "loss") == [1, 2]


def test_record_params_are_flat_texts_cut_at_the_limit_and_never_changed(store, record):
    record.set_params({"train": {"lr": 0.001, "empty": {}}, "odd name?": "x" * 7000, "list": [1, 2]})
    record.set_params({"train": {"lr": 5}})
    params = store.client.get_run(record.run_id).data.params
    assert params["train.lr"] == "0.001"
    assert params["train.empty"] == "{}"
    assert params["list"] == "[1, 2]"
    assert len(params["odd name_"]) == 6000


def test_record_many_params_and_tags_go_in_allowed_portions(store, record):
    record.set_params({f"p{index}": index for index in range(250)})
    record.set_tags({f"t{index}": index for index in range(250)})
    run = store.client.get_run(record.run_id)
    assert len(run.data.params) == 250
    assert run.data.tags["t249"] == "249"


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("a/b", "a/b"),
        ("a@b=c", "a_b_c"),
        ("../x", "__/x"),
        ("a//b/", "a/b"),
        ("", "_"),
        ("dvc.dep.data/x", "dvc.dep.data/x"),
    ],
)
def test_names_become_what_mlflow_accepts(store, record, name, plain):
    assert plain_name(name) == plain
    record.set_tags({name: "value"})
    assert store.client.get_run(record.run_id).data.tags[plain] == "value"


def test_flat_joins_nested_names():
    assert flat({"a": {"b": {"c": True}}, "d": None}) == {"a.b.c": "true", "d": "null"}


def start_message(**changes):
    message = {"op": "start", "stage": "train", "key": "a-b-0", "params": {"x": 1}, "tags": {}, "pid": os.getpid()}
    return message | {"since": time.time(), "resume_folder": None} | changes


def history(*steps):
    return {"op": "history", "rows": [{"step": step, "loss": 1.0 / (1 + step)} for step in steps], "at_ms": now_ms()}


@pytest.fixture
def unreliable(store, tmp_path, monkeypatch):
    """A writer whose store can break, what it says, and its client."""
    monkeypatch.chdir(tmp_path)
    client = Unreliable(store.client)
    monkeypatch.setattr(writing, "open_store", lambda: Store(store.uri, client, store.experiment_id))
    events = []
    return Writer(events.append), events, client


def test_writer_outage_in_the_middle_loses_nothing_when_the_store_comes_back(store, unreliable):
    writer, events, client = unreliable
    writer.receive(start_message())
    writer.receive(history(0, 1))
    writer.tick()
    client.broken = True
    writer.receive(history(2, 3))
    writer._flushed_at = 0.0
    writer.tick()
    writer.receive(history(4))
    writer.tick()
    client.broken = False
    assert writer.end("FINISHED") is True
    assert [event["event"] for event in events] == ["run", "problem"]
    run_id = events[0]["run_id"]
    assert store.client.get_run(run_id).info.status == "FINISHED"
    assert steps_of(store, run_id, "curves_inside/loss") == [0, 1, 2, 3, 4]


def test_writer_outage_at_the_end_is_not_called_complete(store, unreliable):
    writer, events, client = unreliable
    writer.receive(start_message())
    writer.tick()
    client.broken = True
    writer.receive(history(0))
    assert writer.end("FINISHED") is False
    assert store.client.get_run(events[0]["run_id"]).info.status == "KILLED"


def test_writer_refused_message_is_reported_and_the_others_arrive(store, unreliable, tmp_path):
    writer, events, _ = unreliable
    writer.receive(start_message())
    writer.receive({"op": "file", "path": str(tmp_path / "absent.png"), "folder": "figures"})
    writer.receive(history(0))
    assert writer.end("FINISHED") is True
    assert [event["event"] for event in events] == ["run", "problem"]
    assert "absent.png" in events[1]["message"]
    assert steps_of(store, events[0]["run_id"], "curves_inside/loss") == [0]


def test_sampler_measures_machine_and_process_and_grows_rarer():
    sampler = Sampler(os.getpid())
    assert sampler.due()
    sample = sampler.sample()
    assert sample["system/process_memory_megabytes"] > 1
    assert 0 <= sample["system/system_memory_usage_percentage"] <= 100
    assert not sampler.due()
    sampler._taken = 600
    sampler.sample()
    assert sampler._due - time.monotonic() > 50
