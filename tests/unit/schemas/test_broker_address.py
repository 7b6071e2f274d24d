"""A broker's URL and its TLS options: verified where nothing else is said, and a wrong word is named."""

from __future__ import annotations

import inspect
import ssl

import pytest
from amqp.transport import SSLTransport
from redis.connection import SSLConnection

from schemas.broker_address import read_broker_url

SECRET = "hunter2"


@pytest.mark.parametrize("url", ["redis://h:1/0", "amqp://h:1/v", "sqs://", "memory://", "redis://h/0?health=1"])
def test_a_url_without_tls_stays_as_it_is(url: str) -> None:
    """Nothing is added, and nothing is taken away."""
    address = read_broker_url(url)
    assert (address.url, address.tls) == (url, {})
    assert address.kombu == {"hostname": url, "ssl": False}


@pytest.mark.parametrize("scheme", ["rediss", "amqps", "AMQPS"])
def test_certificate_and_name_are_verified_by_default(scheme: str) -> None:
    """Nothing needs to be said for it."""
    tls = read_broker_url(f"{scheme}://u:{SECRET}@Broker.example:1/0").tls
    assert tls.get("ssl_cert_reqs", tls.get("cert_reqs")) == ssl.CERT_REQUIRED
    assert tls.get("ssl_check_hostname") or tls.get("server_hostname") == "broker.example"


@pytest.mark.parametrize("scheme", ["rediss", "amqps"])
def test_every_option_is_one_that_the_client_reads(scheme: str) -> None:
    """redis' client and amqp's have words of their own; the URL has one set for both."""
    query = "ssl_ca_certs=/ca&ssl_certfile=/cert&ssl_keyfile=/key&ssl_cert_reqs=CERT_OPTIONAL&other=1"
    address = read_broker_url(f"{scheme}://h/0?{query}")
    client = SSLConnection.__init__ if scheme == "rediss" else SSLTransport._wrap_socket_sni
    assert address.tls.keys() <= inspect.signature(client).parameters.keys()
    assert len(address.tls) == 5
    assert address.url == f"{scheme}://h/0?other=1"


@pytest.mark.parametrize("scheme", ["rediss", "amqps"])
def test_checks_can_be_given_up_by_word(scheme: str) -> None:
    """Without a verified certificate its name proves nothing: it is not asked for either."""
    tls = read_broker_url(f"{scheme}://h/0?ssl_cert_reqs=none").tls
    assert ssl.CERT_NONE in tls.values()
    assert not tls.get("ssl_check_hostname")
    assert "server_hostname" not in tls


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (f"redis://u:{SECRET}@h/0?ssl_ca_certs=/ca", "ssl_ca_certs: TLS options need"),
        (f"amqp://u:{SECRET}@h/v?ssl_cert_reqs=required", "ssl_cert_reqs: TLS options need"),
        (f"rediss://u:{SECRET}@h/0?ssl_cert=1", "ssl_cert: no TLS option"),
        (f"rediss://u:{SECRET}@h/0?ssl_cert_reqs=maybe", "ssl_cert_reqs is one of none, optional, required"),
        (f"amqps://u:{SECRET}@h/0?ssl_check_hostname=1", "ssl_check_hostname is one of true, false"),
    ],
)
def test_what_is_wrong_is_named_and_the_password_is_not(url: str, told: str) -> None:
    """An option that would be ignored is refused; the URL itself is in no message (R10)."""
    with pytest.raises(ValueError, match=told) as raised:
        read_broker_url(url)
    assert SECRET not in str(raised.value)


def test_an_address_hides_its_url() -> None:
    """R10: it holds the password."""
    assert SECRET not in repr(read_broker_url(f"rediss://u:{SECRET}@h/0"))
