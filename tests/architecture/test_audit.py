"""``make audit``: known vulnerabilities of what production installs, as osv.dev knows them."""

import json
import re
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tests.architecture.conftest import ROOT

#: The index of packages must be within reach.
pytestmark = [pytest.mark.processes, pytest.mark.slow]

VULNERABILITY = {"id": "GHSA-0000-0000-0000", "modified": "2026-01-01T00:00:00Z"}


class Advisories(ThreadingHTTPServer):
    """Stands for osv.dev. Says of some packages that they are vulnerable, and remembers which it was asked for."""

    def __init__(self, *vulnerable: str) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.vulnerable = vulnerable
        self.asked_for: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: Advisories

    def do_POST(self) -> None:
        """https://google.github.io/osv.dev/post-v1-querybatch/"""
        queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        packages = [query["package"]["name"] for query in queries]
        self.server.asked_for.update(f"{query['package']['name']}=={query['version']}" for query in queries)
        found = [{"vulns": [VULNERABILITY]} if package in self.server.vulnerable else {} for package in packages]
        self._answer({"results": found})

    def do_GET(self) -> None:
        """https://google.github.io/osv.dev/get-v1-vulns/"""
        self._answer({**VULNERABILITY, "summary": "lets anybody in", "affected": [], "references": []})

    def _answer(self, document: dict[str, object]) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def audit(advisories: Advisories) -> subprocess.CompletedProcess[str]:
    with advisories:
        Thread(target=advisories.serve_forever, daemon=True).start()
        done = subprocess.run(
            ["make", "--silent", "audit", f"OSV_URL={advisories.url}"],
            cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        advisories.shutdown()
    return done


def test_everything_that_production_installs_is_looked_up() -> None:
    advisories = Advisories()

    done = audit(advisories)

    assert done.returncode == 0, done.stdout + done.stderr
    locked = (ROOT / "requirements.txt").read_text() + (ROOT / "requirements-otel.txt").read_text()
    assert set(re.findall(r"^([\w.-]+==[\w.]+)", locked, re.MULTILINE)) - advisories.asked_for == set()


def test_a_known_vulnerability_is_named_and_fails() -> None:
    done = audit(Advisories("django"))

    assert done.returncode != 0
    assert re.search(r"django [\d.]+ has 1 known vulnerability", done.stdout), done.stdout + done.stderr
    assert "GHSA-0000-0000-0000: lets anybody in" in done.stdout
