"""Names of one kind: unknown ones, doubled ones, and taking back what a plugin added."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pytest

from registry import DuplicateName, Owner, Registry, UnknownName, near


class Animal(ABC):
    @abstractmethod
    def speak(self) -> str: ...


class Dog(Animal):
    def speak(self) -> str:
        return "woof"


class Cat(Animal):
    def speak(self) -> str:
        return "miaow"


OURS, THEIRS = Owner("ours"), Owner("theirs", "zoo", "2.0")


@pytest.fixture
def animals() -> Registry[Animal]:
    made = Registry(Animal, "animal")
    made.add("dog", Dog, OURS)
    return made


def test_lookup_and_order(animals):
    animals.add("cat", Cat, THEIRS)
    assert list(animals) == ["cat", "dog"]
    assert len(animals) == 2
    assert animals["cat"].cls is Cat
    assert animals["cat"].owner == THEIRS


def test_unknown_name_has_near_match_and_known_names(animals):
    with pytest.raises(UnknownName) as caught:
        animals["dgo"]
    assert str(caught.value) == "no animal is named 'dgo'. Did you mean 'dog'? Registered: dog."


def test_unknown_name_of_an_empty_registry():
    with pytest.raises(UnknownName, match=r"no animal is named 'x'\. Registered: none\."):
        Registry(Animal, "animal")["x"]


@pytest.mark.parametrize("cls", [Cat, Dog])  # the same class under another owner is a second claim too
def test_duplicate_names_both_claimants(animals, cls):
    with pytest.raises(DuplicateName) as caught:
        animals.add("dog", cls, THEIRS)
    said = str(caught.value)
    assert said == "animal 'dog' is claimed by plugin 'ours' and by plugin 'theirs' of distribution zoo 2.0"
    assert animals["dog"].owner == OURS


@pytest.mark.parametrize("wrong", [int, Animal, Dog(), "dog"])
def test_only_concrete_classes_of_the_kind_enter(animals, wrong):
    with pytest.raises(TypeError, match="is not a concrete Animal, so it cannot be a animal"):
        animals.add("other", wrong, OURS)


def test_remove_takes_back_one_owners_names_only(animals):
    animals.add("cat", Cat, THEIRS)
    animals.remove(THEIRS)
    assert list(animals) == ["dog"]


def test_near_is_silent_without_a_near_name():
    assert near("tdp", ["tpd", "random"]) == " Did you mean 'tpd'?"
    assert near("zzz", ["tpd", "random"]) == ""
