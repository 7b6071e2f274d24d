"""What a command works with: the settings, and services that are closed when it is done."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from schemas.errors import KeyrepackError
from workers.cli.output import wishes

if TYPE_CHECKING:
    from pydantic import ValidationError

    from workers.broker.waker import Waker
    from workers.runtime.settings import Settings
    from workers.services import Services

BROKER_SECONDS = 2.0
"""How long a command waits for the broker before it says that it is away."""


class WrongSetting(KeyrepackError):
    """A setting has a value that it cannot have."""

    code = "wrong_setting"


def read_settings() -> Settings:
    """The settings of this process. Raises WrongSetting, which names the variables and what would be right."""
    from pydantic import ValidationError

    from workers.runtime.settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        raise _wrong_setting(error) from None  # R10: pydantic's own text repeats the value


def _wrong_setting(error: ValidationError) -> WrongSetting:
    from workers.runtime.settings import Settings

    names, whys, rights = [], [], []
    for fault in error.errors(include_input=False, include_url=False):
        field = str(fault["loc"][0]) if fault["loc"] else ""
        name, known = f"KEYREPACK_{field.upper()}", Settings.model_fields.get(field)
        names.append(name)
        whys.append(f"{name}: {fault['msg'].rstrip('.')}.")
        rights.append(f"{name} is: {known.description}" if known is not None else "")
    return WrongSetting(f"Wrong settings: {', '.join(names)}.", " ".join(whys), " ".join(filter(None, rights)))


@contextmanager
def opened(*, wakes: bool = False, ready: bool = True) -> Iterator[Services]:
    """The services of this process. `wakes`: through the broker; `ready`: the database must have its schema.

    Raises WrongSetting, NotConfigured, DatabaseAway.
    """
    from workers.compose import build_services
    from workers.errors import DatabaseAway
    from workers.store.database import require_database
    from workers.store.revisions import require_current

    settings = read_settings()
    quiet_logs(settings)
    require_database(settings.database_url.get_secret_value(), exists=ready)
    services = build_services(settings, wake=_waker() if wakes else None)
    try:
        if ready:
            require_current(services.database)
        yield services
    except DatabaseAway as error:
        error.remedy = "Check that the server is up, and KEYREPACK_DATABASE_URL; then run the command again."
        raise
    finally:
        services.close()


def quiet_logs(settings: Settings) -> None:
    """A command's own answer says what was done: logs speak from warnings on, or all of them with --debug."""
    from workers.runtime.logs import configure_logs

    level = "debug" if wishes.debug else "error"
    configure_logs(settings.model_copy(update={"log_level": level, "log_format": "console"}))


def actor() -> str:
    """Who runs this command, as the audit names him."""
    try:
        return f"cli:{getpass.getuser()}"
    except (OSError, KeyError):  # a container's user may have no name
        return f"cli:{os.getuid()}"


def broker_answers(settings: Settings) -> bool:
    """Whether the broker takes a connection now."""
    return dead_letters(settings) is not None


def dead_letters(settings: Settings) -> int | None:
    """How many dead letters the broker keeps, none where it keeps none by itself; None where it does not answer."""
    from kombu import Connection
    from kombu.exceptions import OperationalError

    from producers.topology import count_dead_letters
    from producers.transports import transport_options
    from schemas.broker_address import read_broker_url

    connect: Any = Connection  # kombu has no types
    url = settings.broker_url.get_secret_value()
    options = transport_options(url) | {"socket_connect_timeout": BROKER_SECONDS, "max_retries": 0}
    connection = connect(**read_broker_url(url).kombu, connect_timeout=BROKER_SECONDS, transport_options=options)
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=BROKER_SECONDS)
        return count_dead_letters(connection.default_channel)
    except (OperationalError, OSError, *connection.connection_errors):
        return None
    finally:
        connection.release()


def _waker() -> Waker:
    from workers.celery_app.app import waker

    return waker
