"""What docker-compose.yml and the Procfile ask for is what the code offers: there may be no Docker engine to try it."""

import ast
import re
import shlex
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import pytest
import yaml
from celery.bin.base import CLIContext
from celery.bin.celery import celery as celery_command
from django.conf import settings
from django.core.management import get_commands, load_command_class
from django.urls import resolve
from flower.command import is_flower_envvar, is_flower_option
from flower.urls import handlers as flower_pages
from gunicorn.config import Config as GunicornConfig
from gunicorn.util import import_app
from honcho.environ import parse_procfile

from choreography.broker import topology
from choreography.outbox import relay
from choreography.worker import setup
from choreography.worker.setup import LivingScheduler
from shop.celery import app
from tests.unit.shop.conftest import ROOT, VARIABLES, read_by_code

#: The web process looks for migrations that are missing.
pytestmark = pytest.mark.django_db(databases="__all__")

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROCESSES = {
    name: line.rpartition("exec ")[2]
    for name, line in parse_procfile((ROOT / "Procfile").read_text()).processes.items()
}

#: Images made by others, and what they read.
FOREIGN = {
    "postgres": {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD"},
    "rabbitmq": {"RABBITMQ_DEFAULT_USER", "RABBITMQ_DEFAULT_PASS"},
}
OURS = [name for name in SERVICES if name not in FOREIGN]
ONE_SHOT = {"migrate"}
LONG_RUNNING = [name for name in SERVICES if name not in ONE_SHOT]
PROCESS_NAMES = {
    *(f"{kind}-{service}" for kind in ("relay", "worker") for service in settings.ALL_SERVICES),
    "web",
    "beat",
    "flower",
}

VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<kind>:[-?])(?P<rest>[^}]*))?\}")


def filled_in(text: str) -> str:
    """Compose's interpolation, and the shell's: the default, or a stand-in where a value is required."""
    return VARIABLE.sub(lambda match: match["rest"] if match["kind"] == ":-" else "secret", text)


def commands() -> Iterator[Any]:
    """Every command line in either file, as a list of words."""
    for name in OURS:
        yield pytest.param([filled_in(word) for word in SERVICES[name]["command"]], id=f"compose-{name}")
    for name, line in PROCESSES.items():
        yield pytest.param(shlex.split(filled_in(line)), id=f"procfile-{name}")


def health_checks() -> Iterator[Any]:
    for name in LONG_RUNNING:
        yield pytest.param(name, SERVICES[name]["healthcheck"]["test"], id=name)


def understand(words: list[str]) -> dict[str, Any]:
    """Parse a command line with the parser of the program it starts.

    Raises:
        Exception: of many kinds: the program does not know something in it.
    """
    match words:
        case ["python", "manage.py", command, *arguments]:
            parser = load_command_class(get_commands()[command], command).create_parser("manage.py", command)
            return vars(parser.parse_args(arguments))
        case ["celery", "-A", "shop", command, *arguments] | ["celery", "--app=shop", command, *arguments]:
            return understand_celery(command, arguments)
        case ["gunicorn", *arguments]:
            config = GunicornConfig()
            given = {
                key: value for key, value in vars(config.parser().parse_args(arguments)).items() if value is not None
            }
            (target,) = given.pop("args")
            for key, value in given.items():
                config.set(key, value)
            return {"target": import_app(target), "address": config.address}
        case ["python", "-c", source]:
            ast.parse(source)
            return {"url": re.findall(r"'(http[^']*)'", source)[0]}
    raise ValueError(f"what is {words}?")


def understand_celery(command: str, arguments: list[str]) -> dict[str, Any]:
    if command == "flower":  # drops what it does not know without a word
        unknown = [argument for argument in arguments if not is_flower_option(argument)]
        assert not unknown
        return dict(argument.lstrip("-").split("=") for argument in arguments)
    parent = click.Context(celery_command, obj=CLIContext(app=app, no_color=True, workdir=None))
    context = celery_command.commands[command].make_context(command, list(arguments), parent=parent)
    assert not context.args
    return context.params


@pytest.mark.parametrize("words", [*commands()])
def test_every_command_is_one_the_code_offers(words: list[str]) -> None:
    understand(words)


