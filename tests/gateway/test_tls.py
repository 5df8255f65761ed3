"""Certificates: taken, checked before Envoy sees them, and replaced while streams are open."""

from __future__ import annotations

import ssl
from pathlib import Path

import anyio
import httpx
import pytest
import trustme

from standin.deployment import Place, revision
from standin.gateway import ASK, served
from vllm_ci.deploy.target import Route
from vllm_ci.domain.errors import ConfigError
from vllm_ci.domain.gateway import GatewaySettings, Tls

pytestmark = [pytest.mark.anyio, pytest.mark.gateway]


def written(folder: Path, ca: trustme.CA, name: str = "127.0.0.1") -> Tls:
    """A certificate in files that are renamed into place."""
    folder.mkdir(exist_ok=True)
    made = ca.issue_cert(name)
    (folder / "new").write_bytes(b"".join(each.bytes() for each in made.cert_chain_pems))
    (folder / "new-key").write_bytes(made.private_key_pem.bytes())
    (folder / "new-key").rename(folder / "key.pem")
    (folder / "new").rename(folder / "certificate.pem")
    return Tls(certificate=folder / "certificate.pem", key=folder / "key.pem")


def trusting(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


async def test_the_gateway_speaks_tls_and_takes_a_replaced_certificate_without_a_restart(place: Place) -> None:
    first, second = trustme.CA(), trustme.CA()
    target = await served(place, GatewaySettings(tls=written(place.folder / "tls", first)))
    current = await target.current()
    assert current.address.startswith("https://")
    async with httpx.AsyncClient(verify=trusting(first)) as client:
        assert (await client.post(f"{current.address}/v1/completions", json=ASK)).status_code == 200
    async with httpx.AsyncClient() as client:
        assert (await client.post(f"{current.checks}/v1/completions", json=ASK)).status_code == 200
    written(place.folder / "tls", second)
    with anyio.fail_after(15):
        while True:
            try:
                async with httpx.AsyncClient(verify=trusting(second)) as client:
                    assert (await client.get(f"{current.address}/v1/models")).status_code == 200
                break
            except httpx.ConnectError:
                await anyio.sleep(0.1)


async def test_requests_are_led_back_although_the_certificate_cannot_be_used_any_more(place: Place) -> None:
    authority = trustme.CA()
    settings = GatewaySettings(tls=written(place.folder / "tls", authority))
    target = await served(place, settings)
    await target.start(revision("b"), 1)
    await target.route(Route(weights={revision("b").name: 100}))
    (place.folder / "tls" / "certificate.pem").unlink()
    await place.target(settings).route(Route(weights={revision("a").name: 100}))
    async with httpx.AsyncClient(verify=trusting(authority)) as client:
        answer = await client.post(f"{(await target.current()).address}/v1/completions", json=ASK)
    assert answer.headers["x-vllm-ci-revision"] == revision("a").name
    other = GatewaySettings(tls=Tls(certificate=place.folder / "nothing", key=place.folder / "nothing"))
    with pytest.raises(ConfigError, match="cannot be used for the gateway"):
        await place.target(other).route(Route(weights={revision("b").name: 100}))


async def test_a_certificate_that_cannot_be_used_is_refused_with_its_reason(place: Place) -> None:
    folder = place.folder / "tls"
    good = written(folder, trustme.CA())
    other = written(place.folder / "other", trustme.CA())
    (folder / "empty").write_bytes(b"")
    cases = {
        "does not belong to the certificate": Tls(certificate=good.certificate, key=other.key),
        "holds no certificate": Tls(certificate=folder / "empty", key=good.key),
        "holds no private key": Tls(certificate=good.certificate, key=good.certificate),
        "No such file": Tls(certificate=folder / "nothing", key=good.key),
    }
    for why, tls in cases.items():
        with pytest.raises(ConfigError, match="cannot be used for the gateway") as caught:
            await place.target(GatewaySettings(tls=tls)).start(revision("a"), 1)
        assert why in caught.value.why
    assert (await place.target().current()).replicas == ()
