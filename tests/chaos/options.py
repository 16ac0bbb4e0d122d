"""What a run is asked for. Every variable may stand on make's command line."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.faults import KINDS
from tests.chaos.sabotage import SABOTAGES


class BadOption(ValueError):
    """A variable has a value that makes no sense. Says which, and what would."""


@dataclass(frozen=True)
class Options:
    """One run."""

    orders: int = 2000
    seed: int = 1
    rate: float = 6.0
    """Orders placed per second; fewer where ``seconds`` would otherwise not be reached."""
    seconds: float = 75.0
    """LEAST_SECONDS: the least time over which the orders and the faults are spread."""
    cluster: int = 1
    """RabbitMQ nodes."""
    sabotage: str = ""
    """The protection that is switched off."""
    faults: tuple[str, ...] = KINDS
    """The kinds of faults that are injected."""
    patience: float = 480.0
    """Seconds within which everything must then settle: more than the ladder's last rung lasts."""
    parked_within: float = 90.0
    """Seconds within which poison, and what can't be decoded, must be parked. More where a load is more than the
    machine can bear, and thousands of messages are in front of it."""
    folder: Path | None = None
    """Keeps the data and the logs; else they are removed."""

    @property
    def duration(self) -> float:
        """Seconds over which the orders are placed."""
        return max(self.orders / self.rate, self.seconds)


def read(environment: Mapping[str, str]) -> Options:
    """The options of a run.

    Raises:
        BadOption: a variable has a value that makes no sense.
    """
    default = Options()
    sabotage = environment.get("SABOTAGE", "")
    if sabotage and sabotage not in SABOTAGES:
        raise BadOption(f"SABOTAGE is {sabotage}. There are {', '.join(SABOTAGES)}.")
    wanted = environment.get("FAULTS", "")
    # Without a choice, a sabotage comes with the faults that the protection is for.
    faults = tuple(wanted.split(",")) if wanted else SABOTAGES[sabotage].faults if sabotage else KINDS
    if unknown := set(faults) - set(KINDS) - {"none"}:
        raise BadOption(f"FAULTS has {', '.join(sorted(unknown))}. There are none, {', '.join(KINDS)}.")
    folder = environment.get("FOLDER", "")
    if folder and Path(folder).exists():
        raise BadOption(f"FOLDER is {folder}, which exists. Name one that is to be made.")
    options = Options(
        orders=int(_number(environment, "ORDERS", default.orders, 1, 1_000_000, whole=True)),
        seed=int(_number(environment, "SEED", default.seed, 0, 2**32, whole=True)),
        rate=_number(environment, "RATE", default.rate, 0.01, 1000),
        seconds=_number(environment, "LEAST_SECONDS", default.seconds, 0, 86400),
        cluster=int(_number(environment, "CLUSTER", default.cluster, 1, 3, whole=True)),
        sabotage=sabotage,
        faults=tuple(kind for kind in faults if kind != "none"),
        patience=_number(environment, "PATIENCE", default.patience, 1, 86400),
        parked_within=_number(environment, "PARKED_WITHIN", default.parked_within, 1, 86400),
        folder=Path(folder).resolve() if folder else None,
    )
    if options.cluster == 2:
        raise BadOption("CLUSTER is 2: with one of two nodes gone there is no majority. Take 1 or 3.")
    return options


def _number(
    environment: Mapping[str, str], name: str, default: float, least: float, most: float, *, whole: bool = False
) -> float:
    text = environment.get(name, "") or str(default)
    try:
        number: float = int(text) if whole else float(text)
    except ValueError:
        raise BadOption(f"{name} is {text}, which is no {'whole ' if whole else ''}number.") from None
    if not least <= number <= most:
        raise BadOption(f"{name} is {text}. It goes from {least:g} to {most:g}.")
    return number
