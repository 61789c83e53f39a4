"""Folder walks: links, loops, repeated paths, unusual names and files that cannot be read."""

from __future__ import annotations

import os

import pytest

from core.files import paths
from plugins.data import image_folders
from plugins.data.image_folders import FileList, list_files

ENDINGS = (".jpg", ".png")


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def link(root, name, target):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).symlink_to(target)


def names_of(root, *places):
    listing = FileList(ENDINGS)
    for path in places or (root,):
        listing.add(str(path))
    return [file.removeprefix(f"{root}/") for file in listing.files]


def test_files_are_listed_with_subfolders_in_a_fixed_order(tmp_path):
    make(tmp_path, "b.PNG", "a/z.png", "c.gif", "a/b/y.png", "a.png", ".hidden/x.Jpg", "note.txt")
    assert names_of(tmp_path) == [".hidden/x.Jpg", "a/b/y.png", "a/z.png", "a.png", "b.PNG"]


def test_links_to_parents_and_loops_end(tmp_path):
    make(tmp_path, "a.png", "sub/b.png")
    link(tmp_path, "sub/up", "..")
    link(tmp_path, "self", ".")
    link(tmp_path, "sub/deep/absolute", tmp_path)
    link(tmp_path, "ping", "pong")  # two links to each other: no folder
    link(tmp_path, "pong", "ping")
    assert names_of(tmp_path) == ["a.png", "sub/b.png"]


def test_two_folders_that_link_to_each_other(tmp_path):
    make(tmp_path, "one/a.png", "two/b.png")
    link(tmp_path, "one/other", "../two")
    link(tmp_path, "two/other", "../one")
    assert names_of(tmp_path) == ["one/a.png", "two/b.png"]
    assert names_of(tmp_path, tmp_path / "one") == ["one/a.png", "one/other/b.png"]
    assert names_of(tmp_path, tmp_path / "two", tmp_path / "one") == ["two/b.png", "two/other/a.png"]


def test_real_files_come_before_links_to_them(tmp_path):
    make(tmp_path, "z/real.png", "z/more.png")
    link(tmp_path, "best.png", "z/real.png")
    link(tmp_path, "album", "z")
    assert names_of(tmp_path) == ["z/more.png", "z/real.png"]


def test_links_to_other_places_are_followed_once(tmp_path):
    make(tmp_path, "store/a.png", "store/b.jpg", "store/deep/c.png")
    link(tmp_path, "album/x.png", "../store/a.png")
    link(tmp_path, "album/y.png", "../store/a.png")
    link(tmp_path, "album/years", "../store")
    link(tmp_path, "album/again", "../store")
    names = names_of(tmp_path, tmp_path / "album")
    assert names == ["album/again/a.png", "album/again/b.jpg", "album/again/deep/c.png"]


def test_repeated_files_and_folders_in_every_spelling(tmp_path, monkeypatch):
    make(tmp_path, "p/a.png", "p/b.png", "p/sub/c.png")
    link(tmp_path, "q", "p")
    monkeypatch.chdir(tmp_path)
    spellings = ["p/b.png", "./p/b.png", "p", "p/", "./p", str(tmp_path / "p"), "p/sub", "p/../p", "q", "q/a.png"]
    assert names_of(tmp_path, *spellings) == ["p/b.png", "p/a.png", "p/sub/c.png"]
    assert names_of(tmp_path, "p/sub", "p/") == ["p/sub/c.png", "p/a.png", "p/b.png"]
    assert names_of(tmp_path, "q") == ["q/a.png", "q/b.png", "q/sub/c.png"]


def test_hard_links_are_files_of_their_own(tmp_path):
    make(tmp_path, "a.png")
    os.link(tmp_path / "a.png", tmp_path / "b.png")
    assert names_of(tmp_path) == ["a.png", "b.png"]


def test_broken_links_are_reported_and_pipes_are_left_out(tmp_path):
    make(tmp_path, "a.png")
    link(tmp_path, "broken.png", "nowhere.png")  # listed: reading it fails, with its name
    link(tmp_path, "photos", "/nowhere/photos")
    link(tmp_path, "notes.txt", "nowhere.txt")
    os.mkfifo(tmp_path / "pipe.png")
    listing = FileList(ENDINGS)
    assert listing.add(str(tmp_path)) == 3
    assert [os.path.basename(file) for file in listing.files] == ["a.png", "broken.png"]
    assert listing.unreadable == [str(tmp_path / "photos")]
    with pytest.raises(ValueError, match="photos: cannot be listed"):
        list_files(str(tmp_path), ENDINGS)


def test_a_folder_without_permission_is_reported(tmp_path, monkeypatch):
    make(tmp_path, "a.png", "private/b.png", "shut/c.png")
    original_ls = paths.ls

    def ls(folder):
        if folder.endswith("private"):
            raise PermissionError(13, "Permission denied")
        return original_ls(folder)

    monkeypatch.setattr(paths, "ls", ls)
    monkeypatch.setattr(image_folders.os, "access", lambda folder, mode: not folder.endswith("shut"))
    listing = FileList(ENDINGS)
    listing.add(str(tmp_path))
    assert listing.files == [str(tmp_path / "a.png")]
    assert sorted(map(os.path.basename, listing.unreadable)) == ["private", "shut"]


def test_names_of_every_kind(tmp_path):
    names = [b"caf\xe9.png", "猫 1.png".encode(), b"-dash.png", b"a\nb.png"]
    for name in names:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb"):
            pass
    assert sorted(os.fsencode(name) for name in names_of(tmp_path)) == sorted(names)


def test_deep_and_large_folders(tmp_path):
    folder = tmp_path.joinpath(*["d"] * 200)
    make(folder, "deep.png")
    make(tmp_path, *(f"many/{i:05}.png" for i in range(3000)))
    link(tmp_path, "d/d/top", tmp_path)
    names = names_of(tmp_path)
    assert len(names) == 3001
    assert names[1:] == [f"many/{i:05}.png" for i in range(3000)]


def test_files_with_a_second_file_beside_them(tmp_path):
    make(tmp_path, "a.png", "a.txt", "plain.png", "store/b.png")
    link(tmp_path, "names/b.png", "../store/b.png")  # only the link has a caption
    make(tmp_path, "names/b.txt")
    link(tmp_path, "names/up", "..")
    link(tmp_path, "names/other.png", "../store/b.png")  # the same image with another caption
    make(tmp_path, "names/other.txt")
    names = list_files(str(tmp_path), ENDINGS, beside=".txt")
    assert [file.removeprefix(f"{tmp_path}/") for file in names] == ["a.png", "names/b.png", "names/other.png"]
