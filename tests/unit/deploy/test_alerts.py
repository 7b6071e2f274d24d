"""Alerts fire where they should and nowhere else; each has a page that says what to do; all names are the code's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import missing
from tests.engine import World
from workers.broker.queue_depths import broker_of
from workers.cli.application import COMMANDS, GROUPS
from workers.maintenance.audit_check import verify_audit
from workers.monitoring.metrics import OverviewMetrics
from workers.monitoring.overview_reader import OverviewReader
from workers.runtime.settings import Settings

DEPLOY = Path(__file__).parents[3] / "deploy"
RULES = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"][0]["rules"]
BOARD = json.loads((DEPLOY / "grafana" / "keyrepack.json").read_text())
EXPRESSIONS = [rule["expr"] for rule in RULES]
PANELS = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
HEADINGS = ["## What it means", "## How to look", "## What to do"]

SUFFIXES = {"gauge": [""], "counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "info": ["_info"]}

NOTICES = 'keyrepack_lock_notice_seconds_bucket{le="1.0"}'
CALLS = 'keyrepack_kms_calls_total{kms="aws-kms",operation="unwrap",code="%s"}'

USUAL, LONG = "100m", {"KeyrepackAuditUnverified": "6h"}

WELL = {
    'keyrepack_build_info{version="1"}': "1x600",
    "keyrepack_database_up": "1x600",
    "keyrepack_broker_up": "1x600",
    'keyrepack_canary_age_seconds{queue="keyrepack.urgent"}': "15x600",
    'keyrepack_queue_oldest_message_seconds{queue="keyrepack.urgent"}': "1x600",
    'keyrepack_schedule_overdue_seconds{job="sweep"}': "1x600",
    'keyrepack_schedule_overdue_seconds{job="verify_audit"}': "1000x600",
    'keyrepack_workers{state="heard"}': "4x600",
    'keyrepack_workers{state="silent"}': "0x600",
    'keyrepack_locked_environments{cause="revoked"}': "1x600",
    'keyrepack_locked_environments{cause="restricted"}': "0x600",
    'keyrepack_locked_environments{cause="lost"}': "0x600",
    "keyrepack_lock_notice_seconds_count": "0+1x600",
    NOTICES: "0+1x600",
    "keyrepack_repack_blocked_seconds": "600x600",
    'keyrepack_repacks{state="moving"}': "1x600",
    'keyrepack_repacks{state="renewing"}': "1x600",
    "keyrepack_batches_total": "0+100x600",
    "keyrepack_lease_losses_total": "0+0.1x600",
    'keyrepack_quarantined_keys{reason="wrong_fingerprint"}': "0x600",
    CALLS % "ok": "0+100x600",
    CALLS % "throttled": "0+1x600",
    CALLS % "unreachable": "0+1x600",
    "keyrepack_poll_overdue_seconds": "5x600",
    "keyrepack_outbox_oldest_seconds": "2x600",
    "keyrepack_audit_whole": "1x600",
    "keyrepack_audit_verified_timestamp_seconds": "0+60x600",
}
"""A minute a value. A customer has revoked an environment: that is no trouble of ours."""

TROUBLE: dict[str, dict[str, str | None]] = {
    "KeyrepackNotScraped": {'keyrepack_build_info{version="1"}': None},
    "KeyrepackDatabaseAway": {"keyrepack_database_up": "0x600"},
    "KeyrepackBrokerAway": {"keyrepack_broker_up": "0x600"},
    "KeyrepackQueueUnserved": {'keyrepack_canary_age_seconds{queue="keyrepack.urgent"}': "99999x600"},
    "KeyrepackQueueOld": {'keyrepack_queue_oldest_message_seconds{queue="keyrepack.urgent"}': "400x600"},
    "KeyrepackClockStopped": {'keyrepack_schedule_overdue_seconds{job="sweep"}': "99999x600"},
    "KeyrepackNoWorkers": {'keyrepack_workers{state="heard"}': "0x600"},
    "KeyrepackWorkersSilent": {'keyrepack_workers{state="silent"}': "1x600"},
    "KeyrepackEnvironmentLost": {'keyrepack_locked_environments{cause="lost"}': "1x600"},
    "KeyrepackEnvironmentsRestricted": {'keyrepack_locked_environments{cause="restricted"}': "1x600"},
    "KeyrepackLockSlow": {NOTICES: "0+0.5x600"},
    "KeyrepackRepackBlocked": {"keyrepack_repack_blocked_seconds": "4000x600"},
    "KeyrepackNoProgress": {"keyrepack_batches_total": "7x600"},
    "KeyrepackQuarantine": {'keyrepack_quarantined_keys{reason="wrong_fingerprint"}': "2x600"},
    "KeyrepackLeaseLosses": {"keyrepack_lease_losses_total": "0+1x600"},
    "KeyrepackKmsThrottled": {CALLS % "throttled": "0+30x600"},
    "KeyrepackKmsSilent": {CALLS % "unreachable": "0+300x600"},
    "KeyrepackPollLate": {"keyrepack_poll_overdue_seconds": "700x600"},
    "KeyrepackOutboxStuck": {"keyrepack_outbox_oldest_seconds": "400x600"},
    "KeyrepackAuditBroken": {"keyrepack_audit_whole": "0x600"},
    "KeyrepackAuditUnverified": {"keyrepack_audit_verified_timestamp_seconds": "0x600"},
}


@pytest.fixture(scope="module")
def promtool() -> str:
    """Prometheus' own judge of its rules."""
    found = shutil.which("promtool")
    if found is None:
        missing("promtool is not on PATH. On Debian: apt-get install prometheus")
    return found


