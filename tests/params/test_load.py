"""params.yaml: what ships is valid, and every mistake is one line that names the place."""

import copy
from pathlib import Path

import pytest
import yaml

from bdh.models.catalog import settings_of
from bdh.params import load
from bdh.project.errors import ParamsError

SHIPPED = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))


def set_key(raw, dotted, value):
    *path, last = dotted.split(".")
    for part in path:
        raw = raw.setdefault(part, {})
    raw[last] = value


def load_with(tmp_path, **changes):
    raw = copy.deepcopy(SHIPPED)
    for dotted, value in changes.items():
        set_key(raw, dotted, value)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return load(path)


def test_params_shipped_file_is_valid():
    params = load()
    assert len(params.runs()) == len(params.variants) * len(params.corpora) * len(params.seeds)


def test_params_every_architecture_that_ships_has_a_section():
    shipped = {"bdh", "eq8", "transformer", "hebbian_block", "recurrent", "stabilized", "neuro", "slim"}
    params = load()
    assert shipped <= {params.architecture_of(name) for name in params.variant}


def test_params_every_axis_value_makes_a_distinct_stage_name():
    params = load()
    names = [*params.variants, *params.corpora, *map(str, params.seeds)]
    assert not any("-" in name for name in names)


@pytest.mark.parametrize("scale", ["laptop", "gpu"])
def test_params_every_run_resolves_at_every_scale(tmp_path, scale):
    params = load_with(tmp_path, scale=scale, variants=sorted(SHIPPED["variant"]), corpora=sorted(SHIPPED["corpus"]))
    for variant, corpus, _ in params.runs():
        assert params.train_of(variant, corpus).steps > 0
        assert isinstance(params.model_of(variant, corpus), dict)


def test_params_variant_overrides_corpus_overrides_scale(tmp_path):
    params = load_with(
        tmp_path,
        **{
            "corpus.sample_plays.scales.laptop.train": {"steps": 7, "window": 32},
            "variant.bdh.train": {"steps": 5},
        },
    )
    assert params.train_of("bdh", "sample_plays").steps == 5
    assert params.train_of("bdh", "sample_plays").window == 32
    assert params.train_of("transformer", "sample_plays").steps == 7


def test_params_variant_overrides_at_one_scale_win_there_and_only_there(tmp_path):
    own = {"model": {"dropout": 0.2}, "train": {"steps": 7}}
    scales = {"laptop": own, "gpu": {"model": {}, "train": {}}}
    changes = {"variants": ["bdh"], "corpora": ["sample_plays"], "variant.bdh.train": {"steps": 9}}
    for scale, steps, dropout in (("laptop", 7, 0.2), ("gpu", 9, 0.1)):
        params = load_with(tmp_path, scale=scale, **changes, **{"variant.bdh.scales": scales})
        assert params.train_of("bdh", "sample_plays").steps == steps
        assert params.model_of("bdh", "sample_plays")["dropout"] == dropout
    with pytest.raises(ParamsError, match=r"variant.bdh.scales.laptop.model.n_layers: unknown key"):
        load_with(tmp_path, **{"variant.bdh.scales": scales | {"laptop": own | {"model": {"n_layers": 1}}}})


def test_params_preset_inherits_and_its_own_keys_win(tmp_path):
    """Also over what it inherits for one scale; a preset of a preset goes on from there."""
    one = {"of": "neuro_trained", "train": {"steps": 7}, "model": {"k_wta": 0.5}}
    changes = {"variant.one": one, "variant.two": {"of": "one", "model": {"spike_rate": 0.0}}}
    params = load_with(tmp_path, **changes, variants=["one", "two"], corpora=["sample_plays"])
    parent = params.train_of("neuro_trained", "sample_plays")
    assert (parent.steps, parent.batch_size, parent.window, parent.compile) == (100, 32, 64, "off")
    assert params.train_of("two", "sample_plays") == parent.model_copy(update={"steps": 7})
    expected = params.model_of("neuro_trained", "sample_plays") | {"k_wta": 0.5}
    assert params.model_of("one", "sample_plays") == expected
    assert params.model_of("two", "sample_plays") == expected | {"spike_rate": 0.0}
    assert params.preset_of("two") == {"truncation": 32, "k_wta": 0.5, "spike_rate": 0.0}
    assert params.architecture_of("two") == "neuro"


def test_params_family_is_inherited_and_an_ablation_is_not(tmp_path):
    changes = {
        "variant.one": {"of": "neuro_no_kwta", "family": "mine"},
        "variant.two": {"of": "one", "only": "spikes"},
        "variant.three": {"of": "slim"},
    }
    params = load_with(tmp_path, **changes)
    assert [params.family_of(name) for name in ("neuro_no_kwta", "one", "two", "three")] == [
        "neuro",
        "mine",
        "mine",
        "slim",
    ]
    assert {params.family_of(name) for name in ("bdh", "bdh_structured")} == {"bdh"}
    assert {params.family_of(name) for name in ("transformer", "transformer_flops")} == {"transformer"}
    found = [params.ablation_of(name) for name in ("neuro", "neuro_no_kwta", "one", "two", "neuro_only_x_norm")]
    assert found == [None, ("without", "kwta"), None, ("only", "spikes"), ("only", "x_norm")]
    with pytest.raises(ParamsError, match="unknown variant 'four'"):
        params.ablation_of("four")


