"""What deploy/ says is what the code does: commands, queues, variables, policies; and each file has its proper form."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import kubernetes_validate
import pytest
import typer
import yaml

from producers.topology import WORK_QUEUES
from schemas.keys import MainKeyUri
from workers.cli.application import build
from workers.kms.aws import policies
from workers.runtime.settings import Settings

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"

KUBERNETES_VERSION = "1.31"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
VARIABLES = {f"KEYREPACK_{name.upper()}" for name in Settings.model_fields}

ENVIRONMENT = UUID("00000000-0000-4000-8000-000000000000")
MAIN_KEY = "aws-kms:arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-4000-8000-000000000000"
PRINCIPAL = "arn:aws:iam::444455556666:role/keyrepack-worker"


def documents() -> list[dict[str, Any]]:
    """Every object of the Kubernetes folder."""
    listed = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    return [one for name in listed for one in yaml.safe_load_all((KUBERNETES / name).read_text())]


OBJECTS = documents()
# KEDA's kinds are checked by name, below: Kubernetes has no schema of them.
KNOWN = [
    pytest.param(one, id=f"{one['kind']}-{one['metadata']['name']}")
    for one in OBJECTS
    if "keda" not in one["apiVersion"]
]
PODS = {
    one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in OBJECTS if one["kind"] in ("Deployment", "Job")
}
SERVICES = {
    name: service
    for name, service in COMPOSE["services"].items()
    if service["image"] == "keyrepack" and "entrypoint" not in service
}
COMMANDS = [
    *(pytest.param(service["command"], id=f"compose-{name}") for name, service in SERVICES.items()),
    *(pytest.param(pod["containers"][0]["args"], id=f"kubernetes-{name}") for name, pod in PODS.items()),
]


# Commands, queues, variables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", COMMANDS)
def test_a_command_is_one_with_these_options(arguments: list[str]) -> None:
    """Whatever a container runs is a command of the program, called with options that it has."""
    if arguments == ["--help"]:
        return
    command: Any = typer.main.get_command(build())
    name, *rest = arguments
    found = command.commands[name]
    found.make_context(name, list(rest), resilient_parsing=False)


@pytest.mark.parametrize("where", ["compose", "kubernetes"])
def test_every_queue_is_served_and_the_urgent_one_by_a_worker_of_its_own(where: str) -> None:
    """Together the roles serve each queue; a revocation waits behind no walk."""
    roles = {"compose": [one["command"] for one in SERVICES.values()]}
    roles["kubernetes"] = [pod["containers"][0]["args"] for pod in PODS.values()]
    served = [_queues(command) for command in roles[where] if command[0] == "worker"]
    assert set().union(*served) == set(WORK_QUEUES)
    assert served.count({"keyrepack.urgent"}) == 2
    takers = [command for command in roles[where] if command[0] == "worker" and "--no-events" not in command]
    assert len(takers) == 1, "one role takes events from the broker"


def _queues(command: list[str]) -> set[str]:
    return set(command[command.index("--queues") + 1].split(","))


def test_every_variable_is_a_setting() -> None:
    """Pydantic would ignore a misspelt one in silence."""
    set_up = {name for service in SERVICES.values() for name in service["environment"]}
    for one in OBJECTS:
        if one["kind"] == "ConfigMap":
            set_up |= {name for name in one["data"] if name.startswith("KEYREPACK_")}
    assert set_up
    assert set_up <= VARIABLES


def test_every_secret_that_is_a_setting_is_one() -> None:
    """A file of the secrets' folder that is named like a setting is one."""
    names = {name for name in COMPOSE["secrets"] if name.startswith("keyrepack_")}
    names |= set(re.findall(r"`(keyrepack_\w+)`", (KUBERNETES / "README.md").read_text()))
    assert names
    assert {name.upper() for name in names} <= VARIABLES


# Compose -----------------------------------------------------------------------------------------------------------


def test_services_are_closed() -> None:
    """Each of ours runs on a read-only file system, without capabilities, and no password is in a variable."""
    for name, service in SERVICES.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
    for name, service in COMPOSE["services"].items():
        for variable in service.get("environment", {}):
            assert "PASSWORD" not in variable or variable.endswith("_FILE"), name


