"""The command tree, and running one command line in this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.base import Command, Group, Session, option
from engine.cli.commands import (
    copy,
    daemon,
    disk_usage,
    drivers,
    execute,
    graph,
    images,
    lifecycle,
    listing,
    networks,
    nodes,
    ports,
    pull,
    registry,
    run,
    secrets,
    stats,
    system,
    volume_keys,
    volume_work,
    volumes,
)
from engine.cli.errors import Failure
from engine.cli.transport import DEFAULT_HOST, Tls
from engine.spec.errors import EngineError

_SETTINGS: dict[str, Any] = {"help_option_names": ["--help"], "max_content_width": 110}
_VERBATIM = {**_SETTINGS, "allow_interspersed_args": False}
_TAKES_A_COMMAND_LINE = (run.run, run.create, execute.exec_, listing.top)

_CONTAINERS = (
    run.run, run.create, run.start, run.attach, execute.exec_, lifecycle.stop, lifecycle.restart, lifecycle.kill,
    lifecycle.pause, lifecycle.unpause, lifecycle.wait, lifecycle.rm, lifecycle.rename, lifecycle.update, listing.ps,
    listing.logs, listing.top, stats.stats, listing.port, listing.diff, copy.cp, copy.export, images.commit,
)  # fmt: skip
_IMAGES = (
    images.images, pull.pull, pull.push, images.tag, images.rmi, images.history, images.load, images.save,
    images.import_, registry.login, registry.logout,
)  # fmt: skip
_VOLUME_WORK = (
    volume_work.backup, volume_work.restore, volume_work.backup_key, volume_work.export, volume_work.import_,
    volume_work.snapshot, volume_work.rollback, volume_work.clone, volume_work.rename, volume_work.update,
    volume_work.usage, volume_work.scrub, volume_work.jobs,
)  # fmt: skip
_GROUPS: tuple[tuple[str, str, tuple[tuple[str, Callable[..., Any]], ...]], ...] = (
    ("container", "Containers", (
        *((f.__name__.rstrip("_"), f) for f in _CONTAINERS if f is not listing.ps), ("ls", listing.ps),
        ("inspect", listing.inspect), ("prune", lifecycle.prune),
    )),
    ("image", "Images", (
        ("ls", images.images), ("pull", pull.pull), ("push", pull.push), ("tag", images.tag), ("rm", images.rmi),
        ("inspect", images.image_inspect), ("history", images.history), ("load", images.load), ("save", images.save),
        ("import", images.import_), ("prune", images.image_prune),
    )),
    ("network", "Networks", (
        ("create", networks.create), ("ls", networks.ls), ("inspect", networks.inspect), ("rm", networks.rm),
        ("prune", networks.prune), ("connect", networks.connect), ("disconnect", networks.disconnect),
        ("plan", networks.plan), ("verify", networks.verify),
        ("graph", graph.graph),
    )),
    ("volume", "Volumes", (
        ("create", volumes.create), ("ls", volumes.ls), ("inspect", volumes.inspect), ("rm", volumes.rm),
        ("prune", volumes.prune), ("sync", volumes.sync), ("unlock", volume_keys.unlock), ("lock", volume_keys.lock),
        ("keys", volume_keys.keys), ("rekey", volume_keys.rekey),
        *((f.__name__.rstrip("_").replace("_", "-"), f) for f in _VOLUME_WORK),
    )),
    ("node", "The hosts of the cluster", (
        ("ls", nodes.ls), ("inspect", nodes.inspect), ("rm", nodes.rm), ("token", nodes.token), ("join", nodes.join),
        ("leave", nodes.leave),
    )),
    ("secret", "Secrets that the engine keeps", (
        ("create", secrets.create), ("ls", secrets.ls), ("inspect", secrets.inspect), ("rm", secrets.rm),
    )),
    ("driver", "Drivers: those installed, and new ones", (
        ("ls", drivers.ls), ("show", drivers.show), ("check", drivers.check), ("new", drivers.new),
    )),
    ("system", "Disk usage, pruning, events", (
        ("df", disk_usage.df), ("prune", system.prune), ("info", system.info), ("events", listing.events),
    )),
)  # fmt: skip
_HOST = (system.version, system.info, listing.events, listing.inspect, system.doctor, daemon.daemon)


def _global_options(
    ctx: typer.Context,
    host: Annotated[
        str, option("-H", "--host", metavar="HOST", help=f"Daemon to speak to (or $ENGINE_HOST; {DEFAULT_HOST})")
    ] = "",
    net_driver: Annotated[str, option("--net-driver", metavar="DRIVER", help="Network driver of new containers")] = "",
    net_opt: Annotated[
        list[str] | None, option("--net-opt", metavar="KEY=VALUE", help="Option of that driver (repeatable)")
    ] = None,
    tls: Annotated[bool, option("--tls", help="Use TLS with a tcp host", panel="TLS")] = False,
    tlsverify: Annotated[bool, option("--tlsverify", help="Use TLS and check the daemon", panel="TLS")] = False,
    tlscacert: Annotated[str, option("--tlscacert", metavar="FILE", help="Authority to trust", panel="TLS")] = "",
    tlscert: Annotated[str, option("--tlscert", metavar="FILE", help="Our certificate", panel="TLS")] = "",
    tlskey: Annotated[str, option("--tlskey", metavar="FILE", help="Its key", panel="TLS")] = "",
    version: Annotated[bool, option("-v", "--version", help="Print the version and end")] = False,
) -> None:
    """A container engine whose networks, volumes and storage are plugins."""
    if version:
        print(f"engine version {system.own_version()}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
        raise typer.Exit
    chosen = host or os.environ.get("ENGINE_HOST", "")
    ca, certificate, key = (Path(text) if text else None for text in (tlscacert, tlscert, tlskey))
    wanted = tls or tlsverify or ca or certificate or key
    ctx.obj = Session(
        host=chosen or DEFAULT_HOST,
        chosen=bool(chosen),
        tls=Tls(ca, certificate, key, verify=tlsverify or ca is not None) if wanted else None,
        net_driver=net_driver,
        net_opts=tuple(net_opt or ()),
    )


def _add(app: typer.Typer, name: str, function: Callable[..., Any], panel: str | None = None) -> None:
    settings = _VERBATIM if function in _TAKES_A_COMMAND_LINE else _SETTINGS
    kind = drivers.DriverHelp if function in (run.run, run.create) else Command
    app.command(name, cls=kind, context_settings=settings, rich_help_panel=panel)(function)


def build() -> typer.Typer:
    """Return the whole application."""
    common: dict[str, Any] = {"cls": Group, "context_settings": _SETTINGS, "rich_markup_mode": None}
    app = typer.Typer(
        name="engine", invoke_without_command=True, add_completion=False, pretty_exceptions_enable=False, **common
    )
    app.callback(cls=Group, invoke_without_command=True, context_settings=_SETTINGS)(_global_options)
    for function in _CONTAINERS:
        if function is not listing.port:
            _add(app, function.__name__.rstrip("_"), function, "Containers")
    port = typer.Typer(
        name="port", help="Published ports: list, add, remove, move", **{**common, "cls": ports.PortGroup}
    )
    for command, function in ports.COMMANDS:
        _add(port, command, function)
    app.add_typer(port, rich_help_panel="Containers")
    for function in _IMAGES:
        _add(app, function.__name__.rstrip("_"), function, "Images")
    for function in _HOST:
        _add(app, function.__name__.rstrip("_"), function, "This host")
    for name, text, commands in _GROUPS:
        group = typer.Typer(name=name, help=text, no_args_is_help=True, **common)
        for command, function in commands:
            _add(group, command, function)
        app.add_typer(group, rich_help_panel="Families of commands")
    return app


def run_command(command: Any, arguments: list[str]) -> int:
    """Run a command line; print a failure as one line; return the exit code."""
    try:
        result = command.main(args=arguments, prog_name="engine", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except Failure as err:
        code = err.code
        _complain(str(err))
    except EngineError as err:
        code = 1
        _complain(str(err))
    except typer.TyperException as err:
        return _usage(err)
    except typer.Abort:
        return 130
    except BrokenPipeError:
        # who reads our output has gone; Python must not complain about it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    return code


def _complain(message: str) -> None:
    sys.stdout.flush()
    print(f"engine: {message}", file=sys.stderr, flush=True)


def _usage(err: typer.TyperException) -> int:
    """Report a wrong command line: help if there was no command at all, else the cause and where to look."""
    if type(err).__name__ == "NoArgsIsHelpError":
        print(err.format_message())
        return 0
    context = getattr(err, "ctx", None)
    message = err.format_message().strip().rstrip(".")
    message = message[:1].lower() + message[1:]
    path = context.command_path if context is not None else "engine"
    _complain(f"{message}. See '{path} --help'")
    return 125


def main(arguments: list[str] | None = None) -> int:
    """Run a command line in this process, everything imported here."""
    return run_command(typer.main.get_command(build()), sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