@pytest.fixture
def names(world: World) -> set[str]:
    """Every name that a scrape can have."""
    verify_audit(world.main)
    reader = OverviewReader(world.main.database, broker_of("redis://127.0.0.1:1/0"), world.main.settings)
    families = list(OverviewMetrics(reader.read).collect())
    reader.close()
    return {family.name + suffix for family in families for suffix in SUFFIXES[family.type]}


def test_what_is_watched_is_there(names: set[str]) -> None:
    """Every metric that an alert or a panel names exists in the code."""
    for expression in [*EXPRESSIONS, *PANELS]:
        named = set(re.findall(r"keyrepack_[a-z_]+", expression))
        assert named, expression
        assert named <= names, expression


def test_every_metric_is_shown_or_watched(names: set[str]) -> None:
    """What nobody looks at need not be counted; those that only explain others are named here."""
    explain = {"poll_last_look_timestamp_seconds", "schedule_last_run_timestamp_seconds", "audit_records"}
    explain |= {"wrapping_versions_total", "environments"}
    used = {name for expression in [*EXPRESSIONS, *PANELS] for name in re.findall(r"keyrepack_[a-z_]+", expression)}
    stems = {re.sub(r"_(bucket|count|sum)$", "", name) for name in used}
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in names} - stems == {f"keyrepack_{x}" for x in explain}


def test_every_alert_has_its_page() -> None:
    """It says what it means, how to look and what to do, and the index leads to it."""
    index = (DEPLOY / "runbook" / "README.md").read_text()
    pages = set()
    for rule in RULES:
        url = rule["annotations"]["runbook_url"]
        text = (DEPLOY / url).read_text()
        assert text.startswith(f"# {rule['alert']}\n"), url
        assert re.findall(r"^## .*", text, re.MULTILINE) == HEADINGS, url
        assert f"`{rule['expr']}`" in text, "the page says on what it fires"
        assert f"| {rule['alert']} | {rule['labels']['severity']} | [{Path(url).stem}]({Path(url).name}) |" in index
        pages.add(Path(url).name)
    assert {page.name for page in (DEPLOY / "runbook").iterdir()} == pages | {"README.md"}


def test_the_pages_name_what_is_there() -> None:
    """Commands, settings and pages that a runbook tells to use exist."""
    words = {(function.__name__.replace("_", "-"),) for function, _ in COMMANDS}
    words |= {(group, word) for group, _, _, commands in GROUPS for word in commands}
    for page in (DEPLOY / "runbook").glob("*.md"):
        text = page.read_text()
        for command in re.findall(r"`keyrepack\s([^`]+)`", text):
            typed = [part for part in command.split() if re.fullmatch(r"[a-z-]+", part) and not part.startswith("--")]
            assert tuple(typed[:1]) in words or tuple(typed[:2]) in words, (page.name, command)
        for setting in re.findall(r"`([a-z]+(?:_[a-z]+)+)`", text):
            assert setting in Settings.model_fields, (page.name, setting)
        for other in re.findall(r"\(([a-z_]+\.md)\)", text):
            assert (DEPLOY / "runbook" / other).exists(), (page.name, other)


def test_the_board_is_one_that_grafana_takes() -> None:
    """Panels with ids of their own that do not lie over each other, each with a query and a unit."""
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    taken = [(x, y) for panel in BOARD["panels"] for x, y in _cells(panel["gridPos"])]
    assert len(taken) == len(set(taken))
    assert all(panel["targets"] and panel["fieldConfig"]["defaults"]["unit"] for panel in BOARD["panels"])
    assert all(x < 24 for x, _ in taken)


def _cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    for x in range(place["x"], place["x"] + place["w"]):
        for y in range(place["y"], place["y"] + place["h"]):
            yield x, y


def test_each_alert_is_tried() -> None:
    """None is added without a trouble in which it fires."""
    assert [rule["alert"] for rule in RULES] == list(TROUBLE)


def test_each_alert_fires_in_its_trouble_and_nowhere_else(promtool: str, tmp_path: Path) -> None:
    """By promtool: well, none fires; in each trouble, the one that is meant and no other."""
    shutil.copy(DEPLOY / "alerts.yaml", tmp_path)
    cases = [_case("all is well", {}, None), *(_case(name, series, name) for name, series in TROUBLE.items())]
    document = {"rule_files": ["alerts.yaml"], "evaluation_interval": "1m", "tests": cases}
    (tmp_path / "tests.yaml").write_text(json.dumps(document))
    for arguments in (["check", "rules", "alerts.yaml"], ["test", "rules", "tests.yaml"]):
        done = subprocess.run([promtool, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr


def _case(name: str, series: dict[str, str | None], fires: str | None) -> dict[str, Any]:
    """So long of it as the alert needs; a series that is None is not there."""
    values = {key: value for key, value in (WELL | series).items() if value is not None}
    expected = [] if fires is None else [{"labels": f'{{alertname="{fires}"}}', "value": 1}]
    firing = 'count by (alertname) (ALERTS{alertstate="firing"})'
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": key, "values": value} for key, value in values.items()],
        "promql_expr_test": [{"expr": firing, "eval_time": LONG.get(name, USUAL), "exp_samples": expected}],
    }
