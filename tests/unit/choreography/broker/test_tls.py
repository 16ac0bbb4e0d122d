"""A broker reached by amqps:// must show a certificate that is trusted, in force, and made for its name."""

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from kombu.exceptions import OperationalError

from choreography.broker.publisher import connect
from tests.processes import ROOT, clean_environment

#: What a client sends once it trusts the server.
GREETING = b"AMQP\x00\x00\x09\x01"
CERTIFICATES = {
    "good": ("IP:127.0.0.1", 2),
    "of another server": ("DNS:wrong.example", 2),
    "expired": ("IP:127.0.0.1", -1),
}
REASONS = {"of another server": "IP address mismatch", "expired": "certificate has expired"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, and certificates that it has signed."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new_key = ("-newkey", "rsa:2048", "-nodes")
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=tests")
    for name, (name_in_it, days) in CERTIFICATES.items():
        (folder / "extensions").write_text(f"subjectAltName={name_in_it}\n")
        openssl("req", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", "/CN=broker")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", str(days), "-extfile", "extensions")
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
    return folder


class Server:
    """Accepts TLS connections and keeps what clients say first."""

    def __init__(self, certificates: Path, name: str) -> None:
        self.heard: list[bytes] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"amqps://guest:guest@127.0.0.1:{self._listener.getsockname()[1]}//"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                connection, _ = self._listener.accept()
                with suppress(OSError), self._context.wrap_socket(connection, server_side=True) as trusted:
                    self.heard.append(trusted.recv(len(GREETING)))


@pytest.fixture
def server(certificates: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    with closing(Server(certificates, request.param)) as server:
        yield server


def why_not(url: str) -> str:
    """Why a connection fails: this server never answers as a broker."""
    with pytest.raises(OperationalError) as failure:
        connect(url).ensure_connection(max_retries=1, timeout=5)
    return str(failure.value)


@pytest.mark.parametrize("server", ["good"], indirect=True)
def test_a_certificate_that_is_right_is_trusted(
    server: Server, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
    assert "certificate" not in why_not(server.url)
    assert server.heard[0] == GREETING


@pytest.mark.parametrize(("server", "name"), [(it, it) for it in ("of another server", "expired")], indirect=["server"])
def test_a_certificate_that_is_wrong_is_refused(
    server: Server, name: str, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
    assert REASONS[name] in why_not(server.url)
    assert server.heard == []


def test_of_several_brokers_each_must_be_the_one_that_is_called(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
    with closing(Server(certificates, "of another server")) as wrong, closing(Server(certificates, "good")) as right:
        why_not(f"{wrong.url};{right.url}")
        assert (wrong.heard, right.heard[:1]) == ([], [GREETING])


@pytest.mark.parametrize("server", ["good"], indirect=True)
def test_a_certificate_of_an_unknown_authority_is_refused(server: Server) -> None:
    assert "certificate verify failed" in why_not(server.url)
    assert server.heard == []


@pytest.mark.parametrize("server", ["of another server"], indirect=True)
def test_workers_beat_and_flower_refuse_it_too(server: Server, certificates: Path, tmp_path: Path) -> None:
    program = "from shop.celery import app; app.connection_for_read().ensure_connection(max_retries=1)"
    settings = {"BROKER_URL": server.url, "SSL_CERT_FILE": str(certificates / "ca.pem")}
    celery = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT, env=clean_environment(tmp_path) | settings, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert REASONS["of another server"] in celery.stderr
    assert server.heard == []