def test_what_is_mounted_is_there_to_be_mounted(tmp_path: Path) -> None:
    """`make-secrets` makes every file that compose.yaml names, once, and says so when it is called again."""
    folder = tmp_path / "secrets"
    subprocess.run([DEPLOY / "make-secrets", folder], check=True, capture_output=True)
    named = {Path(one["file"]).name for kind in ("secrets", "configs") for one in COMPOSE[kind].values()}
    assert {path.name for path in folder.iterdir()} == named
    again = subprocess.run([DEPLOY / "make-secrets", folder], check=False, capture_output=True, text=True)
    assert again.returncode == 1
    assert "remove it to begin anew" in again.stderr
    used = {name for service in COMPOSE["services"].values() for name in service.get("secrets", [])}
    assert used == set(COMPOSE["secrets"])


def test_the_image_is_made_of_what_is_there() -> None:
    """Each COPY names files of the checkout, and the image ends as a user without rights."""
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            assert all((ROOT / name).exists() for name in shlex.split(line)[1:-1]), line
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]
    assert 'ENTRYPOINT ["keyrepack"]' in lines


# Kubernetes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", KNOWN)
def test_an_object_has_the_form_that_kubernetes_asks_for(one: dict[str, Any]) -> None:
    """Strictly, by its own schemas."""
    kubernetes_validate.validate(one, KUBERNETES_VERSION, strict=True)


def test_pods_are_restricted() -> None:
    """What the namespace enforces: nobody is root, nothing is writable but what is mounted, no token of the cluster."""
    for name, pod in PODS.items():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["automountServiceAccountToken"] is False, name
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert "memory" in container["resources"]["limits"], name
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted <= {volume["name"] for volume in pod["volumes"]}, name


def test_selectors_find_their_pods() -> None:
    """Whatever selects pods by a label finds some: disruption budgets, services, network policies, scaling."""
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in OBJECTS if "template" in one.get("spec", {})]
    for one in OBJECTS:
        for wanted in _selected(one):
            assert any(wanted.items() <= found.items() for found in labels), one["metadata"]["name"]
    (scaled,) = [one for one in OBJECTS if one["kind"] == "ScaledObject"]
    assert scaled["spec"]["scaleTargetRef"]["name"] in PODS
    lists = [each["metadata"]["listName"] for each in scaled["spec"]["triggers"] if each["type"] == "redis"]
    assert set(lists) <= set(WORK_QUEUES)


def _selected(one: dict[str, Any]) -> Iterator[dict[str, str]]:
    if one["kind"] in ("Deployment", "PodDisruptionBudget"):
        yield one["spec"]["selector"]["matchLabels"]
    if one["kind"] == "NetworkPolicy":
        yield one["spec"]["podSelector"]["matchLabels"]
    if one["kind"] == "Service":
        yield one["spec"]["selector"]


def test_a_stop_leaves_time_for_a_slice() -> None:
    """A worker that is told to stop ends its task; what is killed before costs a batch, and that is not the plan."""
    for name, pod in PODS.items():
        if pod["containers"][0]["args"][0] == "worker":
            assert pod["terminationGracePeriodSeconds"] > Settings().slice_seconds * 2, name


# AWS ---------------------------------------------------------------------------------------------------------------


def iam_pages() -> dict[str, str]:
    """The policies by role, for one environment and one main key: put your own in their places."""
    keys = [MainKeyUri.parse(MAIN_KEY)]
    customer = {"Version": policies.VERSION, "Statement": policies.key_statements([ENVIRONMENT], principal=PRINCIPAL)}
    pages = {
        "customer-key.json": customer,
        "worker.json": policies.worker_policy([ENVIRONMENT], keys),
        "poller.json": policies.poller_policy(keys),
        "dashboard.json": policies.dashboard_policy(),
    }
    return {name: json.dumps(page, indent=2) + "\n" for name, page in pages.items()}


@pytest.mark.parametrize("name", iam_pages())
def test_policies_are_the_codes(name: str) -> None:
    """deploy/iam holds what the code says each role needs, and nothing more."""
    assert (DEPLOY / "iam" / name).read_text() == iam_pages()[name]
