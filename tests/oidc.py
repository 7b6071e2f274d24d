"""An OpenID Connect provider on loopback that works: metadata, keys, codes with PKCE, signed tokens; lies to order."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT, SECRET = "keyrepack", "a client's secret"


@dataclass(slots=True, kw_only=True)
class FakeProvider:
    """What it says of whoever comes. `lies` overrides claims of the next ID tokens; `key` signs them."""

    url: str
    claims: dict[str, Any] = field(default_factory=lambda: {"sub": "u-1", "email": "ada@customer.test"})
    lies: dict[str, Any] = field(default_factory=dict)
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "k-1"}))
    published: RSAKey | None = None
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def authorize(self, query: dict[str, str]) -> str:
        """Where the browser is sent back to, with a code."""
        assert query["client_id"] == CLIENT
        assert query["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(8)
        self.codes[code] = query
        return f"{query['redirect_uri']}?" + urlencode({"code": code, "state": query["state"]})

    def redeem(self, form: dict[str, str]) -> dict[str, Any] | None:
        """Tokens for a code, once, to who began with it."""
        query = self.codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if query is None or challenge != query["code_challenge"]:
            return None
        now = int(time.time())
        claims = {"iss": self.url, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": query["nonce"]}
        token = jwt.encode({"alg": "RS256", "kid": self.key.kid}, claims | self.claims | self.lies, self.key)
        return {"access_token": "at", "token_type": "Bearer", "expires_in": 300, "id_token": token}

    @property
    def keys(self) -> dict[str, Any]:
        """What it publishes."""
        return {"keys": [(self.published or self.key).as_dict(private=False)]}


@contextmanager
def running_provider() -> Iterator[FakeProvider]:
    """A provider that answers for the length of a block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            if parts.path == "/.well-known/openid-configuration":
                self._json(_metadata(provider.url))
            elif parts.path == "/keys":
                self._json(provider.keys)
            else:
                self.send_response(302)
                self.send_header("location", provider.authorize(query))
                self.end_headers()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            tokens = provider.redeem(form) if self._is_client() else None
            self._json(tokens or {"error": "invalid_grant"}, 200 if tokens else 400)

        def _is_client(self) -> bool:
            expected = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
            return self.headers.get("authorization", "") in (f"Basic {expected}", f"Basic {_quoted()}")

        def _json(self, document: Any, status: int = 200) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider = FakeProvider(url=f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()


def _quoted() -> str:
    from urllib.parse import quote

    return base64.b64encode(f"{CLIENT}:{quote(SECRET)}".encode()).decode()


def _metadata(url: str) -> dict[str, Any]:
    return {
        "issuer": url,
        "authorization_endpoint": f"{url}/authorize",
        "token_endpoint": f"{url}/token",
        "jwks_uri": f"{url}/keys",
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    }
