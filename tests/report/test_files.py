"""Files are written whole or not at all."""

import os
from pathlib import Path

import pytest

from nnembed.errors import InputError
from nnembed.report.files import write_atomic


def test_writes_and_replaces(tmp_path):
    target = tmp_path / "page.html"
    write_atomic(target, b"one")
    target.chmod(0o640)
    write_atomic(target, b"two")
    assert target.read_bytes() == b"two"
    assert target.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_keeps_pointing_where_it_did(tmp_path):
    (tmp_path / "real").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_atomic(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"x"


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no/such/page.html.*No such file.*folder"):
        write_atomic(tmp_path / "no/such/page.html", b"x")


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    target = tmp_path / "page.html"
    target.write_bytes(b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        write_atomic(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_device_is_written_to_and_not_replaced():
    with pytest.raises(InputError, match="No space left"):
        write_atomic("/dev/full", b"x" * 100_000)
    assert Path("/dev/full").is_char_device()
