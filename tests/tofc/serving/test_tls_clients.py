"""A server that lets in only clients with a certificate of its authorities."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme
from openai import OpenAI

from eval.serving.process import Server
from tests.tofc.serving.asking import message, url_of
from tofc import RemoteEdge
from tofc.errors import UserError


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Whom the server and its clients have their certificates from."""
    return trustme.CA()


def context(authority: trustme.CA, issuer: trustme.CA | None) -> ssl.SSLContext:
    """A client that trusts `authority`, with a certificate of `issuer` if there is one."""
    made = ssl.create_default_context()
    authority.configure_trust(made)
    if issuer is not None:
        issuer.issue_cert("camera@example.org").configure_cert(made)
    return made


@pytest.fixture(scope="module")
def guarded(serve, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tls")
    edge, authorities = folder / "edge.pem", folder / "authorities.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(edge)
    authority.cert_pem.write_to_path(authorities)
    files = ("--tls-cert", str(edge), "--tls-key", str(edge), "--tls-clients", str(authorities))
    with serve("--packets-only", *files, tls=context(authority, authority)) as running:
        yield running


@pytest.mark.parametrize("issuer", [None, trustme.CA()], ids=["none", "of another authority"])
def test_nobody_else_gets_in(guarded: Server, authority: trustme.CA, issuer: trustme.CA | None) -> None:
    with pytest.raises(httpx.TransportError):  # also where no key is asked for
        httpx.get(f"{guarded.url}/health", verify=context(authority, issuer), timeout=60)
    assert httpx.get(f"{guarded.url}/health", verify=context(authority, authority)).text == "alive"


def test_a_client_with_a_certificate_is_answered(guarded: Server, authority: trustme.CA, edge, asked) -> None:
    packet, question = asked[0]
    with httpx.Client(verify=context(authority, authority)) as http:
        client = OpenAI(base_url=f"{guarded.url}/v1", api_key="none", http_client=http)
        given = client.chat.completions.create(model="default", messages=message(question, url_of(packet)))
    assert given.choices[0].message.content == edge.answer(packet, question).text


def test_a_device_shows_its_certificate(
    guarded: Server, authority: trustme.CA, edge, asked, tmp_path: Path
) -> None:
    """Also for the WebSocket on which drafts travel."""
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    own = tmp_path / "camera.pem"
    authority.issue_cert("camera@example.org").private_key_and_cert_chain_pem.write_to_path(str(own))
    packet, question = asked[0]
    tls = {"ca": tmp_path / "authority.pem", "certificate": own}
    for options in ({}, {"draft": "e1"}):
        with RemoteEdge(guarded.url, "scenes-tiny", **tls, **options) as far:
            assert far.answer(packet, question).text == edge.answer(packet, question).text
    with (
        RemoteEdge(guarded.url, ca=tls["ca"], retries=0) as nameless,
        pytest.raises(UserError, match="--certificate"),
    ):
        nameless.answer(packet, question)
    with pytest.raises(UserError, match="a certificate and its key"):
        RemoteEdge(guarded.url, certificate=tmp_path / "authority.pem")


def test_the_server_shows_a_certificate_too(guarded: Server, authority: trustme.CA) -> None:
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        httpx.get(f"{guarded.url}/health", verify=context(trustme.CA(), authority))
