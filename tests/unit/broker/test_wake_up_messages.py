"""What is let through to Celery from a queue of work, and under which code the rest is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from workers.broker.wake_up_messages import MAX_BYTES, MAX_ID, WakeUpRefused, require_wake_up
from workers.celery_app.app import make_app
from workers.celery_app.config import TASK_IDS, WALK
from workers.runtime.settings import Settings


@dataclass
class Message:
    """What kombu hands over."""

    body: Any = b"[[1], {}, {}]"
    headers: Any = field(default_factory=lambda: {"task": WALK, "id": "1", "eta": None})
    content_type: Any = "application/json"
    errors: list[Any] = field(default_factory=list)


QUEUE = "keyrepack.repacks"


@pytest.mark.parametrize("name", sorted(TASK_IDS))
def test_what_celery_itself_sends_is_let_through(name: str) -> None:
    """Every task of ours, called as the waker calls it."""
    celery = make_app(Settings())
    sent = celery.amqp.create_task_message("id", name, list(range(TASK_IDS[name])), {}, expires=120)
    body = json.dumps(sent.body).encode()
    require_wake_up(Message(body=body, headers=sent.headers), queue=QUEUE, tasks=TASK_IDS)


def test_the_tasks_there_are_are_the_tasks_let_through() -> None:
    """Whoever adds a task says how many ids it takes."""
    assert set(make_app(Settings()).tasks) == set(TASK_IDS)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (Message(body=b"x" * (MAX_BYTES + 1)), "too_large"),
        (Message(content_type="application/x-python-serialize"), "malformed_message"),
        (Message(content_type=None), "malformed_message"),
        (Message(errors=[("no such compression",)]), "malformed_message"),
        (Message(headers={}), "malformed_message"),
        (Message(headers=None), "malformed_message"),
        (Message(headers={"task": [], "id": "1"}), "malformed_message"),
        (Message(headers={"task": WALK}), "malformed_message"),
        (Message(headers={"task": WALK, "id": 7}), "malformed_message"),
        (Message(headers={"task": WALK, "id": "1", "eta": "2999-01-01T00:00:00"}), "malformed_message"),
        (Message(headers={"task": "os.system", "id": "1"}), "unknown_task"),
        (Message(headers={"task": "celery.chord_unlock", "id": "1"}), "unknown_task"),
        (Message(body=b"\xff"), "malformed_message"),
        (Message(body=None), "malformed_message"),
        (Message(body=b"{}"), "malformed_message"),
        (Message(body=b"7"), "malformed_message"),
        (Message(body=b"[" * 4000), "malformed_message"),
        *(
            (Message(body=json.dumps([arguments, {}, {}])), "wrong_arguments")
            for arguments in ([], [None], ["1"], [1.0], [True], [1, 2], [[1]], [MAX_ID + 1], {"a": 1}, "1", None)
        ),
        (Message(body=b"[[1], {\"repack_id\": 1}, {}]"), "wrong_arguments"),
        (Message(body=b"[[1], null, {}]"), "wrong_arguments"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_under_its_code(message: Message, code: str) -> None:
    """Too large, no task's message, not a task of ours, not the ids it takes."""
    with pytest.raises(WakeUpRefused) as refused:
        require_wake_up(message, queue=QUEUE, tasks=TASK_IDS)
    assert refused.value.code == code
    assert refused.value.why.startswith("In keyrepack.repacks: ")
    assert refused.value.remedy