@pytest.mark.parametrize(
    "words",
    [
        ["python", "manage.py", "prepared"],
        ["python", "manage.py", "relay", "orders", "--fast"],
        ["celery", "--app=shop", "worker", "--quues=orders"],
        ["celery", "--app=shop", "worker", "--pool=thread"],
        ["celery", "--app=shop", "flower", "--adress=0.0.0.0"],
        ["gunicorn", "shop.wsgy"],
        ["gunicorn", "shop.wsgi", "--thread-count", "8"],
    ],
)
def test_a_command_the_code_does_not_offer_is_noticed(words: list[str]) -> None:
    with pytest.raises((Exception, SystemExit)):
        understand(words)


@pytest.mark.parametrize("service", settings.ALL_SERVICES)
@pytest.mark.parametrize("source", ["compose", "procfile"])
def test_a_worker_consumes_its_services_queues(source: str, service: str) -> None:
    name = f"worker-{service}"
    words = SERVICES[name]["command"] if source == "compose" else shlex.split(PROCESSES[name])

    options = understand([filled_in(word) for word in words])

    assert options["hostname"].startswith(f"{service}@")
    assert options["queues"] == [service]
    assert app.amqp.queues[service].name == topology.queue_name(service)


@pytest.mark.parametrize("service", settings.ALL_SERVICES)
def test_a_service_has_a_relay_and_a_worker_that_know_it_alone(service: str) -> None:
    assert understand(SERVICES[f"relay-{service}"]["command"])["service"] == service
    for kind in ("relay", "worker"):
        assert SERVICES[f"{kind}-{service}"]["environment"]["SHOP_SERVICES"] == service


def test_both_files_have_the_processes_of_every_service() -> None:
    assert set(PROCESSES) == PROCESS_NAMES
    assert set(OURS) - ONE_SHOT == PROCESS_NAMES


def test_beat_schedules_with_the_scheduler_that_shows_life() -> None:
    for words in (SERVICES["beat"]["command"], shlex.split(PROCESSES["beat"])):
        assert understand([filled_in(word) for word in words])["scheduler"] is LivingScheduler


@pytest.mark.parametrize(("name", "test"), [*health_checks()])
def test_every_health_check_asks_for_what_the_process_offers(name: str, test: list[str]) -> None:
    assert test[0] == "CMD"
    match name:
        case "postgres":
            assert test[1] == "pg_isready"
        case "rabbitmq":
            assert test[1:] == ["rabbitmq-diagnostics", "-q", "check_port_connectivity"]
        case "web":
            url = urlsplit(understand(test[1:])["url"])
            assert resolve(url.path).view_name == "healthz"
            assert url.port == understand(SERVICES["web"]["command"])["address"][0][1]
            assert url.hostname in filled_in(SERVICES["web"]["environment"]["ALLOWED_HOSTS"]).split(",")
            assert any(re.search(pattern, url.path.lstrip("/")) for pattern in settings.SECURE_REDIRECT_EXEMPT)
        case "flower":
            url = urlsplit(understand(test[1:])["url"])
            assert url.path in [page[0] for page in flower_pages if isinstance(page, tuple)]
            assert url.port == int(understand(SERVICES["flower"]["command"])["port"])
        case _:
            assert understand(test[1:])["name"] == name
            assert name in signs_of_life()


def signs_of_life() -> set[str]:
    """The names under which processes show that they live, found in their code."""
    sources = "".join(Path(str(module.__file__)).read_text() for module in (relay, setup))
    templates = re.findall(r'f"((?:relay|worker)-\{service\})"', sources) + re.findall(
        r'liveness\.show\("(\w+)"\)', sources
    )
    return {template.format(service=service) for template in templates for service in settings.ALL_SERVICES}


def test_every_long_running_service_has_a_health_check_and_ends_gracefully() -> None:
    for name in LONG_RUNNING:
        service = SERVICES[name]
        assert service["healthcheck"]["test"], name
        assert service["restart"] == "unless-stopped", name
        assert service["stop_grace_period"], name


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_has_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]

    assert int(service["user"].partition(":")[0]) > 0
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("read_only") or name == "rabbitmq"
    assert not service.keys() & {"privileged", "cap_add", "network_mode", "pid"}


