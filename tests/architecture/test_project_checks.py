"""What Django itself can check: migrations, a start without a secret, the settings of production."""

import secrets
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


def test_production_refuses_to_start_without_a_secret_key(run: Run) -> None:
    result = run("python", "manage.py", "check")

    assert result.returncode != 0
    assert "SECRET_KEY is missing. Set it in the environment or in .env" in result.stderr


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
