"""What Django itself can check: migrations, a start without a secret, the settings of production."""

import secrets
import subprocess
from pathlib import Path

import pytest

from tests.architecture.conftest import Run

KEY = secrets.token_urlsafe(50)


def test_no_migration_is_missing(run: Run) -> None:
    result = run("python", "manage.py", "makemigrations", "--check", "--dry-run", DEBUG="true")

    assert result.returncode == 0, result.stdout + result.stderr


def test_a_missing_migration_is_noticed(tree: Path, run: Run) -> None:
    with (tree / "payments/models.py").open("a") as source:
        source.write("\nclass Planted(models.Model):\n    pass\n")

    result = run("python", "manage.py", "makemigrations", "--check", "--dry-run", DEBUG="true")

    assert result.returncode == 1, result.stderr
    assert "Create model Planted" in result.stdout


def serve(run: Run, **environment: str) -> "subprocess.CompletedProcess[str]":
    return run("gunicorn", "shop.wsgi", "--bind", "127.0.0.1:0", "--no-control-socket", **environment)


def test_production_refuses_to_start_without_a_secret_key(run: Run) -> None:
    web = serve(run)

    assert web.returncode == 3
    assert "SECRET_KEY is missing. Set it in the environment or in .env" in web.stderr
    for command in ("up", "demo"):
        shop = run("python", "manage.py", command)

        assert shop.returncode == 1
        assert shop.stderr.startswith("ImproperlyConfigured: SECRET_KEY is missing. Set it in the environment or in")
        assert len(shop.stderr.splitlines()) == 1


def test_a_line_of_the_file_that_sets_nothing_is_refused(tree: Path, run: Run) -> None:
    (tree / ".env").write_text("DEBUG=true\nHTTPS = true\n")

    result = run("python", "manage.py", "check")

    assert result.returncode == 1
    assert f"{tree}/.env, line 2: write NAME=value there" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "SECRET_KEY is missing."),
        ({"HTTPS": "ture"}, "HTTPS is ture. Give true or false."),
        ({"DEBUG": "true"}, "The database lacks migrations: admin.0001_initial and 2 more, auth.0001_initial and"),
    ],
)
def test_the_web_pages_say_in_one_line_why_they_do_not_start_and_are_not_started_again(
    run: Run, environment: dict[str, str], message: str
) -> None:
    result = serve(run, **environment)

    assert result.returncode == 3
    assert result.stderr.count(message) == result.stderr.count("Booting worker") == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert "Logging error" not in result.stderr


def test_a_worker_says_in_one_line_why_it_does_not_start(run: Run) -> None:
    result = run("celery", "-A", "shop", "worker", "-Q", "orders", HTTPS="ture")

    assert (result.returncode, result.stderr) == (1, "HTTPS is ture. Give true or false.\n")


def test_a_worker_for_a_queue_that_there_is_not_is_told_which_there_are(run: Run) -> None:
    result = run("celery", "-A", "shop", "worker", "-Q", "orders,payment", SHOP_SERVICES="orders,payments")

    assert result.returncode == 1
    assert result.stderr == (
        "-Q names payment, which is no queue of this process. Its services have orders, payments.\n"
    )


def test_commands_need_no_secret_key(run: Run) -> None:
    result = run("python", "manage.py", "choreography", "doctor")

    assert result.returncode == 1, "nothing was prepared"
    assert "Remedy: run manage.py declare_topology." in result.stdout
    assert result.stderr == ""


def test_the_settings_of_production_pass_every_deployment_check(run: Run) -> None:
    result = run("python", "manage.py", "check", "--deploy", "--fail-level", "WARNING", SECRET_KEY=KEY)

    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("relaxed", [{"HTTPS": "false"}, {"DEBUG": "true"}, {"SECRET_KEY": "short"}])
def test_a_relaxed_production_fails_the_deployment_checks(relaxed: dict[str, str], run: Run) -> None:
    result = run(
        "python", "manage.py", "check", "--deploy", "--fail-level", "WARNING", **({"SECRET_KEY": KEY} | relaxed)
    )

    assert result.returncode != 0


def test_a_worker_that_would_lose_events_does_not_start(run: Run) -> None:
    """Celery runs Django's checks and goes on whatever they say."""
    command = ("python", "-m", "celery", "-A", "shop", "worker", "-n", "lost@%h", "-Q", "orders")

    result = run(*command, DEBUG="true", BROKER_URL="redis://127.0.0.1:1")

    assert result.returncode == 1
    assert "choreography.E008" in result.stderr
