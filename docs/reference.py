"""Write docs/reference.md from the docstrings of the package: ``python docs/reference.py``, or ``--check`` it."""

import argparse
import ast
import inspect
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import django
from django.core.management import load_command_class

PAGE = Path(__file__).parent / "reference.md"
COMMANDS = ("startservice", "relay", "declare_topology", "choreography", "dead_letters", "alive")
#: Options that every command of Django has.
OF_DJANGO = {
    "help",
    "version",
    "verbosity",
    "settings",
    "pythonpath",
    "traceback",
    "no_color",
    "force_color",
    "skip_checks",
}


def page() -> str:
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Reference"
    yield ""
    yield "Written from the code's docstrings by `python docs/reference.py`. Do not edit."
    yield ""
    yield "- [Settings](#settings)"
    yield "- [Commands](#commands)"
    yield "- [choreography](#choreography): events, reactions, timers, errors"
    yield "- [choreography.models](#choreographymodels): the tables of a service"
    yield "- [choreography.testing](#choreographytesting): everything in one process, for tests"
    yield "- [choreography.simulation](#choreographysimulation): histories in which everything goes wrong"
    yield "- [choreography.worker.setup](#choreographyworkersetup): the Celery app"
    yield from _settings()
    yield from _commands()
    yield from _modules()


def _settings() -> Iterator[str]:
    from choreography.core import conf

    yield from ("", "## Settings", "", "Keys of the dictionary `CHOREOGRAPHY` in Django's settings.", "")
    yield from ("| key | default | meaning |", "|---|---|---|")
    explained = _attribute_docstrings(conf, "Conf")
    for field in fields(conf.Conf):
        meaning = " ".join(explained[field.name].split()).replace("``", "`")
        yield f"| `{field.name.upper()}` | `{_default(field.default)}` | {meaning} |"


def _default(value: Any) -> str:
    match value:
        case Path():
            return str(value)
        case timedelta(days=0):
            return f"timedelta(seconds={value.total_seconds():g})"
        case timedelta():
            return f"timedelta(days={value.days})"
    return repr(value)


def _attribute_docstrings(module: Any, name: str) -> dict[str, str]:
    """What stands below each attribute of a class."""
    [body] = [
        node.body
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.ClassDef) and node.name == name
    ]
    return _docstrings_below(body)


def _docstrings_below(body: Sequence[ast.stmt]) -> dict[str, str]:
    """What stands below each name that is assigned to."""
    found = {}
    for assignment, below in pairwise(body):
        match assignment, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = text
    return found


def _commands() -> Iterator[str]:
    yield from ("", "## Commands")
    for name in COMMANDS:
        command = load_command_class("choreography", name)
        parser = command.create_parser("manage.py", name)
        yield from ("", f"### manage.py {name}", "", str(parser.description), "")
        module = inspect.getdoc(inspect.getmodule(command)) or ""
        yield from [line for paragraph in module.split("\n\n")[1:] for line in ("", *paragraph.splitlines())][1:]
        if "\n\n" in module:
            yield ""
        yield from _arguments(parser, f"manage.py {name}")


def _arguments(parser: argparse.ArgumentParser, prefix: str) -> Iterator[str]:
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help for choice in action._choices_actions}
            for name, sub in action.choices.items():
                rows.append((f"{prefix.removeprefix('manage.py ')} {name} {_usage(sub)}".strip(), helps[name] or ""))
        elif action.dest not in OF_DJANGO:
            rows.append((_argument(action), action.help or ""))
    if rows:
        yield from ("| argument | meaning |", "|---|---|")
        yield from (f"| `{argument}` | {' '.join(meaning.split())} |" for argument, meaning in rows)


def _usage(parser: argparse.ArgumentParser) -> str:
    shown = [action for action in parser._actions if action.dest not in OF_DJANGO]
    ordered = sorted(shown, key=lambda action: bool(action.option_strings))
    return " ".join(f"[{_argument(each)}]" if each.option_strings else _argument(each) for each in ordered)


