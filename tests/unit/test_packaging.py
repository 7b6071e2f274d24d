"""What the distribution owns, what the repository holds, and what no file of it may name."""

from __future__ import annotations

import re
import subprocess
from importlib import import_module
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest

from tests.conftest import missing

TOP = Path(__file__).resolve().parents[2]
PACKAGES = ("schemas", "producers", "workers")
ALLOWED = {"pyproject.toml", "README.md", "workers", "producers", "schemas", "tests", "deploy", "Makefile"}

# Written so that no pattern finds itself.
ADDRESSES = {
    "an index or registry": r"(?i)\b(?:[a-z0-9-]+\.)*(?:py[p]i\.org|pythonhos[t]ed\.org|np[m]js\.org|crate[s]\.io"
    r"|docke[r]\.io|gh[c]r\.io|quay[.]io|gc[r]\.io|public\.ec[r]\.aws|proxy\.golan[g]\.org)\b",
    "a mirror": r"(?i)https?://\S*(?:artifactor[y]|nexu[s]|devp[i]|registr[y]|mirro[r]|/simpl[e]\b)",
    "an option that names an index": r"(?i)--(?:extra-)?inde[x]-url|--find-link[s]|--trusted-hos[t]"
    r"|\bPIP_(?:EXTRA_)?INDE[X]_URL",
    "a machine's own path": r"/(?:roo[t]|Use[r]s)/[a-z.]",
}


def tracked() -> list[Path]:
    """Files that git knows, relative to the top."""
    try:
        listed = subprocess.run(
            ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=TOP, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        missing(f"git cannot list the files of this checkout: {error}")
    return [Path(name) for name in listed.stdout.split("\0") if name and (TOP / name).is_file()]


@pytest.mark.parametrize("package", PACKAGES)
def test_each_top_level_name_has_one_owner(package: str) -> None:
    """The generic names belong to keyrepack alone: another distribution with one of them would be shadowed."""
    assert set(packages_distributions()[package]) == {"keyrepack"}  # an editable installation lists it twice
    assert [Path(folder).name for folder in import_module(package).__path__] == [package]


def test_the_distribution_is_private_and_complete() -> None:
    """keyrepack is an application that is never uploaded, with one command."""
    metadata = distribution("keyrepack")
    assert "Private :: Do Not Upload" in (metadata.metadata.get_all("Classifier") or [])
    assert {entry.name for entry in metadata.entry_points} == {"keyrepack"}
    owned = {package for package, owners in packages_distributions().items() if "keyrepack" in owners}
    assert {package for package in owned if not package.startswith("__editable__")} == set(PACKAGES)


def test_the_top_of_the_tree_is_closed() -> None:
    """The top holds the three packages, tests, deploy and four files; anything else has a place below."""
    names = {path.parts[0] for path in tracked()}
    assert {name for name in names if not name.startswith(".")} <= ALLOWED


@pytest.mark.parametrize("kind", ADDRESSES)
def test_no_file_names_an_address_to_install_from(kind: str) -> None:
    """Where packages and images come from is the machine's business: no tracked file names it, nor this machine."""
    pattern = re.compile(ADDRESSES[kind])
    found = []
    for path in tracked():
        text = (TOP / path).read_bytes().decode("utf-8", "replace")
        found += [f"{path}:{number}" for number, line in enumerate(text.splitlines(), 1) if pattern.search(line)]
    assert found == []


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("an index or registry", "https://files." + "pythonhosted" + ".org/packages"),
        ("an index or registry", "FROM docker" + ".io/library/python"),
        ("a mirror", "url = https://example.test/" + "simple" + "/"),
        ("an option that names an index", "pip install --index" + "-url x"),
        ("a machine's own path", "/" + "root/.venv"),
    ],
)
def test_an_address_would_be_found(kind: str, line: str) -> None:
    """The patterns find what they are for."""
    assert re.search(ADDRESSES[kind], line)


def test_constraints_are_names_and_versions() -> None:
    """Every pinned line is a name and one version; nothing is pinned to a place, and keyrepack is not pinned at all."""
    lines = (TOP / "deploy" / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.!+-]+", line) for line in pins)
    assert not any(line.lower().startswith("keyrepack") for line in pins)
    assert len(pins) == len({line.split("==")[0].lower() for line in pins})


def test_every_dependency_is_pinned() -> None:
    """What pyproject.toml asks for, tools included, has a version in deploy/constraints.txt."""
    pins = (TOP / "deploy" / "constraints.txt").read_text().lower().replace("_", "-")
    names = {
        re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower()
        for requirement in distribution("keyrepack").requires or []
    }
    assert {name for name in names if f"\n{name}==" not in pins} == set()


def test_make_prints_its_help() -> None:
    """A bare `make` names every target with a sentence."""
    try:
        shown = subprocess.run(["make", "--no-print-directory"], cwd=TOP, capture_output=True, text=True, check=True)
    except OSError as error:
        missing(f"make cannot be run: {error}")
    for target in ("setup", "demo", "up", "test", "check", "bench"):
        assert re.search(rf"^  {target}  +[A-Z]", shown.stdout, re.M)
