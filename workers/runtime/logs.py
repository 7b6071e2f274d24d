"""Logs: dotted, past-tense words with facts as keys; ids only, never a key or a wrap (R10)."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from workers.runtime.settings import Settings


def configure_logs(settings: Settings) -> None:
    """Write one line per event to standard error, JSON or coloured text; the frameworks' own logs in the same form.

    It may be called again: a logger that was cached at its first use would keep the level of that time.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # R10: structlog's tracebacks show local variables by default; ours never do.
    if settings.log_format == "json":
        final: list[Any] = [
            structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ]
    else:
        plain = structlog.dev.RichTracebackFormatter(show_locals=False)
        final = [structlog.dev.ConsoleRenderer(exception_formatter=plain)]
    level = getattr(logging, settings.log_level.upper())
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("botocore", "aiobotocore", "aioboto3", "urllib3", "kombu", "amqp"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


log: Any = structlog.stdlib.get_logger("keyrepack")
