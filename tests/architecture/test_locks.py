"""The locks: everything pinned by hash, from wherever packages come, and both in step with what was asked for."""

import re

import pytest

from tests.architecture.conftest import ROOT


def pins(name: str) -> dict[str, str]:
    """Package -> version, as a requirements file pins them."""
    return dict(re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==(\S+)", (ROOT / name).read_text().lower(), re.MULTILINE))


def asked_for(name: str) -> set[str]:
    """The packages a .in file names, pinned or not."""
    return set(re.findall(r"^([a-z][\w.-]*)", (ROOT / name).read_text().lower(), re.MULTILINE))


@pytest.mark.parametrize("name", ["requirements", "requirements-dev", "bench/requirements"])
def test_the_lock_has_what_was_asked_for_at_the_version_asked_for(name: str) -> None:
    lock, wanted = pins(f"{name}.txt"), pins(f"{name}.in")

    assert asked_for(f"{name}.in") <= lock.keys()
    assert wanted == {package: lock[package] for package in wanted}


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt", "bench/requirements.txt"])
def test_every_package_is_pinned_by_hash_and_no_registry_is_named(name: str) -> None:
    text = (ROOT / name).read_text()

    for block in re.split(r"\n(?=[a-zA-Z])", text.partition("\n#    make lock\n")[2]):
        assert re.match(r"[\w.\[\]-]+==\S+", block), block
        assert "--hash=sha256:" in block, block
    assert not re.search(
        r"://|--(extra-)?index|--find-links|\B/", re.sub(r"^.*--hash.*$", "", text, flags=re.MULTILINE)
    )


def test_what_the_tests_run_on_is_what_the_shop_runs_on() -> None:
    assert pins("requirements.txt").items() <= pins("requirements-dev.txt").items()
