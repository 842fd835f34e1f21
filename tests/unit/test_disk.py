"""What is said to be on the disk: the system is really asked, and its refusal is told."""

import errno
from pathlib import Path

import pytest

from isthmus import disk


def test_a_file_system_is_flushed(tmp_path: Path) -> None:
    """Through any directory of it, and through nothing else."""
    (tmp_path / "file").write_text("content")
    with disk.opened(tmp_path) as top:
        disk.flush(top)
    with pytest.raises(OSError, match="Bad file descriptor") as refused:
        disk.flush(top)
    assert refused.value.errno == errno.EBADF


def test_what_is_replaced_is_the_old_or_the_new(tmp_path: Path) -> None:
    """And nothing lies about when it could not be written."""
    path, fresh = tmp_path / "file", tmp_path / "file.new"
    for content in (b"one", b"two"):
        disk.replace(path, content, fresh)
        assert path.read_bytes() == content
    (tmp_path / "directory").mkdir()
    with pytest.raises(IsADirectoryError):
        disk.replace(tmp_path / "directory", b"three", fresh)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["directory", "file"]
    with pytest.raises(FileNotFoundError):
        disk.settle(tmp_path / "nowhere")
