"""Volumes whose content is a part of an object store or of a file server: one object for each file.

Containers work on a directory of this host; a helper process of the engine lists the store, fetches what is missing,
and writes changes back.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from engine_drivers.volume.sizes import parse_size
from engine_sdk import (
    Directory,
    Field,
    Plan,
    StoreOptions,
    StoreSpec,
    SyncedTree,
    UsualAttributes,
    Volume,
    VolumeCaps,
    VolumeDriver,
    VolumeOptions,
    VolumePlan,
    field_validator,
)


def _octal(value: object) -> object:
    return int(value, 8) if isinstance(value, str) else value


Permissions = Annotated[int, BeforeValidator(_octal), Field(ge=0, le=0o7777)]
"""Operators write them as for chmod(1): 0644."""


class RemoteOptions(VolumeOptions):
    """Options of a remote volume. Others are those of the URL's storage driver: `engine driver show s3`."""

    url: str = Field(min_length=1, description="Where the content is: s3://BUCKET/PREFIX, sftp://USER@HOST/DIR, ...")
    mode: Literal["sync", "on-demand"] = Field(
        default="sync", description="sync: everything is local before a container starts; on-demand: on first access"
    )
    durability: Literal["close", "fsync", "async"] = Field(
        default="close", description="When a change is uploaded: at close, a second later (fsync), or five (async)"
    )
    cache_size: int = Field(
        default=0, ge=0, description="With on-demand: local bytes of files before unused ones are given up; 0: no limit"
    )
    patience: float = Field(
        default=30.0, gt=0, le=3600, description="Seconds for a request to the store before it counts as unreachable"
    )
    uid: int = Field(default=0, ge=0, lt=1 << 32, description="Owner of a new volume, and of other tools' files")
    gid: int = Field(default=0, ge=0, lt=1 << 32, description="Group of a new volume, and of other tools' files")
    file_mode: Permissions = Field(default=0o644, description="Permissions of other tools' files, octal")
    dir_mode: Permissions = Field(default=0o755, description="Permissions of their directories, octal")
    store_options: StoreOptions = Field(
        default_factory=dict, description="Not an option: all others are those of the URL's storage driver"
    )

    @field_validator("cache_size", mode="before")
    @classmethod
    def _bytes(cls, value: object) -> object:
        return parse_size(value) if isinstance(value, str) else value


def usual_attributes(options: RemoteOptions) -> UsualAttributes:
    """Return what the options say of files that other tools have written."""
    return UsualAttributes(
        uid=options.uid, gid=options.gid, file_mode=options.file_mode, directory_mode=options.dir_mode
    )


class RemoteDriver(VolumeDriver[RemoteOptions]):
    """Keep a volume in a store, one object for each file: S3, Azure, Google, SFTP, a directory. Local disk speed."""

    caps = VolumeCaps(scope="global")

    def volume_plan(self, volume: Volume[RemoteOptions]) -> VolumePlan:
        """A directory of the volume's own, and the helper that keeps it equal to the store."""
        options = volume.options
        directory = Directory(path=f"{volume.data}/tree", mode=options.dir_mode, uid=options.uid, gid=options.gid)
        tree = SyncedTree(
            path=directory.path,
            journal=f"{volume.data}/journal.db",
            store=StoreSpec(url=options.url, options=options.store_options),
            mode=options.mode,
            durability=options.durability,
            cache_size=options.cache_size,
            patience=options.patience,
            usual=usual_attributes(options),
            run=f"{volume.run}/helper",
        )
        return VolumePlan(plan=Plan.of(directory, tree), path=directory.path)