def test_params_model_has_every_setting_and_the_training_window(tmp_path):
    params = load_with(tmp_path, **{"variant.transformer_flops.model": {"match": "flops", "window": 99}})
    found = params.model_of("transformer", "sample_plays")
    assert found.keys() == settings_of("transformer").keys()
    assert found["block_size"] == found["window"] == params.train_of("transformer", "sample_plays").window == 128
    assert params.model_of("transformer_flops", "sample_plays")["window"] == 99


def test_params_values_by_dotted_name_are_laid_over_the_file_and_checked():
    params = load(values={"variant.bdh": {"train": {"steps": 3}}, "scale": "gpu"})
    train = params.train_of("bdh", "sample_plays")
    assert (train.steps, train.window) == (3, 512)
    with pytest.raises(ParamsError, match=r"variant\.bdh\.train\.stepz: unknown key"):
        load(values={"variant.bdh": {"train": {"stepz": 3}}})


def test_params_unquoted_date_is_read(tmp_path):
    import datetime

    params = load_with(tmp_path, **{"corpus.sample_calls.text.split.train_until": datetime.date(2017, 1, 2)})
    assert params.corpus["sample_calls"].text.split.train_until == datetime.date(2017, 1, 2)


@pytest.mark.parametrize(
    ("dotted", "value", "expected"),
    [
        ("devise", "cpu", r"devise: unknown key; did you mean 'device'"),
        ("scales.laptop.train.step", 1, r"scales\.laptop\.train\.step: unknown key; did you mean 'steps'"),
        ("scales.laptop.train.steps", "many", r"scales\.laptop\.train\.steps: .*integer.*'many'"),
        ("scales.laptop.train.steps", 2.5, r"scales\.laptop\.train\.steps: .*integer"),
        ("scales.laptop.train.steps", 0, r"scales\.laptop\.train\.steps: .*greater than or equal to 1"),
        ("scales.laptop.model.n_layr", 2, r"scales\.laptop\.model\.n_layr: unknown key; did you mean 'n_layer'"),
        ("variant.bdh.train.stepz", 2, r"variant\.bdh\.train\.stepz: unknown key; did you mean 'steps'"),
        ("variant.bdh.train.steps", "a", r"variant\.bdh\.train\.steps: .*integer"),
        ("variant.bdh.model", {"n_hed": 2}, r"variant\.bdh\.model\.n_hed: unknown key; did you mean 'n_head'"),
        ("variant.bdh.model", {"n_head": "two"}, r"variant\.bdh\.model\.n_head: expected int, it is 'two'"),
        ("variants", ["bhd"], r"variants: unknown variant 'bhd'; did you mean 'bdh'"),
        ("variants", ["bdh", "bdh"], r"variants: a name stands twice"),
        ("corpora", ["shakespear"], r"corpora: unknown corpus 'shakespear'; did you mean 'shakespeare'"),
        ("corpora", [], r"corpora: .*at least 1"),
        ("corpora", ["a-b"], r"corpora\.0: .*match"),
        ("corpus.sample_plays.tokenizer.name", "wordpiece", r"tokenizer: .*'wordpiece'.*'bytes'.*'gpt2'"),
        ("corpus.sample_plays.source.kind", "ftp", r"source: .*'ftp'.*'generated'.*'download'"),
        ("corpus.sample_calls.text.foo", 1, r"text.*foo: unknown key; allowed: .*columns"),
        ("scales.gpu.train.patience", 8, r"patience: .*share of train\.steps.*n \* validate_every / steps .*it is 8"),
        ("scale", "huge", r"scale: .*'laptop' or 'gpu'.*'huge'"),
        ("device", "tpu", r"device: .*'auto', 'cpu' or 'cuda'"),
        ("variant.gru", {}, r"variant\.gru: bdh/models/gru\.py does not exist and .* nothing in `of`; allowed: bdh"),
        ("variant.toy", {"of": "nuero"}, r"variant\.toy\.of: 'nuero' is neither .*; did you mean 'neuro'"),
        ("variant.toy", {"of": "toy"}, r"variant\.toy\.of: presets go round in a circle: toy, toy"),
        ("variant.neuro_none.of", "neuro_only_kwta", r"go round in a circle: neuro_none, neuro_only_kwta, neuro_none"),
        ("variant.bdh", {"of": "eq8"}, r"variant\.bdh\.of: bdh is an architecture itself"),
        ("variant.toy", {"of": "bdh", "only": "a", "without": "b"}, r"variant\.toy: both `without` and `only`"),
        ("variant.toy", {"of": "bdh", "model": {"k_wta": 0.1}}, r"variant\.toy\.model\.k_wta: unknown key"),
        ("variant.toy", {"off": "bdh"}, r"variant\.toy\.off: unknown key; did you mean 'of'"),
    ],
)
def test_params_mistake_is_one_clear_line(tmp_path, dotted, value, expected):
    with pytest.raises(ParamsError, match=expected) as caught:
        load_with(tmp_path, **{dotted: value})
    assert "\n" not in str(caught.value)


def test_params_missing_key_is_named(tmp_path):
    raw = copy.deepcopy(SHIPPED)
    del raw["scales"]["laptop"]["train"]["steps"]
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    with pytest.raises(ParamsError, match=r"scales\.laptop\.train\.steps: this key is missing"):
        load(path)


@pytest.mark.parametrize("text", ["a: [", "just text", ""])
def test_params_unreadable_file_is_one_clear_line(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ParamsError, match=r"params\.yaml"):
        load(path)


def test_params_missing_file_says_where(tmp_path):
    with pytest.raises(ParamsError, match=r"run from the folder that holds params\.yaml"):
        load(tmp_path / "params.yaml")
