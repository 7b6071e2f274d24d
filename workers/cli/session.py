"""Opens what a command works with: the settings, and services that are closed when it is done."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from schemas.errors import KeyrepackError
from workers.cli.output import wishes

if TYPE_CHECKING:
    from pydantic import ValidationError

    from workers.broker.waker import Waker
    from workers.runtime.settings import Settings
    from workers.services import Services


class WrongSetting(KeyrepackError):
    """A setting has a value that it cannot have."""

    code = "wrong_setting"


def read_settings() -> Settings:
    """Read the settings of this process. Raises WrongSetting, which names the variables and what would be right."""
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
    """Open the services of this process. `wakes`: through the broker; `ready`: the database must have its schema.

    Raises WrongSetting, NotConfigured, DatabaseAway.
    """
    from workers.compose import build_services
    from workers.errors import DatabaseAway
    from workers.store.database import require_database
    from workers.store.revisions import require_current

    settings = read_settings()
    quiet_logs(settings)
    require_database(settings.database_url.get_secret_value(), exists=ready)
    services = build_services(settings, wake=_waker(settings) if wakes else None)
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
    """Keep logs quiet: a command's own answer says what was done. They speak from errors on, or all of them with
    --debug.
    """
    from workers.runtime.logs import configure_logs

    level = "debug" if wishes.debug else "error"
    configure_logs(settings.model_copy(update={"log_level": level, "log_format": "console"}))


def actor() -> str:
    """Return who runs this command, as the audit names that user."""
    try:
        return f"cli:{getpass.getuser()}"
    except (OSError, KeyError):  # a container's user may have no name
        return f"cli:{os.getuid()}"


def broker_answers(settings: Settings) -> bool:
    """Return True if the broker takes a connection now."""
    from workers.broker.broker_check import is_broker_up

    return is_broker_up(settings.broker_url.get_secret_value())


def _waker(settings: Settings) -> Waker:
    from workers.celery_app.app import make_waker

    return make_waker(settings)
