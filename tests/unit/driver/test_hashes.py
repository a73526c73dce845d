"""Content counts, whatever the time of a file says; and nothing that stayed as it is is read twice."""

import os
import shutil
import time

import pytest

from study import hashes as module
from study.checksums import sha256_file
from study.hashes import COARSE, Hashes
from study.identity import differences, environment


@pytest.fixture
def read(monkeypatch):
    """The files that were really read."""
    paths = []

    def counted(path, one=None):
        if not os.path.isdir(path):
            paths.append(str(path))
        return sha256_file(path, one)

    monkeypatch.setattr(module, "sha256_file", counted)
    return paths


@pytest.fixture
def later(monkeypatch):
    """Move the clock by some seconds."""
    shift = [0.0]
    real = time.time
    monkeypatch.setattr(module.time, "time", lambda: real() + shift[0])
    return lambda seconds: shift.__setitem__(0, seconds)


def test_a_file_is_read_once_also_by_the_next_start(tmp_path, read, later):
    path, store = tmp_path / "weights", tmp_path / "store.json"
    path.write_bytes(b"x" * 100)
    later(COARSE + 1)
    hashes = Hashes(store)
    assert hashes(path) == hashes(path) == sha256_file(path)
    hashes.save()
    assert Hashes(store)(path) == sha256_file(path)
    assert read == [str(path)]


def test_other_bytes_under_the_same_size_and_time_are_seen(tmp_path, later):
    """In place, by `cp -p`, and by a move: no program can set the ctime."""
    path, other, hashes = tmp_path / "data", tmp_path / "other", Hashes(tmp_path / "store.json")
    path.write_bytes(b"a")
    os.utime(path, (1, 1))
    later(COARSE + 1)
    before = hashes(path)
    path.write_bytes(b"b")
    os.utime(path, (1, 1))
    assert hashes(path) == sha256_file(path) != before
    other.write_bytes(b"c")
    os.utime(other, (1, 1))
    shutil.copy2(other, path)
    assert hashes(path) == sha256_file(other)
    other.write_bytes(b"d")
    os.utime(other, (1, 1))
    shutil.move(other, path)
    assert hashes(path) == sha256_file(path)


@pytest.mark.parametrize("seconds", [0, -86400])
def test_what_was_just_written_or_is_of_the_future_is_not_remembered(tmp_path, read, later, seconds):
    """It may be written again within the tick of a coarse file system, or of a clock that was set back."""
    path, hashes = tmp_path / "data", Hashes(tmp_path / "store.json")
    path.write_bytes(b"a")
    later(seconds)
    hashes(path)
    hashes(path)
    assert len(read) == 2


def test_a_folder_is_its_names_and_contents(tmp_path, later):
    folder, hashes = tmp_path / "model", Hashes(tmp_path / "store.json")
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a").write_bytes(b"1")
    later(COARSE + 1)
    first = hashes(folder)
    assert first == sha256_file(folder)
    (folder / "sub" / "a").rename(folder / "b")
    assert hashes(folder) != first


def test_a_damaged_store_is_no_store(tmp_path):
    path, store = tmp_path / "data", tmp_path / "store.json"
    path.write_bytes(b"a")
    for text in ("{", "[1]", "3", '{"a": 1}'):
        store.write_text(text)
        assert Hashes(store)(path) == sha256_file(path)


def test_comments_of_an_environment_decide_nothing(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text("# made\ndependencies:\n  - pip:\n    - torch==2.3.1  # CPU\n")
    before = environment(path)
    path.write_text("dependencies:\n\n  - pip:\n    - torch==2.3.1\n")
    assert environment(path) == before
    path.write_text("dependencies:\n  - pip:\n    - torch==2.3.2\n")
    assert environment(path) != before


def test_differences_are_told_in_words():
    job = {"rule": "r", "wildcards": {}, "settings": {"a": {"b": 1.0}, "c": 2}, "code": "x", "lock": {"file": "l"}}
    assert list(differences({**job, "settings": {"a": {"b": 1}, "c": 2.0}}, job)) == []
    changed = {**job, "settings": {"a": {"b": 3}}, "code": "y", "lock": None}
    assert list(differences(changed, job)) == [
        "a.b was 3, is 1.0, c was None, is 2",
        "other code: was y, is x",
        "other packages in l",
    ]
