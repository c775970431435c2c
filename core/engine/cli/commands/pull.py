"""pull and push: images to and from registries, with progress."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from engine.cli import credentials
from engine.cli.base import argument, client_of, option
from engine.cli.client import Client
from engine.cli.errors import Failure
from engine.cli.render.progress import Progress, stdout_progress


def split_reference(image: str) -> tuple[str, str]:
    """Split an image reference into name and tag or digest (`latest` if there is neither)."""
    name, at, digest = image.partition("@")
    if at:
        return name, digest
    before, colon, tag = image.rpartition(":")
    if colon and "/" not in tag:
        return before, tag
    return image, "latest"


def familiar(image: str) -> str:
    """Return a reference with its tag."""
    name, tag = split_reference(image)
    return f"{name}@{tag}" if "@" in image else f"{name}:{tag}"


def pull_image(
    client: Client,
    image: str,
    *,
    platform: str = "",
    quiet: bool = False,
    to_stderr: bool = False,
    all_tags: bool = False,
) -> None:
    """Pull an image and show the progress. Raises Failure."""
    name, tag = split_reference(image)
    response = client.send(
        "POST", "/images/create", {"fromImage": name, "tag": "" if all_tags else tag, "platform": platform},
        headers=credentials.header(credentials.registry_of(image)),
    )  # fmt: skip
    progress = Progress(sys.stderr if to_stderr else sys.stdout, quiet=quiet)
    progress.show(response.json_lines())


def pull(
    ctx: typer.Context,
    image: Annotated[str, argument("NAME[:TAG|@DIGEST]")],
    all_tags: Annotated[bool, option("-a", "--all-tags", help="Pull all tags of the repository")] = False,
    platform: Annotated[str, option("--platform", metavar="OS/ARCH", help="Platform, if the image has several")] = "",
    quiet: Annotated[bool, option("-q", "--quiet", help="Print only the image's name")] = False,
) -> None:
    """Get an image from a registry."""
    if all_tags and split_reference(image)[1] != "latest":
        raise Failure("a tag does not go with --all-tags")
    pull_image(client_of(ctx), image, platform=platform, quiet=quiet, all_tags=all_tags)
    print(image if all_tags else familiar(image))


def push(
    ctx: typer.Context,
    image: Annotated[str, argument("NAME[:TAG]")],
    all_tags: Annotated[bool, option("-a", "--all-tags", help="Push all tags of the repository")] = False,
    quiet: Annotated[bool, option("-q", "--quiet", help="Print only the image's name")] = False,
) -> None:
    """Send an image to a registry."""
    name, tag = split_reference(image)
    response = client_of(ctx).send(
        "POST", f"/images/{name}/push", {"tag": "" if all_tags else tag},
        headers=credentials.header(credentials.registry_of(image)),
    )  # fmt: skip
    stdout_progress(quiet).show(response.json_lines())
    if quiet:
        print(image if all_tags else f"{name}:{tag}")
