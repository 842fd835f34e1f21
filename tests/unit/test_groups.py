"""Control groups, on a tree of directories like theirs."""

from pathlib import Path

from isthmus.containers import groups


def test_what_is_left_of_a_container_goes_in_every_hierarchy(tmp_path: Path) -> None:
    """With the groups within it; others' stay."""
    for place in ("isthmus-a/container/most", "memory/isthmus-a", "memory/isthmus-b", "cpu"):
        (tmp_path / place).mkdir(parents=True)
    groups.remove("a", tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["cpu", "memory"]
    assert [one.name for one in (tmp_path / "memory").iterdir()] == ["isthmus-b"]
    groups.remove("a", tmp_path / "nowhere")


def test_which_version_there_is_and_who_stands_still(tmp_path: Path) -> None:
    """Of version 1 the freezer tells, of version 2 the group itself."""
    assert not groups.are_unified(tmp_path)
    assert not groups.is_frozen("a", tmp_path)
    assert groups.path("a", tmp_path) == "/isthmus-a"
    (tmp_path / "cgroup.controllers").touch()
    assert groups.are_unified(tmp_path)
    assert groups.path("a", tmp_path) == "/isthmus-a/container"
    for place, file, text in (
        ("isthmus-a/container", "cgroup.events", "populated 1\nfrozen 1\n"),
        ("freezer/isthmus-b", "freezer.state", "FROZEN\n"),
    ):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / file).write_text(text)
    assert groups.is_frozen("a", tmp_path)
    assert groups.is_frozen("b", tmp_path)
    (tmp_path / "freezer" / "isthmus-b" / "freezer.state").write_text("THAWED\n")
    assert not groups.is_frozen("b", tmp_path)
