"""What all commands share: the session (which daemon), docker's flag syntax, plain grouped help."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from engine.cli.client import Client
from engine.cli.embedded import ensure_daemon
from engine.cli.errors import Failure, did_you_mean
from engine.cli.transport import DEFAULT_HOST, Endpoint, Tls

Result = TypeVar("Result")


@dataclass
class Session:
    """The global options of one invocation, and the daemon that it speaks to."""

    host: str = DEFAULT_HOST
    chosen: bool = False
    """Whether the user named the host: then no daemon is started for them."""
    tls: Tls | None = None
    net_driver: str = ""
    net_opts: tuple[str, ...] = ()
    _client: Client | None = field(default=None, repr=False)

    @property
    def endpoint(self) -> Endpoint:
        """Where the daemon is. Raises BadValue."""
        return Endpoint.parse(self.host, self.tls)

    @property
    def client(self) -> Client:
        """The client; the first use starts the default daemon if none answers there. Raises Failure."""
        if self._client is None:
            if not self.chosen:
                ensure_daemon(self.endpoint)
            self._client = Client(self.endpoint)
        return self._client


def session(ctx: typer.Context) -> Session:
    """Return the session of a command's context."""
    found = ctx.find_root().obj
    if not isinstance(found, Session):
        raise Failure("the command was called without a session")
    return found


def client_of(ctx: typer.Context) -> Client:
    """Return the client of a command's context."""
    return session(ctx).client


# Flags


def option(*names: str, help: str, panel: str = "", metavar: str = "") -> Any:
    """Describe a flag; `panel` is the heading under which `--help` lists it."""
    return typer.Option(*names, help=help, rich_help_panel=panel or None, metavar=metavar or None, show_default=False)


def argument(name: str, help: str = "") -> Any:
    """Describe a positional argument."""
    return typer.Argument(metavar=name, help=help, show_default=False)


def with_options(model: type[Any]) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Let a command's parameter `options` be a dataclass whose fields are the command's flags."""

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        hints = get_type_hints(model, include_extras=True)
        flags = [
            inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=_default(f), annotation=hints[f.name])
            for f in dataclasses.fields(model)
        ]
        own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name != "options"]

        @functools.wraps(function)
        def call(**given: Any) -> Result:
            options = model(**{flag.name: given.pop(flag.name) for flag in flags})
            return function(options=options, **given)

        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + flags
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        del call.__wrapped__
        return call

    return decorate


def _default(found: dataclasses.Field[Any]) -> Any:
    return found.default_factory() if found.default_factory is not dataclasses.MISSING else found.default


def _with_plain_booleans(arguments: Sequence[str], flags: Iterable[Any], interspersed: bool) -> list[str]:
    """Turn docker's `--rm=true` into `--rm`, and drop `--rm=false`; what follows the first argument is not ours."""
    booleans = {name for flag in flags if getattr(flag, "is_bool_flag", False) for name in flag.opts}
    valued = {name for flag in flags if hasattr(flag, "is_flag") and not flag.is_flag for name in flag.opts}
    negative = {n for flag in flags if getattr(flag, "is_bool_flag", False) for n in flag.secondary_opts}
    found: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word == "--" or (not interspersed and not (word.startswith("-") and len(word) > 1)):
            return [*found, word, *rest]
        if equals and name in booleans and value.lower() in ("true", "1", "t", "false", "0", "f"):
            if value.lower() in ("true", "1", "t"):
                found.append(name)
            elif f"--no-{name[2:]}" in negative:
                found.append(f"--no-{name[2:]}")
            continue
        found.append(word)
        takes_value = word in valued or (not word.startswith("--") and _cluster_takes_value(word, booleans, valued))
        if takes_value and rest:
            found.append(rest.pop(0))
    return found


def _cluster_takes_value(word: str, booleans: set[str], valued: set[str]) -> bool:
    """Whether `-itv` ends with a short flag whose value is the next word."""
    if not word.startswith("-") or len(word) < 3:
        return False
    return all("-" + letter in booleans for letter in word[1:-1]) and "-" + word[-1] in valued


# Help


def _sections(rows: Iterable[tuple[str, tuple[str, str]]], formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    for panel, row in rows:
        sections.setdefault(panel, []).append(row)
    for panel, found in sections.items():
        with formatter.section(panel):
            formatter.write_dl(found, col_max=34)


def _flag_row(flag: Any) -> tuple[str, str]:
    short = [name for name in flag.opts if not name.startswith("--")]
    long = [name for name in flag.opts if name.startswith("--")]
    names = ", ".join([*short, *long]) if short else "    " + ", ".join(long)
    metavar = "" if flag.is_flag else " " + (flag.metavar or _metavar(flag))
    return names + metavar, flag.help or ""


def _metavar(flag: Any) -> str:
    annotation = str(flag.type_descriptor.annotation)
    return "NUMBER" if "int" in annotation or "float" in annotation else "VALUE"


def _first_sentence(text: str) -> str:
    return " ".join(inspect.cleandoc(text).split("\n\n")[0].split()).removesuffix(".")


class _PlainHelp:
    """Usage, text, arguments and flags under headings, without boxes; the same on a terminal and in a pipe."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the usage line's parts; arguments are written as they were described."""
        arguments = [p for p in self.get_params(ctx) if p.param_type_name == "argument"]  # type: ignore[attr-defined]
        return ["[OPTIONS]", *(argument.metavar or argument.name for argument in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the flags under their headings."""
        flags = [f for f in self.get_params(ctx) if f.param_type_name == "option" and not f.hidden]  # type: ignore[attr-defined]
        rows = [(getattr(f, "rich_help_panel", None) or "Options", _flag_row(f)) for f in flags]
        _sections(sorted(rows, key=lambda row: row[0] == "Options"), formatter)

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the paragraphs of the text."""
        formatter.write_paragraph()
        for paragraph in inspect.cleandoc(self.help or "").split("\n\n"):  # type: ignore[attr-defined]
            formatter.write_text(paragraph)
            formatter.write_paragraph()


class Command(_PlainHelp, TyperCommand):
    """A command with docker's flag syntax."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, after docker's `--flag=true` was made plain."""
        return super().parse_args(ctx, _with_plain_booleans(args, self.params, ctx.allow_interspersed_args))


class Group(_PlainHelp, TyperGroup):
    """A group whose help lists its commands under headings."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, after docker's `--flag=true` was made plain."""
        return super().parse_args(ctx, _with_plain_booleans(args, self.params, False))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the usage line's parts."""
        return ["[OPTIONS]", "COMMAND", "[ARG]..."]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, then the flags."""
        commands = [(name, self.commands[name]) for name in self.commands if not self.commands[name].hidden]
        rows = [
            (getattr(command, "rich_help_panel", None) or "Commands", (name, _first_sentence(command.help or "")))
            for name, command in commands
        ]
        _sections(rows, formatter)
        super().format_options(ctx, formatter)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Find the command. Raises Failure with a suggestion."""
        if args[0] not in self.commands:
            known = [name for name, command in self.commands.items() if not command.hidden]
            hint = did_you_mean(args[0], known) or f". See '{ctx.command_path} --help'"
            raise Failure(f"unknown command: {ctx.command_path} {args[0]}{hint}")
        return super().resolve_command(ctx, args)
