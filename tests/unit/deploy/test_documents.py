"""What the documents claim is held by tests, and names tests, files, codes and settings that are there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from producers.signing import generate_key
from schemas.events import read_event
from workers.errors import Cause, UploadFault
from workers.events.sources import Sources
from workers.runtime.settings import Settings

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "deploy" / "docs"
PAGES = sorted([ROOT / "README.md", *ROOT.glob("deploy/**/*.md")])
FOLDERS = {"u": "tests/unit", "a": "tests/acceptance"}
STATES = (DOCS / "main-key-states.md").read_text()
SHOWN = sorted(set(re.findall(r"`([ua])/([a-z_/]+\.py)::(test_\w+)`", STATES)))
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]*))?\)")


def test_the_table_of_states_names_tests() -> None:
    """Each of its rows names one at least."""
    rows = STATES.split("| state, and cause |")[1].split("\n\n")[0].splitlines()[2:]
    assert len(rows) > 20
    assert [row for row in rows if "::test_" not in row] == []


@pytest.mark.parametrize(("folder", "file", "name"), SHOWN)
def test_a_test_that_is_named_is_there(folder: str, file: str, name: str) -> None:
    """In the file that is named."""
    assert f"def {name}(" in (ROOT / FOLDERS[folder] / file).read_text()


def test_settings_that_are_named_are_there() -> None:
    """By the name of their environment variable, on every page."""
    known = {f"KEYREPACK_{name.upper()}" for name in Settings.model_fields} | {"KEYREPACK_PICTURES"}
    for page in PAGES:
        assert set(re.findall(r"`(KEYREPACK_[A-Z_]+)`", page.read_text())) <= known, page


def test_every_cause_has_its_code_in_the_table_of_trouble() -> None:
    """Why a main key cannot be used, and what is wrong with an upload."""
    trouble = (DOCS / "errors.md").read_text()
    codes = {f"main_key_{cause}" for cause in Cause} | {f"upload_{fault}" for fault in UploadFault}
    assert {code for code in codes if f"`{code}`" not in trouble} == set()


def test_the_readme_is_read_in_five_minutes() -> None:
    """The manual is in deploy/docs, and its index names each of its pages."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    index = (DOCS / "README.md").read_text()
    assert [page.name for page in DOCS.glob("*.md") if page.name != "README.md" and f"({page.name})" not in index] == []


def anchor_of(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """To a file or folder that is there, and to a heading in it."""
    for target, anchor in LINK.findall(page.read_text()):
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), target
        if anchor and found.suffix == ".md":
            headings = [line.lstrip("#") for line in found.read_text().splitlines() if line.startswith("#")]
            assert anchor in {anchor_of(heading) for heading in headings}, f"{target}#{anchor}"


MODULE = re.compile(r"`((?:workers|schemas|producers|tests|deploy)/[\w./*-]+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_is_named_is_there(page: Path) -> None:
    """A module that moved takes its name in the documents along."""
    missing = [name for name in MODULE.findall(page.read_text()) if not list(ROOT.glob(name.rstrip("/")))]
    assert missing == []


ARCHITECTURE = (DOCS / "architecture.md").read_text()


@pytest.mark.parametrize(
    ("path", "name"),
    re.findall(r"`(workers/[\w/]+\.py)` \((?:[^()`]*)`(\w+)`", ARCHITECTURE),
)
def test_a_function_that_the_architecture_names_is_there(path: str, name: str) -> None:
    """The page is a map: a name on it leads to its definition."""
    source = (ROOT / path).read_text()
    assert f"def {name}" in source or f"class {name}" in source


def test_the_example_of_a_signed_event_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as it stands, with a key and a sources file of its own: the receiver knows who said it."""
    example = next(
        code
        for code in re.findall(r"```python\n(.*?)```", (DOCS / "events.md").read_text(), re.DOTALL)
        if "webhook-signature" in code
    )
    pair, producer = generate_key(), MagicMock()
    (tmp_path / "console.key").write_text(pair.secret + "\n")
    source = {"source": "/console", "keys": [pair.public], "workspaces": ["acme"], "types": ["main_key.replaced"]}
    (tmp_path / "sources.json").write_text(json.dumps({"sources": [source]}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kombu.Connection", MagicMock())
    monkeypatch.setattr("kombu.Producer", producer)
    exec(example, {})
    (body,), sent = producer.return_value.publish.call_args
    sender = Sources(tmp_path / "sources.json").verify(read_event(body), body, sent["headers"])
    assert (sender.source.source, sent["routing_key"]) == ("/console", "main_key.replaced")
