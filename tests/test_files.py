"""Reading what others left, and writing whole files: what is refused, and what a failure leaves behind."""

import csv
import errno
import io
import os
from pathlib import Path

import pandas as pd
import pytest
from safetensors import SafetensorError

from adlib.datasets.folders import content_hash
from adlib.datasets.lists import read_list
from adlib.decoding.masks import read_mask
from adlib.decoding.pictures import image_shape, read_image
from adlib.errors import InputError
from adlib.file_hashes import file_hash
from adlib.files import (
    WRITTEN,
    check_writable,
    from_spreadsheet,
    printable,
    read_json,
    replacing,
    spreadsheet_csv,
    write_text,
)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is damaged"),
        (b'{"a": 1', "is damaged"),
        (b"\xff\xfe", "is damaged"),
        (b'{"a": NaN}', "NaN, which is no number of JSON"),
        (b'{"a": 1e999}', "beyond what float64 can hold"),
        (b'{"a": 1' + b"0" * 400 + b"}", "beyond what float64 can hold"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "is damaged"),
        (b'{"a": "\\ud800"}', "is no Unicode"),
        (b"[" * 60 + b"]" * 60, "nested more than 50 levels deep"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b" " * 2000, "is larger than 0.001 MB"),
    ],
)
def test_json_that_does_not_fit_is_refused_with_its_reason(tmp_path, content, reason):
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(InputError, match=reason):
        read_json(tmp_path / "file.json", limit=1000 if content.isspace() else 1_000_000)


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "nothing"])
def test_what_is_no_plain_file_is_refused_and_never_waited_for(tmp_path, kind):
    file = tmp_path / "file.json"
    (tmp_path / "target").write_text("{}")
    make = {"folder": file.mkdir, "pipe": lambda: os.mkfifo(file), "link": lambda: file.symlink_to(tmp_path / "target")}
    make.get(kind, lambda: None)()
    with pytest.raises(InputError, match=r"not a file|No such file") as raised:
        read_json(file)
    assert "is no name of a file" not in str(raised.value)  # one sentence, not one within another


def test_a_name_with_a_zero_byte_is_no_name():
    with pytest.raises(InputError, match=r"is no name of a file \(.*null byte.*\)\.$"):
        read_json(Path("a\0b"))


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("read", [read_image, image_shape, read_mask, file_hash, content_hash, read_list])
def test_a_pipe_among_the_data_is_refused_and_never_waited_for(tmp_path, read, linked):
    file = tmp_path / "p.png"
    os.mkfifo(file)
    if linked:
        file = tmp_path / "link.png"
        file.symlink_to(tmp_path / "p.png")
    with pytest.raises(
        InputError, match=rf"{file.name} is a (folder, )?pipe or device, not a file: take it out of the data\.$"
    ):
        read(file, (4, 6)) if read is read_mask else read(file)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_text(tmp_path / "page.html", "before")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "page.html", "after")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("page.html", "before")]


def test_a_full_disk_is_an_error_of_the_system_whatever_the_library_calls_it(tmp_path):
    with pytest.raises(OSError, match="No space left on device") as raised, replacing(tmp_path / "w"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert raised.value.errno == errno.ENOSPC and raised.value.filename == str(tmp_path / "w")
    assert not list(tmp_path.iterdir())


def test_no_cell_of_a_csv_begins_a_formula_and_all_come_back():
    cells = ["=1+1", "+1", "-1", "@a", "\t=1", "\r=1", "'=1", "''@", "plain", "'quoted'", "", "a;=1"]
    text = spreadsheet_csv(pd.DataFrame({"text": cells, "number": -1.5}))
    rows = list(csv.reader(io.StringIO(text, newline="")))[1:]
    assert not any(cell.startswith(tuple("=+-@\t\r")) for cell, _ in rows)
    assert {number for _, number in rows} == {"-1.5"}  # a number is none
    assert [from_spreadsheet(cell) for cell, _ in rows] == cells


def test_a_terminal_gets_no_control_characters():
    assert printable("a\x1b[31mred\nline\udcff") == "a\\x1b[31mred line\\udcff"


def test_two_who_write_one_file_at_once_each_write_their_own(tmp_path):
    file = tmp_path / "scores.csv"
    with replacing(file) as first:
        first.write_text("first")
        with replacing(file) as second:
            second.write_text("second")
        assert file.read_text() == "second"
    assert file.read_text() == "first"
    assert [one.name for one in tmp_path.iterdir()] == ["scores.csv"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    file = tmp_path / "scores.csv"
    file.write_text("before")
    with pytest.raises(RuntimeError), replacing(file) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert [one.name for one in tmp_path.iterdir()] == ["scores.csv"]
    assert file.read_text() == "before"


def test_a_place_that_cannot_be_written_is_refused_beforehand(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a folder, where a file is to be written"):
        check_writable(tmp_path)
    with pytest.raises(InputError, match=r"safetensors cannot be written \(.+\): choose another place"):
        check_writable(tmp_path / "file" / "d.safetensors")
    check_writable(tmp_path / "new" / "d.safetensors")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_file_of_another_kind_is_not_replaced(kind, tmp_path):
    file = tmp_path / "file"
    check_writable(file, kind)
    file.touch()
    check_writable(file, kind)  # nothing is lost
    file.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    with pytest.raises(InputError, match=f"file is there and no {kind} of adlib's: it would be lost"):
        check_writable(file, kind)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(InputError, match="it would be lost"):
        check_writable(file, kind)
