"""``manage.py startservice`` refuses what can be no service. See also ``tests/architecture/test_startservice.py``."""

from pathlib import Path

import pytest
from django.core.management import CommandError, call_command


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["Loyalty"], "Loyalty is no name for a service: use lower-case letters, digits and underscores."),
        (["payments"], "There is an app labelled payments already. Choose another name."),
        (["shop"], "There is an app labelled shop already. Choose another name."),
        (["json"], "'json' conflicts with the name of an existing Python module"),
        (["apps.loyalty"], "There is no folder apps here for apps.loyalty. Create the package first."),
        (["loyalty", "--reacts-to", "order_completed"], "--reacts-to: 'order_completed' is not an event type"),
        (
            ["loyalty", "--reacts-to", "orders.order_complete.v1"],
            "--reacts-to: orders does not announce orders.order_complete.v1. Near: orders.order_completed.v1",
        ),
        (["loyalty", "--reacts-to", "loyalty.points_earned.v1"], "is a fact of loyalty itself"),
        (
            ["loyalty", "--announces", "orders.order_lost.v1"],
            "--announces: orders.order_lost.v1 is a fact of orders. loyalty announces only its own.",
        ),
        (["loyalty", "--announces", "PointsEarned"], "--announces: 'loyalty.PointsEarned.v1' is not an event type"),
        (["loyalty", "--announces", "won", "loyalty.won.v2"], "Several of the events are named won."),
    ],
)
def test_what_can_not_be_a_service_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(CommandError) as refused:
        call_command("startservice", *arguments)

    assert complaint in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loyalty").mkdir()

    with pytest.raises(CommandError, match=r"loyalty exists already\. Choose another name\."):
        call_command("startservice", "loyalty")

    assert list((tmp_path / "loyalty").iterdir()) == []
