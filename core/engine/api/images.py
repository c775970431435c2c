"""Images: docker's `/images/...`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from aiohttp import web

from engine.api.requests import call, filters, flag, json_body, registry_auth, reply, required, services, text
from engine.api.services.data import JsonObject
from engine.api.transfer import RequestStream, send_messages, send_written
from engine.image.model import Image, Progress
from engine.spec.errors import InvalidParameter, Unsupported

Put = Callable[[JsonObject], None]
_NAME = "{name:.+}"
_TRUE = ("1", "true", "t")
_FALSE = ("0", "false", "f")


def _seconds(time: str) -> int:
    return max(0, int(datetime.fromisoformat(time).timestamp()))


def summary(image: Image) -> JsonObject:
    """Return docker's ImageSummary."""
    return {
        "Id": image.id,
        "ParentId": "",
        "RepoTags": list(image.repo_tags),
        "RepoDigests": list(image.repo_digests),
        "Created": _seconds(image.created),
        "Size": image.size,
        "VirtualSize": image.size,
        "SharedSize": -1,
        "Labels": dict(image.labels) or None,
        "Containers": -1,
    }


def inspection(image: Image) -> JsonObject:
    """Return docker's ImageInspect."""
    return {
        "Id": image.id,
        "RepoTags": list(image.repo_tags),
        "RepoDigests": list(image.repo_digests),
        "Parent": "",
        "Comment": str((image.config.get("history") or [{}])[-1].get("comment") or ""),
        "Created": image.created,
        "DockerVersion": str(image.config.get("docker_version") or ""),
        "Author": str(image.config.get("author") or ""),
        "Config": dict(image.run),
        "Architecture": image.architecture,
        "Variant": image.variant,
        "Os": image.os,
        "Size": image.size,
        "VirtualSize": image.size,
        "GraphDriver": {"Name": "overlay2", "Data": {}},
        "RootFS": {"Type": "layers", "Layers": list(image.layers)},
        "Metadata": {"LastTagTime": _rfc3339(image.last_tagged)},
    }


def _rfc3339(seconds: float) -> str:
    if not seconds:
        return "0001-01-01T00:00:00Z"
    return datetime.fromtimestamp(seconds).astimezone().isoformat()


def progress_message(progress: Progress) -> JsonObject:
    """Return docker's JSON message of a step."""
    message: JsonObject = {"status": progress.status}
    if progress.id:
        message |= {"id": progress.id, "progressDetail": {}}
    if progress.current is not None:
        message["progressDetail"] = {"current": progress.current}
        if progress.total:
            message["progressDetail"]["total"] = progress.total
    return message


def _named(repository: str, tag: str) -> str:
    """Join docker's two parameters; `tag` may be a digest, and `repository` a whole name."""
    if not tag:
        return repository
    return f"{repository}@{tag}" if ":" in tag else f"{repository}:{tag}"


async def create(request: web.Request) -> web.StreamResponse:
    """Pull (`fromImage`), or import a root file system from the body (`fromSrc=-`)."""
    if request.query.get("fromImage"):
        return await _pull(request)
    if request.query.get("fromSrc"):
        return await _import(request)
    raise InvalidParameter("neither fromImage nor fromSrc is given")


async def _pull(request: web.Request) -> web.StreamResponse:
    repository, tag = request.query["fromImage"], request.query.get("tag", "")
    if not tag and ":" not in repository.rpartition("/")[2]:
        raise Unsupported("pulling all tags of a repository is not supported", hint=f"Name one: {repository}:latest")
    auth, platform = registry_auth(request), request.query.get("platform") or None
    manager = services(request).images

    def work(put: Put) -> object:
        return manager.pull(
            _named(repository, tag), auth=auth, platform=platform, progress=lambda step: put(progress_message(step))
        )

    return await send_messages(request, work)


async def _import(request: web.Request) -> web.StreamResponse:
    if request.query["fromSrc"] != "-":
        raise Unsupported("importing from an address is not supported", hint="Send the archive: docker import FILE")
    manager, body, query = services(request).images, RequestStream(request), request.query
    ref = _named(query.get("repo", ""), query.get("tag", "")) if query.get("repo") else ""

    def work(put: Put) -> None:
        image = manager.import_(
            body,
            ref,
            changes=query.getall("changes", []),
            message=query.get("message", ""),
            platform=query.get("platform") or None,
        )
        put({"status": image.id})

    return await send_messages(request, work)


async def list_images(request: web.Request) -> web.Response:
    """List."""
    found = await call(request, services(request).images.list, filters(request))
    return reply([summary(image) for image in found])


async def inspect(request: web.Request) -> web.Response:
    """Inspect."""
    return reply(inspection(await call(request, services(request).images.resolve, request.match_info["name"])))