def test_nothing_is_published_beyond_this_machine() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]

    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_procfile_listens_on_this_machine_only() -> None:
    web, flower = (understand(shlex.split(filled_in(PROCESSES[name]))) for name in ("web", "flower"))

    assert web["address"] == [("127.0.0.1", int(VARIABLES["WEB_PORT"]))]
    assert (flower["address"], flower["port"]) == ("127.0.0.1", VARIABLES["FLOWER_PORT"])


def test_flower_lists_what_became_of_the_events_a_task_held() -> None:
    in_containers = understand(SERVICES["flower"]["command"])
    here = understand(shlex.split(filled_in(PROCESSES["flower"])))

    assert here["tasks_columns"] == in_containers["tasks_columns"]
    assert {"name", "state", "result"} <= set(here["tasks_columns"].split(","))


def test_a_published_port_is_the_one_the_process_listens_on() -> None:
    inside = {name: int(SERVICES[name]["ports"][0].rpartition(":")[2]) for name in ("web", "flower", "rabbitmq")}

    assert inside["web"] == understand(SERVICES["web"]["command"])["address"][0][1]
    assert inside["flower"] == int(understand(SERVICES["flower"]["command"])["port"])
    assert inside["rabbitmq"] == 15672  # RabbitMQ's own default


@pytest.mark.parametrize("name", OURS)
def test_every_variable_handed_on_is_read(name: str, read_by_settings: set[str]) -> None:
    read = read_by_settings | set(read_by_code())
    if name == "flower":
        read |= {variable for variable in SERVICES[name]["environment"] if is_flower_envvar(variable)}

    assert SERVICES[name]["environment"].keys() <= read


def test_the_foreign_images_get_what_they_read() -> None:
    assert {name: set(SERVICES[name]["environment"]) for name in FOREIGN} == FOREIGN


def test_every_variable_asked_for_is_in_the_example() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    handed_on = {
        variable for name in OURS for variable, value in SERVICES[name]["environment"].items() if value is None
    }

    assert {match["name"] for match in VARIABLE.finditer(text)} | handed_on <= VARIABLES.keys()


def test_secrets_are_required_and_have_no_default() -> None:
    for file in ("docker-compose.yml", "Procfile"):
        for match in VARIABLE.finditer((ROOT / file).read_text()):
            if "PASSWORD" in match["name"] or "SECRET" in match["name"]:
                assert match["kind"] == ":?", match[0]
                assert match["name"] in match["rest"], match[0]


def test_no_secret_is_written_out() -> None:
    for service in SERVICES.values():
        for variable, value in service["environment"].items():
            if re.search("PASS|SECRET|AUTH$", variable) and value is not None:
                assert VARIABLE.search(value), variable
        for word in service.get("command", []):
            assert "PASSWORD" not in word


def test_everything_waits_for_what_it_needs() -> None:
    for name in OURS:
        for other, how in SERVICES[name]["depends_on"].items():
            wanted = "service_completed_successfully" if other in ONE_SHOT else "service_healthy"
            assert how == {"condition": wanted}, name
    order = list(TopologicalSorter({name: SERVICES[name].get("depends_on", {}) for name in SERVICES}).static_order())

    assert set(order) == set(SERVICES)
    assert order.index("migrate") > max(order.index("postgres"), order.index("rabbitmq"))
    assert all("migrate" in SERVICES[name]["depends_on"] for name in OURS if name != "migrate")


def test_every_volume_is_declared_and_the_sandbox_records_are_shared() -> None:
    mounted = {name: [volume.partition(":")[0] for volume in SERVICES[name]["volumes"]] for name in SERVICES}

    assert {volume for volumes in mounted.values() for volume in volumes} == set(COMPOSE["volumes"])
    for name in OURS:
        assert SERVICES[name]["volumes"] == [f"data:{SERVICES[name]['environment']['DATA_DIR']}"]
    assert SERVICES["rabbitmq"]["hostname"]


def test_the_image_holds_every_package_and_no_secret() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    dockerfile = (ROOT / "Dockerfile").read_text()

    assert kept == {
        *("shop", "common", "choreography", "contracts", *settings.ALL_SERVICES),
        *("manage.py", "requirements.txt", "CHANGELOG.md"),
    }
    assert f"--uid {SERVICES['web']['user'].partition(':')[0]} " in dockerfile
    assert "--require-hashes" in dockerfile
    assert dockerfile.rstrip().endswith("USER shop")
