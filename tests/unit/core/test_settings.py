"""Settings of training, runs and evaluation: defaults, bounds, and keys that a resumed run may change."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from core.settings import Decay, EvaluateSettings, Group, RunSettings, TrainSettings
from registry.signature import REQUIRED, describe, settings_of

SECTIONS = [TrainSettings, RunSettings, EvaluateSettings]


@pytest.mark.parametrize("cls", SECTIONS)
def test_every_setting_has_a_default_within_its_bounds(cls):
    for name, (hint, default) in settings_of(cls).items():
        assert default is not REQUIRED
        bounds = [extra for extra in getattr(hint, "__metadata__", ()) if hasattr(extra, "holds")]
        assert all(bound.holds(default) for bound in bounds), name
    with pytest.raises(FrozenInstanceError):
        setattr(cls(), fields(cls)[0].name, 1)


@pytest.mark.parametrize("cls", SECTIONS)
def test_class_attributes_name_fields(cls):
    names = set(settings_of(cls))
    assert getattr(cls, "free_on_resume", frozenset()) <= names
    assert set(getattr(cls, "renamed_settings", {}).values()) <= names
    assert not set(getattr(cls, "renamed_settings", {})) & names


def test_lists_are_not_shared():
    assert TrainSettings().groups is not TrainSettings().groups


@pytest.mark.parametrize(
    ("cls", "name", "text"),
    [
        (TrainSettings, "optimizer", "adamw | adafactor | muon"),
        (TrainSettings, "steps", "whole number at least 1"),
        (TrainSettings, "min_lr_ratio", "number between 0 and 1"),
        (TrainSettings, "betas", "list of 2: number between 0 and 0.999999, number between 0 and 0.999999"),
        (TrainSettings, "groups", "list of {prefix, lr}"),
        (RunSettings, "resume", "true | false"),
        (EvaluateSettings, "split", "text"),
    ],
)
def test_settings_in_words(cls, name, text):
    assert describe(settings_of(cls)[name][0]) == text


def test_a_running_mean_cannot_be_constant():
    (bounds,) = Decay.__metadata__
    assert bounds.holds(0.0)
    assert bounds.holds(0.9999)
    assert not bounds.holds(1.0)
    assert settings_of(Group)["lr"][1] is REQUIRED
