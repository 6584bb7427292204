"""Files are complete or absent, also after a kill."""

import os
import signal
import subprocess
import sys

import pytest

from modeling_unirain.files import (
    WriteError,
    folders_below,
    lock_of,
    replace_folder,
    write_atomically,
    write_together,
    written,
)


KILLED = """
import os, signal, sys
from pathlib import Path
from modeling_unirain.files import written

with written(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""

WRITING = """
import sys
from pathlib import Path
from modeling_unirain.files import written

with written(Path(sys.argv[1])) as temporary:
    temporary.write_text("theirs")
    print("half", flush=True)
    sys.stdin.read()
"""


def test_a_file_is_there_only_when_all_of_it_is(tmp_path):
    file = tmp_path / "made" / "a.txt"
    with written(file) as temporary:
        temporary.write_text("whole")
        assert not file.exists()
    assert [path.name for path in file.parent.iterdir()] == ["a.txt"]


def test_an_error_leaves_the_file_before_it_and_nothing_else(tmp_path):
    (tmp_path / "a.txt").write_text("before")
    with pytest.raises(OSError, match="no space"), written(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise OSError("no space")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "before")]


def test_a_file_where_the_folder_should_be_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("before")
    with pytest.raises(WriteError, match=r"b.txt could not be written: .*a.txt is a file, not a folder\.$"):
        write_atomically(tmp_path / "a.txt" / "b.txt", b"whole")
    with (
        pytest.raises(WriteError, match=r"a.txt cannot be written to: .*a.txt is a file, not a folder\.$"),
        lock_of(tmp_path / "a.txt", is_inherited=True),
    ):
        pass


def test_files_that_belong_together_are_all_there_or_none(tmp_path):
    (tmp_path / "b.txt" / "full").mkdir(parents=True)
    with pytest.raises(WriteError, match=f"^{tmp_path / 'b.txt'} could not be written: Is a directory"):
        write_together({tmp_path / "a.txt": b"whole", tmp_path / "b.txt": b"whole"})
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]
    (tmp_path / "b.txt").rename(tmp_path / "c.txt")
    write_together({tmp_path / "a.txt": b"whole", tmp_path / "b.txt": b"whole"})
    assert (tmp_path / "a.txt").read_bytes() == (tmp_path / "b.txt").read_bytes() == b"whole"


def test_what_a_kill_left_of_a_file_goes_with_its_next_writing(tmp_path):
    for name in ("a.txt", "a.txt.txt"):
        killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / name)], check=False)
        assert killed.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 2
    with written(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    (other,) = {path.name for path in tmp_path.iterdir()} - {"a.txt"}
    assert other.startswith(".a.txt.txt.")  # which may be in the making elsewhere


def test_what_another_process_is_writing_is_left_to_it(tmp_path):
    file = tmp_path / "a.txt"
    with subprocess.Popen(
        [sys.executable, "-c", WRITING, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "half\n"
        with written(file) as temporary:
            temporary.write_text("ours")
        assert file.read_text() == "ours"
        other.stdin.close()
    assert other.returncode == 0
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "theirs")]


def test_names_as_long_as_can_be_are_written_and_what_a_kill_left_of_them_goes(tmp_path):
    file = tmp_path / ("a" * 251 + ".txt")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(file)], check=False)
    assert killed.returncode == -signal.SIGKILL and len(list(tmp_path.iterdir())) == 1
    with written(file) as temporary:
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_folders_are_found_once_however_they_are_linked(tmp_path):
    root, others = tmp_path / "root", [tmp_path / "elsewhere" / str(number) for number in range(9)]
    for folder in (root / "a", root / ".hidden", *others):
        folder.mkdir(parents=True)
    (root / "latest").symlink_to(root / "a")
    (root / "up").symlink_to(tmp_path)
    (root / ".hidden" / "all").symlink_to(tmp_path / "elsewhere")
    for folder in others:
        (root / folder.name).symlink_to(folder)
        for other in others:
            (folder / f"to {other.name}").symlink_to(other)
    names = [str(folder.relative_to(root)) for folder in folders_below(root, leave_out=others[4])]
    assert sorted(names) == [".", "0", "1", "2", "3", "5", "6", "7", "8", "a", "latest"]


def test_a_folder_takes_the_place_of_another(tmp_path):
    for name, content in (("new.tmp", "new"), ("there", "old")):
        (tmp_path / name).mkdir()
        (tmp_path / name / content).touch()
    replace_folder(tmp_path / "new.tmp", tmp_path / "there")
    assert [path.name for path in tmp_path.rglob("*")] == ["there", "new"]
    replace_folder(tmp_path / "there", tmp_path / "elsewhere")
    assert [path.name for path in tmp_path.rglob("*")] == ["elsewhere", "new"]


def test_an_old_folder_that_a_kill_left_aside_goes_with_the_next_one(tmp_path):
    for name in ("new.tmp", "there.old.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    replace_folder(tmp_path / "new.tmp", tmp_path / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there" / "file").read_text() == "new.tmp"
