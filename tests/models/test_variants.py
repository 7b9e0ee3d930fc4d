"""Every section of params.yaml builds what it says; every architecture keeps the names that the rest relies on."""

import ast
import dataclasses
from pathlib import Path

import pytest
import torch

from bdh.models.base import architecture_module, build
from bdh.models.catalog import FOLDER, known_architectures, settings_of
from bdh.project.errors import ParamsError
from tests.support.variants import SHIPPED, tiny

V = 37


@pytest.mark.parametrize("variant", SHIPPED.variant)
def test_variant_reads_a_text_and_offers_what_its_section_asks_for(variant):
    model, train = tiny(variant, vocab_size=V), SHIPPED.train_of(variant, "sample_plays")
    tokens = torch.randint(V, (2, 9), generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(model(tokens[:, :-1], tokens[:, 1:]).loss)
    assert train.learning_rule in model.learning_rules
    assert bool(model.trainable_parameters(train.regime)) == (train.regime != "none")


@pytest.mark.parametrize("architecture", known_architectures())
def test_architecture_settings_read_from_source_equal_config(architecture):
    module = architecture_module(architecture)
    fields = {field.name: field.default for field in dataclasses.fields(module.Config)}
    settings = settings_of(architecture)
    assert {name: setting.default for name, setting in settings.items()} == fields
    for name, setting in settings.items():
        assert type(setting.default).__name__ in setting.annotation, name
    assert module.TINY.keys() <= fields.keys()


@pytest.mark.parametrize("architecture", known_architectures())
def test_architecture_without_settings_uses_the_defaults_of_config(architecture):
    with torch.device("meta"):
        model = build(architecture, vocab_size=V)
    assert model.vocab_size == V
    assert model.parameter_count() == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("architecture", known_architectures())
def test_architecture_unknown_setting_is_an_error_that_lists_the_known_ones(architecture):
    with pytest.raises(ParamsError, match=f"{architecture} has no setting 'n_layers'; it has"):
        build(architecture, vocab_size=V, n_layers=3)


def test_architecture_unknown_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ParamsError, match="unknown architecture 'bdh_structured'; known architectures: bdh, eq8"):
        build("bdh_structured", vocab_size=V)


def test_architectures_share_no_public_class_name():
    owners: dict[str, list[str]] = {}
    for path in sorted(Path(FOLDER).glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                owners.setdefault(node.name, []).append(path.stem)
    assert {name: files for name, files in owners.items() if len(files) > 1} == {}
    assert not {"Model", "Config"} & owners.keys()
