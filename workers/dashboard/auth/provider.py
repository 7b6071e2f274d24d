"""Signing in through an OpenID Connect provider: authorization code with PKCE; the ID token says who, and the role.

Authlib does the protocol: state, nonce, code verifier, signature by the provider's keys, issuer, audience, expiry.
"""

from __future__ import annotations

from typing import Any

from authlib.integrations.starlette_client import OAuth, OAuthError
from starlette.requests import Request
from starlette.responses import Response

from schemas.errors import KeyrepackError
from workers.dashboard.auth.users import Role
from workers.errors import NotConfigured, Transient
from workers.kms.local.private_file import read_private
from workers.runtime.logs import log
from workers.runtime.settings import Settings

NAME = "provider"
SCOPE = "openid profile email"
MAX_SECRET_BYTES = 4096
SECONDS = 10.0
"""How long the provider may take to answer."""


class NotSignedIn(KeyrepackError):
    """The provider did not say who it is, or said a role that is none here."""

    code = "not_signed_in"


class ProviderAway(Transient):
    """The provider did not answer."""

    code = "provider_away"

    def __init__(self, detail: str) -> None:
        super().__init__("You were not signed in.", f"The provider does not answer ({detail}).", "Try again.")


class Provider:
    """One provider."""

    def __init__(
        self, *, issuer: str, client_id: str, secret: str | None, role_claim: str, redirect: str | None
    ) -> None:
        self._role_claim, self._redirect = role_claim, redirect
        self._oauth = OAuth()
        self._oauth.register(
            NAME,
            client_id=client_id,
            client_secret=secret,
            server_metadata_url=f"{issuer}/.well-known/openid-configuration",
            client_kwargs={"scope": SCOPE, "code_challenge_method": "S256", "timeout": SECONDS},
        )

    @classmethod
    def of(cls, settings: Settings) -> Provider:
        """Make the provider that these settings name. Raises NotConfigured."""
        if settings.oidc_issuer is None or settings.oidc_client_id is None:
            raise NotConfigured(
                "Nobody can sign in through the provider.",
                "KEYREPACK_OIDC_ISSUER and KEYREPACK_OIDC_CLIENT_ID go together.",
                "Set both, or neither.",
            )
        secret, file = None, settings.oidc_client_secret_file
        if file is not None:
            closed, remedy = "Nobody can sign in through the provider", "Put the client's secret into it."
            secret = read_private(file, max_bytes=MAX_SECRET_BYTES, closed=closed, remedy=remedy).decode().strip()
        return cls(
            issuer=settings.oidc_issuer,
            client_id=settings.oidc_client_id,
            secret=secret,
            role_claim=settings.oidc_role_claim,
            redirect=settings.dashboard_url,
        )

    async def send_away(self, request: Request, path: str) -> Response:
        """Redirect to the provider; what has to be remembered goes into `request.session`. Raises ProviderAway."""
        base = self._redirect or f"{request.url.scheme}://{request.url.netloc}"
        try:
            found: Response = await self._client().authorize_redirect(request, f"{base}{path}")
        except Exception as error:
            raise _away(error) from error
        return found

    async def who_came_back(self, request: Request) -> tuple[str, Role]:
        """Return (name, role) of the user whom the provider sends back. Raises NotSignedIn, ProviderAway."""
        try:
            token = await self._client().authorize_access_token(request)
        except OAuthError as error:
            raise NotSignedIn("You were not signed in.", f"The provider said: {error.error}.", "Try again.") from error
        except Exception as error:
            raise _away(error) from error
        claims = token.get("userinfo") or {}
        name = claims.get("email") or claims.get("preferred_username") or claims.get("sub")
        role = role_of(claims.get(self._role_claim))
        if not isinstance(name, str) or not name or len(name) > 200:
            raise NotSignedIn("You were not signed in.", "The provider did not say who you are.", "Ask who runs it.")
        if role is None:
            why = f"The provider names no role of yours in {self._role_claim}."
            raise NotSignedIn("You were not signed in.", why, "Ask for viewer, operator or security.")
        return name, role

    def _client(self) -> Any:
        return self._oauth.create_client(NAME)


def role_of(claim: object) -> Role | None:
    """Return the strongest role among those that a claim names; None: none of ours."""
    named = claim if isinstance(claim, list) else [claim]
    found = [role for role in Role if role.value in named]
    return found[-1] if found else None


def _away(error: Exception) -> KeyrepackError:
    """Translate a library's own error: its type says enough, its text may hold a token (R10)."""
    log.warning("provider.failed", error=type(error).__name__)
    kind = type(error)
    if kind.__module__.startswith("joserfc") or "claim" in kind.__name__.lower():
        return NotSignedIn("You were not signed in.", f"Its answer does not hold ({kind.__name__}).", "Try again.")
    return ProviderAway(kind.__name__)
