"""The pages that people read agree with themselves, with each other, and with the program."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from isthmus import firewall
from isthmus.cli.main import main
from isthmus.config import KEYS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

SITES = frozenset(
    ("docs.docker.com", "docs.kernel.org", "github.com", "keepachangelog.com", "semver.org", "wiki.nftables.org")
)
"""Where a link may lead: places that stay, and that tell everybody the same."""

ROOTS = frozenset(("bin", "boot", "dev", "etc", "lib", "proc", "run", "sys", "usr", "var"))
"""Where an absolute path may begin: what there is on every machine, and not on the one that the page was written on."""

ENDPOINTS = frozenset(
    (
        "_ping",
        "containers",
        "events",
        "exec",
        "images",
        "info",
        "links",
        "names",
        "nat",
        "networks",
        "nodes",
        "sandboxes",
        "sbin",
        "session",
        "version",
    )
)
"""What a path of the API begins with."""


def prose(page: Path) -> str:
    """The text of *page* without its blocks and words of code."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^ {4,}.*$", "", text, flags=re.MULTILINE))


def code(page: Path) -> list[str]:
    """The lines of the indented and fenced blocks of *page*."""
    fenced = re.findall(r"^```\w*\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^ {4}(.*)$", page.read_text(), flags=re.MULTILINE)
    return [*indented, *(line for block in fenced for line in block.splitlines())]


def headings(page: Path) -> list[tuple[int, str]]:
    """The headings of *page*, each with its level."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [(len(marks), title) for marks, title in re.findall(r"^(#+) (.+)$", text, flags=re.MULTILINE)]


def anchors(page: Path) -> set[str]:
    """The names by which links reach the headings of *page* (lower case, punctuation left out, blanks as hyphens)."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for _, title in headings(page)}


def links(page: Path) -> Iterator[str]:
    """Where the links and pictures of *page* lead."""
    for _, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", prose(page)):
        yield target


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name: str) -> None:
    """A reader who follows a link must not end at nothing."""
    page = ROOT / name
    lost = []
    for target in links(page):
        if target.startswith("https://"):
            lost += [target] if target.split("/")[2] not in SITES else []
            continue
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        if not goal.exists() or (anchor and anchor not in anchors(goal)):
            lost.append(target)
    assert not lost


@pytest.mark.parametrize("name", NAMES)
def test_no_page_names_a_place_that_others_do_not_have(name: str) -> None:
    """A path or a host of the author's own machine helps no reader."""
    text = (ROOT / name).read_text()
    hosts = {host for host in re.findall(r"https?://([^/\s)`>\"]+)", text) if host not in SITES}
    paths = re.findall(r"(?<![\w.:*~/\])>-])/([a-z_]+)(?=/|\b)", re.sub(r"https?://\S+", "", text))
    assert not hosts
    # What a container does not get to see of its host are whole directories, not files in them.
    hidden = {path for path in ("home", "root", "tmp") if not re.search(rf"/{path}/\w", text)}
    assert set(paths) <= ROOTS | ENDPOINTS | hidden | {"infinity"}


@pytest.mark.parametrize("name", NAMES)
def test_headings_go_down_one_step_at_a_time(name: str) -> None:
    """A page has one title, and its outline has no holes."""
    levels = [level for level, _ in headings(ROOT / name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_the_chinese_readme_says_the_same() -> None:
    """Whoever reads the other language gets the same outline, the same commands and the same ways on."""
    english, chinese = ROOT / "README.md", ROOT / "README.zh-CN.md"
    assert [level for level, _ in headings(chinese)] == [level for level, _ in headings(english)]
    commands = [[line.split("#")[0].rstrip() for line in code(page)] for page in (english, chinese)]
    assert commands[0] == commands[1]
    targets = [
        [link.split("#")[0] for link in links(page) if not link.startswith("README")] for page in (english, chinese)
    ]
    assert targets[0] == targets[1]


def test_every_command_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """A command that the page about them does not name is found by nobody."""
    lines = [" ".join(re.findall(r"`([^`]+)`", line)).split() for line in _lines("docs/cli.md")]
    missing = [
        " ".join(command)
        for group in _commands(capsys)
        for command in [(group,), *((group, name) for name in _commands(capsys, group))]
        if not any(set(command) <= set(line) for line in lines)
    ]
    assert not missing


def _lines(name: str) -> list[str]:
    return (ROOT / name).read_text().splitlines()


def _commands(capsys: pytest.CaptureFixture[str], *group: str) -> list[str]:
    """The commands that the program's help names, at the top or in a *group*."""
    assert main([*group, "--help"]) == 0
    help_text = capsys.readouterr().out.partition("Options:")[0]
    return re.findall(r"^  ([a-z]+) {2,}\S", help_text, flags=re.MULTILINE)


def test_every_option_of_a_bridge_network_is_explained() -> None:
    """What the driver reads, the page about it explains."""
    page = (ROOT / "docs/bridge.md").read_text()
    source = (ROOT / "src/isthmus/drivers/bridge.py").read_text().replace("{_BRIDGE}", "com.docker.network.bridge")
    options = set(re.findall(r"read\.\w+\(\s*f?\"([a-z_.0-9]+)\"", source)) - {"isthmus."}
    assert len(options) > 10
    assert not {option for option in options if option not in page}


def test_every_set_of_our_table_is_explained() -> None:
    """Whoever lists our table finds each name in it on the page about it."""
    page = (ROOT / "docs/firewall.md").read_text()
    assert not {name for name in (*firewall.SETS, *firewall.CHAINS, firewall.USER_CHAIN) if f"`{name}`" not in page}


def test_every_key_of_the_configuration_is_explained() -> None:
    """A key that no page explains might as well not be there."""
    page = (ROOT / "docs/operations.md").read_text()
    assert not {key.name for key in KEYS if f"`{key.name}`" not in page}


def test_decisions_are_numbered_and_listed() -> None:
    """A decision is found by its number, and from the page on the architecture."""
    architecture = (ROOT / "ARCHITECTURE.md").read_text()
    for page in (ROOT / "docs/decisions").iterdir():
        number, title = headings(page)[0][1].split(". ", 1)
        assert page.name.startswith(f"{int(number):04d}-"), title
        assert f"docs/decisions/{page.name}" in architecture
