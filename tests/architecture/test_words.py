"""One word per idea: a word that the glossary has retired is used nowhere in the tree."""

import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.architecture.conftest import ROOT

#: How to find a retired word, by its name in the table of docs/glossary.md, without finding its other meanings. The
#: words of a name stand apart when it is looked for.
RETIRED = {
    "letter": r"(?<!dead )(?<!dead-)(?<!lower-case )(?<!AMQP's )(?<!without a )(?<!one )\bletters?\b"
    r"(?!,? (or |and )?digits?)",
    "mail": r"\b(the|parked|dead) mail\b",
    "world": r"\bworlds?\b",
    "world outside": r"outside world|world outside",
    "company": r"\bcompan(y|ies)\b",
    "host": r"\b(the|its|a|one|every|own|no|many|another|other) hosts?\b(?! name)|\bhosts? outside\b|\bhost's\b",
    "books": r"\b(own|sandbox|provider's|gateway's|carrier's|their) books\b",
    "group of deliveries": r"\bgrouped (reaction|deliver)|\bgrouped=|Group ?Message|`GROUP`"
    r"|\bgroups? of (deliver|message|event)",
    "bite": r"\bbites?\b",
    "turn": r"\bturns? (of|takes?|took) (a |the )?(reaction|group|batch)|\b(half|whole|longest|full) turns?\b",
    "rest": r"\brests? (half|as long|after|longer)\b|\bat rest\b|\bcomes? to rest\b|\bcame to rest\b",
    "hold back": r"\b(hold|holds|held|holding) back\b",
    "held row": r"\bheld rows?\b|\brows (that are|are|it has) held\b|with held\(",
    "answer to a message": r"\banswers? (to|of) (a |the |each )?(message|delivery|broker)\b"
    r"|\b(broker's|step's) answers?\b",
    "overdue retry": r"\boverdue retr",
    "place of an error": r"\bplace in (our|its) code\b",
    "conduct": r"\bconduct(s|ed|or)?\b",
    "journey": r"\bjourneys?\b",
    "table_of, alias_of": r"\b(table|alias)[ _]of\(",
    "ASKING": r"(?-i:\bASKING\b)",
}
#: Where a retired word may stand: the list of them, and what was said and released before.
EXEMPT = re.compile(
    r"docs/glossary\.md|CHANGELOG\.md|tests/architecture/test_words\.py|requirements.*\.txt|.*/migrations/.*"
)


def retired_words(text: str) -> Iterator[tuple[str, int, str]]:
    """The retired words in a text, in names too: each with its line's number and the line."""
    spelled = re.sub(r"_|(?<=[a-z])(?=[A-Z])", " ", text)  # come_to_rest, OnAnotherHost
    lines = text.split("\n")
    for word, pattern in RETIRED.items():
        for match in re.finditer(pattern, spelled, re.IGNORECASE):
            number = spelled.count("\n", 0, match.start())
            yield word, number + 1, lines[number].strip()


def sources() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name and not EXEMPT.fullmatch(name)]


def test_no_retired_word_is_used() -> None:
    found = []
    for name in sources():
        try:
            text = (ROOT / name).read_text()
        except (UnicodeDecodeError, FileNotFoundError):  # a picture; a file removed and not committed yet
            continue
        found += [f"{name}:{number}: {word}: {line}" for word, number, line in retired_words(text)]

    assert found == []


def test_the_glossary_names_every_retired_word_and_what_to_say() -> None:
    _, _, table = (ROOT / "docs" / "glossary.md").read_text().partition("## Retired words")
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", table, re.MULTILINE)[1:]

    assert {retired.strip() for retired, _ in rows} == RETIRED.keys()


@pytest.mark.parametrize(
    "line",
    [
        "the letters of one kind",
        "a world that stands still",
        "the host a reaction asks is down",
        "the companies outside",
        "the gateway's own books",
        "a grouped reaction",
        "removed in bites of 1,000",
        "the worker holds back",
        "until everything comes to rest",
        "an overdue retry",
        "shop.come_to_rest()",
        "class OnAnotherHost:",
        "class GroupMessage:",
        "table_of(service)",
        "ASKING = 1",
    ],
)
def test_a_planted_word_is_found(line: str) -> None:
    assert list(retired_words(line))


@pytest.mark.parametrize(
    "line",
    ["a dead letter", "letters or digits", "the host name of the web page", "books a parcel", "the rest of the event"],
)
def test_an_ordinary_word_is_not(line: str) -> None:
    assert list(retired_words(line)) == []
