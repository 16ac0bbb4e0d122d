"""What is in the environment is read as it is written, and a folder may have any name."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from celery import Celery
from django.core.exceptions import ImproperlyConfigured

from choreography.core.conf import conf
from choreography.worker import setup
from shop.environment import env, read_file
from tests.launched import manage


@pytest.mark.parametrize("value", ["$HOME", "$$", "a$b", r"\$HOME", r"a\\$b", "#x", "${HOME}", " $", "$"])
def test_a_value_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ADMIN_PASSWORD", value)

    assert env.str("ADMIN_PASSWORD", default="") == value


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("HTTPS", "ture", "true or false"),
        ("DEBUG", "maybe", "true or false"),
        ("EVENTS_PER_MESSAGE", "0", "a whole number, 1 or more"),
        ("EVENTS_PER_MESSAGE", "-1", "a whole number, 1 or more"),
        ("EVENTS_PER_MESSAGE", "many", "a whole number, 1 or more"),
        ("UNPAID_ORDER_LIFETIME_SECONDS", "24h", "a number, 0 or more, without a unit"),
        ("UNPAID_ORDER_LIFETIME_SECONDS", "-1", "a number, 0 or more, without a unit"),
        ("UNPAID_ORDER_LIFETIME_SECONDS", "nan", "a number, 0 or more, without a unit"),
        ("UNPAID_ORDER_LIFETIME_SECONDS", "inf", "a number, 0 or more, without a unit"),
        ("LOG_LEVEL", "loud", "one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ("LOG_FORMAT", "xml", "one of console, json"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_in_one_line(
    tmp_path: Path, variable: str, value: str, expected: str
) -> None:
    environment = {"PATH": os.environ["PATH"], "DEBUG": "true", "DATA_DIR": str(tmp_path), variable: value}
    result = manage("prepare", environment=environment)

    assert result.returncode == 1
    assert result.stderr == f"ImproperlyConfigured: {variable} is {value}. Give {expected}.\n"
    assert list(tmp_path.glob("*.sqlite3")) == []


@pytest.mark.parametrize(
    ("read", "what", "urls"),
    [
        (
            env.database,
            "the URL of a database",
            ["shop", "mysql://u:hidden@h/shop", "postgres://u:hidden@h:port/shop", "postgres://u:hidden@h"],
        ),
        (
            env.mail_server,
            "the URL of a mail server",
            ["smtp", "http://u:hidden@h", "smtp://u:hidden@h:port", "smtp://:hidden@", "mail.example.com"],
        ),
        (env.address, "a URL", ["localhost:15672", "ftp://h", "http://", "http://u:hidden@h:port", "/hook"]),
    ],
)
def test_what_is_no_url_of_its_kind_is_refused_without_its_password(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[str], object], what: str, urls: list[str]
) -> None:
    for url in urls:
        monkeypatch.setenv("SOMEWHERE", url)

        with pytest.raises(ImproperlyConfigured, match=rf"^SOMEWHERE is not {what}\. Give one") as refused:
            read("SOMEWHERE")

        assert "hidden" not in str(refused.value)


def test_a_mail_server_is_named_by_its_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAIL_URL", "smtp+tls://shop:p%40ss@mail.example.com:587")

    settings = env.mail_server("EMAIL_URL")

    assert (settings["EMAIL_HOST"], settings["EMAIL_PORT"]) == ("mail.example.com", 587)
    assert (settings["EMAIL_HOST_USER"], settings["EMAIL_HOST_PASSWORD"]) == ("shop", "p@ss")
    assert settings["EMAIL_USE_TLS"] is True


@pytest.mark.parametrize(
    ("variable", "value", "setting"),
    [
        ("EMAIL_URL", "smtp+tls://shop:word@mail.example.com:587", "EMAIL_HOST = 'mail.example.com'"),
        ("MAIL_FROM", "shop@example.com", "DEFAULT_FROM_EMAIL = 'shop@example.com'"),
        ("SHOP_SERVICES", "orders,orders", "SERVICES = ('orders',)"),
        ("SHOP_SERVICES", "", "SERVICES = ('orders', 'payments', 'shipping', 'journal')"),
        ("RABBITMQ_MANAGEMENT_URL", "http://h:1/", "'RABBITMQ_MANAGEMENT_URL': 'http://h:1',"),
        ("PAYMENTS_DATABASE_URL", "postgres://u@h:1/till", "'NAME': 'till'"),
        ("DATABASE_URL", "sqlite:////tmp/all.sqlite3", "'NAME': '/tmp/all.sqlite3'"),
    ],
)
def test_the_settings_have_what_the_environment_says(tmp_path: Path, variable: str, value: str, setting: str) -> None:
    environment = {"PATH": os.environ["PATH"], "DEBUG": "true", "DATA_DIR": str(tmp_path), variable: value}

    result = manage("diffsettings", environment=environment)

    assert setting in result.stdout, result.stdout + result.stderr


def test_what_is_empty_is_as_if_it_were_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS", "EVENTS_PER_MESSAGE", "PURGE_SECONDS", "LOG_LEVEL", "DATABASE_URL"):
        monkeypatch.setenv(name, " ")

    assert env.flag("HTTPS", default=True)
    assert env.whole("EVENTS_PER_MESSAGE", default=50, least=1) == 50
    assert env.number("PURGE_SECONDS", default=3600.0) == 3600.0
    assert env.choice("LOG_LEVEL", ("INFO", "ERROR"), default="INFO") == "INFO"
    assert env.database("DATABASE_URL") is None


@pytest.mark.parametrize("line", ["HTTPS = true", "HTTPS: true", "HTTPS", "=true", "export  HTTPS=true", " HTTPS=true"])
def test_a_file_with_a_line_that_sets_nothing_is_refused_without_its_text(tmp_path: Path, line: str) -> None:
    file = tmp_path / ".env"
    file.write_text(f"# All of it\n\nexport ADMIN_USER=boss\n{line}\n")

    with pytest.raises(ImproperlyConfigured, match=r"\.env, line 4: write NAME=value there") as refused:
        read_file(file)

    assert "HTTPS" not in str(refused.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xff\xfeD\x00")

    with pytest.raises(ImproperlyConfigured, match=r"\.env can't be read: "):
        read_file(tmp_path / ".env")


def test_what_is_set_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_USER", "ada")
    monkeypatch.setenv("FLOWER_USER", "to be restored")
    monkeypatch.delenv("FLOWER_USER")
    (tmp_path / ".env").write_text("ADMIN_USER=boss\nFLOWER_USER=grace\n")

    read_file(tmp_path / ".env")

    assert (env.str("ADMIN_USER"), env.str("FLOWER_USER")) == ("ada", "grace")


@pytest.mark.parametrize("debug", ["true", "false"])
def test_a_data_folder_that_can_not_be_made_is_refused(tmp_path: Path, debug: str) -> None:
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file" / "var")
    environment = {"PATH": os.environ["PATH"], "DEBUG": debug, "SECRET_KEY": "x", "DATA_DIR": folder}
    for command in ("prepare", "up"):
        result = manage(command, environment=environment)

        assert result.returncode == 1
        assert result.stderr.startswith(f"ImproperlyConfigured: DATA_DIR can't be used: {folder}: Not a directory.")
        assert len(result.stderr.splitlines()) == 1


def test_there_need_be_no_file(tmp_path: Path) -> None:
    read_file(tmp_path / ".env")


@pytest.mark.parametrize(("text", "meant"), [("yes", True), ("TRUE", True), ("1", True), ("no", False), ("Off", False)])
def test_true_and_false_have_many_names(monkeypatch: pytest.MonkeyPatch, text: str, meant: bool) -> None:
    monkeypatch.setenv("HTTPS", text)

    assert env.flag("HTTPS", default=not meant) is meant


@pytest.mark.parametrize("name", ["a#b", "a?b", "a%25b", "a;b", "a b&c=d"])
def test_a_data_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    environment = {"PATH": os.environ["PATH"], "DEBUG": "true", "DATA_DIR": str(folder)}
    result = manage("prepare", environment=environment)

    assert result.returncode == 0, result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {name}
    databases = {f"{alias}.sqlite3" for alias in ("accounts", "broker", "orders", "payments", "shipping", "journal")}
    assert {path.name for path in folder.glob("*.sqlite3")} == databases
    assert {
        path: oct(path.stat().st_mode & 0o077) for path in [folder, *folder.rglob("*")] if path.stat().st_mode & 0o077
    } == {}


@pytest.mark.parametrize("name", ["CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"])
def test_celery_may_not_be_led_to_another_broker(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "amqp://somebody:hidden@elsewhere:5672//")

    with pytest.raises(ImproperlyConfigured, match=f"{name} leads to amqp://somebody:.*@elsewhere") as refused:
        setup.install(Celery("test"))

    assert "hidden" not in str(refused.value)


def test_the_same_broker_may_be_named_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", conf().broker_url)

    setup._refuse_another_broker()


@pytest.mark.parametrize("name", ["orders.sqlite3", "broker.sqlite3"])
@pytest.mark.parametrize("damage", ["the beginning", "the middle"])
def test_a_damaged_file_is_named_with_the_remedy(tmp_path: Path, name: str, damage: str) -> None:
    environment = {"PATH": os.environ["PATH"], "DEBUG": "true", "DATA_DIR": str(tmp_path)}

    assert manage("prepare", environment=environment).returncode == 0
    with closing(sqlite3.connect(tmp_path / name)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # what is in the log beside it
    content = bytearray((tmp_path / name).read_bytes())
    content[slice(0, 100) if damage == "the beginning" else slice(len(content) // 2, None)] = b"x" * 100
    (tmp_path / name).write_bytes(content)

    refused = manage("prepare", environment=environment)

    assert refused.returncode != 0
    assert f"{tmp_path / name} is damaged: " in refused.stderr
    assert "Restore it, or move it away to begin with an empty one." in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
