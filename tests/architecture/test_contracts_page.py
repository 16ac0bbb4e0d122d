"""docs/contracts.md tells the truth: its commands are run, and so is the program in another language."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pika
import pytest
from django.core.management import call_command

from tests.architecture.conftest import ROOT
from tests.conftest import NODE
from tests.processes import eventually

PAGE = (ROOT / "docs" / "contracts.md").read_text()
COMMANDS = [
    line for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE) for line in block.splitlines()
]
OF_DJANGO = ".venv/bin/python manage.py choreography "
[PROGRAM] = re.findall(r"^```js\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.django_db(databases="__all__")
def test_every_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the page: one writes what the next reads."""
    monkeypatch.chdir(ROOT)
    before = subprocess.run(["git", "status", "--short", "contracts"], cwd=ROOT, capture_output=True, check=True)
    ran = 0
    for command in COMMANDS:
        command = command.replace("/tmp/", f"{tmp_path}/")
        if command.startswith(OF_DJANGO):
            call_command("choreography", *shlex.split(command.removeprefix(OF_DJANGO)), stdout=StringIO())
        else:
            program = shlex.split(command)
            assert program[0] == ".venv/bin/python"
            subprocess.run([sys.executable, *program[1:]], cwd=ROOT, check=True, timeout=60)
        ran += 1
    after = subprocess.run(["git", "status", "--short", "contracts"], cwd=ROOT, capture_output=True, check=True)

    assert ran >= 10
    assert before.stdout == after.stdout, "what is committed is up to date"


def test_every_check_is_explained() -> None:
    source = (ROOT / "choreography" / "events" / "flow_checks.py").read_text()
    checks = set(re.findall(r'Flaw\(\s*"(\w+)"', source))

    assert checks == set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))


@pytest.mark.rabbitmq
def test_the_program_in_another_language_hears_an_event(
    rabbitmq_url: str, namespace: str, node: Callable[..., str], tmp_path: Path
) -> None:
    program = PROGRAM.replace('"orders.', f'"{namespace}orders.').replace('"warehouse"', f'"{namespace}warehouse"')
    (tmp_path / "hear.mjs").write_text(program)
    (tmp_path / "node_modules").symlink_to(NODE / "node_modules")
    url = rabbitmq_url.removesuffix("//") + "/%2F"
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    exchange, queue = f"{namespace}orders.order_placed.v2", f"{namespace}warehouse"
    log = tmp_path / "heard"
    try:
        channel.exchange_declare(exchange, "fanout", durable=True)
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        channel.queue_bind(queue, exchange)
        body = (ROOT / "contracts" / "examples" / "orders.order_placed.v2" / "minimal.json").read_bytes()
        properties = pika.BasicProperties("application/cloudevents+json", delivery_mode=2)
        channel.basic_publish(exchange, "", body, properties)
        other = body.replace(b"TEA-100", b"POT-1")
        batch = pika.BasicProperties("application/cloudevents-batch+json", delivery_mode=2)
        channel.basic_publish(exchange, "", b"[" + other + b"," + other + b"]", batch)
        with log.open("wb") as output:
            hearing = subprocess.Popen(
                ["node", "hear.mjs"],
                cwd=tmp_path,
                env={"PATH": os.environ["PATH"], "BROKER_URL": url},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            eventually(
                lambda: "2 x TEA-100" in log.read_text() and log.read_text().count("2 x POT-1") == 2,
                otherwise=log.read_text,
            )
        finally:
            hearing.kill()
            hearing.wait()
    finally:
        channel.queue_delete(queue)
        channel.exchange_delete(exchange)
        connection.close()