async def history(request: web.Request) -> web.Response:
    """Tell how an image came about."""
    steps = await call(request, services(request).images.history, request.match_info["name"])
    return reply(
        [
            {
                "Id": step.id,
                "Created": _seconds(step.created),
                "CreatedBy": step.created_by,
                "Tags": list(step.tags) or None,
                "Size": step.size,
                "Comment": step.comment,
            }
            for step in steps
        ]
    )


async def push(request: web.Request) -> web.StreamResponse:
    """Push one tag."""
    name, tag = request.match_info["name"], request.query.get("tag", "")
    if not tag and ":" not in name.rpartition("/")[2]:
        raise Unsupported("pushing all tags of a repository is not supported", hint=f"Name one: {name}:latest")
    manager, auth = services(request).images, registry_auth(request)
    ref = _named(name, tag)

    def work(put: Put) -> None:
        digest = manager.push(ref, auth=auth, progress=lambda step: put(progress_message(step)))
        put({"progressDetail": {}, "aux": {"Tag": ref.rpartition(":")[2], "Digest": digest}})

    return await send_messages(request, work)


async def tag(request: web.Request) -> web.Response:
    """Give another name."""
    target = _named(required(request, "repo"), request.query.get("tag", ""))
    await call(request, services(request).images.tag, request.match_info["name"], target)
    return web.Response(status=201)


async def remove(request: web.Request) -> web.Response:
    """Remove a name, and with the last one the image."""
    done = await call(
        request,
        services(request).images.remove,
        request.match_info["name"],
        force=flag(request, "force"),
        prune=not flag(request, "noprune"),
    )
    return reply([step.as_dict() for step in done])


async def prune(request: web.Request) -> web.Response:
    """Remove dangling images; with the filter `dangling=false` all that no container uses."""
    wanted = dict(filters(request))
    dangling = wanted.pop("dangling", ["true"])
    if not all(value in (*_TRUE, *_FALSE) for value in dangling):
        raise InvalidParameter(f"invalid filter 'dangling={','.join(dangling)}'", hint="Say true or false")
    everything = any(value in _FALSE for value in dangling)
    done, space = await call(request, services(request).images.prune, all=everything, filters=wanted)
    return reply({"ImagesDeleted": [step.as_dict() for step in done], "SpaceReclaimed": space})


async def prune_build_cache(request: web.Request) -> web.Response:
    """Remove the cache of builds, which there is none of: `docker system prune` asks for it, too."""
    return reply({"CachesDeleted": [], "SpaceReclaimed": 0})


async def save(request: web.Request) -> web.StreamResponse:
    """Send images as a docker-archive."""
    name = request.match_info.get("name")
    names = [name] if name else [n for given in request.query.getall("names", []) for n in given.split(",") if n]
    if not names:
        raise InvalidParameter("missing parameter 'names'")
    manager = services(request).images
    return await send_written(request, lambda out: manager.save(names, out), "application/x-tar")


async def load(request: web.Request) -> web.StreamResponse:
    """Take in an archive of images."""
    manager, body, quiet = services(request).images, RequestStream(request), flag(request, "quiet")

    def work(put: Put) -> None:
        def progress(step: Progress) -> None:
            if not step.id:
                put({"stream": f"{step.status}\n"})
            elif not quiet:
                put(progress_message(step))

        manager.load(body, progress=progress)

    return await send_messages(request, work)


async def search(request: web.Request) -> web.Response:
    """Refused."""
    raise Unsupported("searching registries is not supported", hint="Use the web page of the registry")


async def distribution(request: web.Request) -> web.Response:
    """Refused."""
    raise Unsupported("looking up images in a registry is not supported", hint="Pull the image and inspect it")


async def build(request: web.Request) -> web.Response:
    """Refused."""
    raise Unsupported("building images is not supported yet", hint="Build with buildah or docker, and load the result")


async def login(request: web.Request) -> web.Response:
    """Check credentials with a registry."""
    given: dict[str, Any] = await json_body(request)
    server, user, password = (text(given, k) for k in ("serveraddress", "username", "password"))
    if given.get("identitytoken"):
        raise Unsupported("login with an identity token is not supported", hint="Use a user name and a password")
    if not user or not password:
        raise InvalidParameter("a user name and a password are needed")
    await call(request, services(request).images.login, server, user, password)
    return reply({"Status": "Login Succeeded", "IdentityToken": ""})


ROUTES = [
    web.post("/auth", login),
    web.post("/build", build),
    web.post("/build/prune", prune_build_cache),
    web.get("/images/json", list_images),
    web.get("/images/search", search),
    web.get("/images/get", save),
    web.post("/images/create", create),
    web.post("/images/load", load),
    web.post("/images/prune", prune),
    web.get(f"/images/{_NAME}/json", inspect),
    web.get(f"/images/{_NAME}/history", history),
    web.get(f"/images/{_NAME}/get", save),
    web.post(f"/images/{_NAME}/push", push),
    web.post(f"/images/{_NAME}/tag", tag),
    web.delete(f"/images/{_NAME}", remove),
    web.get(f"/distribution/{_NAME}/json", distribution),
]