def _argument(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else str(action.metavar or action.dest).upper()
    many = "…" if action.nargs in ("+", "*") else ""
    return " ".join(filter(None, [action.option_strings[-1] if action.option_strings else "", value + many]))


def _modules() -> Iterator[str]:
    import choreography
    from choreography import models, simulation, testing
    from choreography.events import messages
    from choreography.worker import setup

    public = {
        choreography: choreography.__all__,
        models: models.__all__,
        testing: ["frozen_clock", "Choreography", "override"],
        simulation: ["Simulation", "Failure"],
        setup: ["install"],
    }
    constants = _docstrings_below(ast.parse(inspect.getsource(messages)).body)
    for module, names in public.items():
        yield from ("", f"## {module.__name__}")
        for name in names:
            if name in constants:
                yield from ("", f"### {name}", "", *_markdown(constants[name]))
            else:
                yield from _described(name, getattr(module, name))


def _described(name: str, thing: Any) -> Iterator[str]:
    yield from ("", f"### {name}")
    if inspect.isclass(thing) and issubclass(thing, Exception):
        yield from ("", f"An error, a subclass of `{thing.__bases__[0].__name__}`.")
    elif callable(thing) and not _is_model(thing):
        yield from ("", "```python", f"{name}{_signature(thing)}", "```")
    yield from ("", *_markdown(inspect.getdoc(thing) or ""))
    attributes = [(name, field.description) for name, field in getattr(thing, "model_fields", {}).items()]
    if attributes:
        yield ""
        yield from (f"- `{name}`: {description}" for name, description in attributes if description)
    if inspect.isclass(thing) and not _is_model(thing) and not issubclass(thing, Exception):
        for method, function in vars(thing).items():
            if not method.startswith("_") and inspect.isfunction(function) and function.__doc__:
                yield from ("", f"#### {name}.{method}", "", "```python", f"{method}{_signature(function)}", "```")
                yield from ("", *_markdown(function.__doc__))


def _is_model(thing: Any) -> bool:
    from django.db.models import Model
    from pydantic import BaseModel

    return inspect.isclass(thing) and issubclass(thing, Model | BaseModel)


def _signature(thing: Any) -> str:
    """A signature without the names of modules, one parameter to a line where it is long."""
    signature = inspect.signature(thing)
    text = re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z])", "", str(signature).replace("~", "").replace("(self, ", "("))
    text = text.replace("(self)", "()").replace("uuid.UUID", "UUID")
    if len(text) < 90:
        return text
    inside, _, result = text.removeprefix("(").rpartition(") -> ")
    parameters = re.split(r", (?=\*?\*?\w+:|\*,)", inside)
    return "(\n" + "".join(f"    {parameter},\n" for parameter in parameters) + f") -> {result}"


def _markdown(docstring: str) -> Iterator[str]:
    """A docstring as Markdown: sections as bold words, their entries as lists, code marked by one backtick."""
    in_section = False
    lines = inspect.cleandoc(docstring).replace("``", "`").splitlines()
    code = False
    for line in lines:
        if line in ("Args:", "Returns:", "Raises:", "Yields:"):
            in_section = True
            yield f"**{line.removesuffix(':')}**"
            yield ""
        elif line.endswith("::") or line == "::":
            code = True
            yield line[:-1] if line != "::" else ""
            yield from ("", "```python")
        elif code and line and not line.startswith(" "):
            code = False
            yield from ("```", "", line)
        elif in_section and line.startswith("    ") and not line.startswith("     "):
            yield f"- {line.strip()}"
        elif in_section and line.startswith("     "):
            yield f"  {line.strip()}"
        else:
            in_section = in_section and not line
            yield line.removeprefix("    ") if code else line
    if code:
        yield "```"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the page is out of date")
    check = parser.parse_args().check
    sys.path.insert(0, str(PAGE.parents[1]))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
    django.setup()
    if not check:
        PAGE.write_text(page())
    elif not PAGE.exists() or PAGE.read_text() != page():
        sys.stderr.write("docs/reference.md is out of date. Run python docs/reference.py.\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
