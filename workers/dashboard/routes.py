"""Rows of the table: a view is read, an act is done.

A view's page is at its path, its JSON at the same below `/api`; a form posts an act to its path, a program below that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from schemas.events import PRINTABLE
from workers.dashboard.auth.users import Role
from workers.dashboard.site import Site, Visitor

API = "/api"

Reason = Annotated[str, Field(min_length=1, max_length=500, pattern=PRINTABLE, description="Why; kept in the audit.")]


class NoQuery(BaseModel):
    """No query."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class WithReason(BaseModel):
    """Why it is done."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is asked for: the names in its path, and its query or its form, checked."""

    site: Site
    visitor: Visitor
    path: Mapping[str, str]
    form: Any


Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Something to see."""

    name: str
    path: str
    title: str
    read: Callable[[Ask], Document]  # the same for every visitor: many who ask at once share it
    query: type[BaseModel] = NoQuery
    role: Role = Role.VIEWER
    section: str = ""  # of the menu; empty: its own name
    live: bool = False  # what is on its page follows what happens

    @property
    def template(self) -> str:
        """Return the file of its page."""
        return f"{self.name}.html"

    @property
    def is_in(self) -> str:
        """Return the section of the menu that it belongs to."""
        return self.section or self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Something to do. Its document says what came of it; `said` is a sentence of it, `back` the page to go to."""

    name: str
    path: str
    title: str
    run: Callable[[Ask], Document]
    said: Callable[[Document], str]
    back: Callable[[Ask, Document], str]
    form: type[BaseModel] = WithReason
    role: Role = Role.OPERATOR
