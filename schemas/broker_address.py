"""A broker's URL, and what it says of TLS: `rediss://` and `amqps://` verify the certificate and the name in it.

Every client of the broker takes its address from here, so that none of them connects in clear or to a stranger. The
query names files and can weaken the checks, in the same words for both schemes::

    rediss://user:password@host:6379/0?ssl_ca_certs=/run/ca.pem&ssl_certfile=/run/cert.pem&ssl_keyfile=/run/key.pem
    amqps://user:password@host/vhost?ssl_cert_reqs=required&ssl_check_hostname=true     the defaults; none, false
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

_SCHEMES = frozenset({"rediss", "amqps"})
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_WORDS = frozenset({*_FILES, "ssl_cert_reqs", "ssl_check_hostname"})
_CERT_REQS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """A broker's URL without its TLS options, and these in the words of its client; no TLS where `tls` is empty."""

    url: str = field(repr=False)  # R10: it holds a password
    tls: Mapping[str, Any]

    @property
    def kombu(self) -> dict[str, Any]:
        """Arguments of kombu's Connection, which writes into the options it is given."""
        return {"hostname": self.url, "ssl": dict(self.tls) or False}


def read_broker_url(url: str) -> BrokerAddress:
    """Split a broker's URL into address and TLS options. Raises ValueError, which repeats nothing of the URL (R10)."""
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    given = {name: value for name, value in query if name.startswith("ssl_")}
    scheme = parts.scheme.lower()
    if scheme not in _SCHEMES:
        if given:
            raise ValueError(f"{', '.join(sorted(given))}: TLS options need rediss:// or amqps://")
        return BrokerAddress(url=url, tls={})
    if unknown := sorted(given.keys() - _WORDS):
        raise ValueError(f"{', '.join(unknown)}: no TLS option; there are {', '.join(sorted(_WORDS))}")
    rest = urlencode([(name, value) for name, value in query if name not in given])
    files = {name: given[name] for name in _FILES if name in given}
    reqs = _word(given, "ssl_cert_reqs", "required", _CERT_REQS)
    checks_name = _word(given, "ssl_check_hostname", "true", _BOOLEANS) and reqs != ssl.CERT_NONE
    if scheme == "rediss":
        tls = files | {"ssl_cert_reqs": reqs, "ssl_check_hostname": checks_name}
    else:
        tls = {name.removeprefix("ssl_"): value for name, value in files.items()} | {"cert_reqs": reqs}
        tls |= {"server_hostname": parts.hostname} if checks_name else {}
    return BrokerAddress(url=urlunsplit(parts._replace(query=rest)), tls=tls)


def _word(given: Mapping[str, str], name: str, default: str, words: Mapping[str, Any]) -> Any:
    value = given.get(name, default).lower().removeprefix("cert_")
    if value not in words:
        raise ValueError(f"{name} is one of {', '.join(words)}")
    return words[value]
