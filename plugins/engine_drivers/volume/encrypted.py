"""Encrypted volumes: on this host by the kernel (fscrypt) or gocryptfs, and in any store in rclone's crypt format.

A random volume key is wrapped by the operator's keys in key slots. In a store the first key is also rclone's password:
stock rclone reads with it what containers write.
"""

from __future__ import annotations

from typing import Literal

from engine_drivers.volume.remote import RemoteOptions, usual_attributes
from engine_drivers.volume.sizes import parse_size
from engine_sdk import (
    AbsolutePath,
    Directory,
    EncryptedDirectory,
    EncryptionMethod,
    Field,
    FscryptKey,
    GocryptMount,
    GocryptStore,
    Image,
    ImageMount,
    InvalidParameter,
    KeySlots,
    Plan,
    Resource,
    StoreSpec,
    SyncedTree,
    Volume,
    VolumeCaps,
    VolumeDriver,
    VolumePlan,
    field_validator,
)

_KEYS = "passphrase-file=FILE, key-file=FILE, secret=NAME, command='/PROGRAM ARGUMENTS' or prompt=true"


class EncryptedOptions(RemoteOptions):
    """Options of an encrypted volume. Those of a remote one, and of the URL's storage drivers, need a `url`."""

    url: str = Field(default="", description="Where the content is: s3://BUCKET/PREFIX, ...; none: on this host")
    passphrase_file: AbsolutePath | None = Field(default=None, description="File with the passphrase, in one line")
    key_file: AbsolutePath | None = Field(default=None, description="File with the key: all of its bytes")
    secret: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="The engine's secret that is the passphrase"
    )
    command: str | None = Field(
        default=None, pattern=r"^/[^\x00\n]+$", description="Program, by its path, that writes the passphrase; no shell"
    )
    prompt: bool = Field(default=False, description="A person gives the passphrase: it is stored nowhere")
    method: EncryptionMethod = Field(
        default="auto", description="On this host: fscrypt, image (fscrypt in an image), gocryptfs; auto: what it can"
    )
    size: int = Field(default=8 << 30, ge=16 << 20, description="Limit of a volume in an image, for example 100g")
    cache: Literal["plain", "encrypted"] = Field(
        default="plain", description="With a url: whether the local copy is encrypted, too (by fscrypt)"
    )
    manifest: bool = Field(
        default=True, description="With a url: keep an authenticated list of the objects, which detects tampering"
    )

    @field_validator("size", mode="before")
    @classmethod
    def _size_bytes(cls, value: object) -> object:
        return parse_size(value) if isinstance(value, str) else value

    def source(self) -> str:
        """Return where the key is. Raises InvalidParameter unless exactly one place is given."""
        places = {
            "passphrase-file": self.passphrase_file and f"file:{self.passphrase_file}",
            "key-file": self.key_file and f"file:{self.key_file}",
            "secret": self.secret and f"secret:{self.secret}",
            "command": self.command and f"command:{self.command}",
            "prompt": "prompt" if self.prompt else None,
        }
        given = {name: place for name, place in places.items() if place}
        if not given:
            raise InvalidParameter("an encrypted volume needs a key", hint=f"Give one of {_KEYS}: there is no default")
        if len(given) > 1:
            raise InvalidParameter(
                f"{' and '.join(given)} are both keys", hint="Give one; others are added by `engine volume rekey`"
            )
        return next(iter(given.values()))


class EncryptedDriver(VolumeDriver[EncryptedOptions]):
    """Encrypt a volume: on this host, or in a store (`url`) so that stock rclone reads it."""

    caps = VolumeCaps()

    def settle_volume(self, options: EncryptedOptions) -> EncryptedOptions:
        """Check the key, and that the options are of the form that was chosen."""
        options.source()
        remote_only = {"mode", "durability", "cache_size", "patience", "file_mode", "dir_mode", "cache", "manifest"}
        remote_only |= {"store_options"}
        local_only = {"size"}
        wrong = (local_only if options.url else remote_only) & _changed(options)
        if wrong:
            names = ", ".join(sorted(name.replace("_", "-") for name in wrong))
            raise InvalidParameter(f"{names} {'need a volume without' if options.url else 'need a'} url")
        if options.cache == "encrypted" and options.method == "gocryptfs":
            raise InvalidParameter(
                "the local copy cannot be encrypted", why="this host has no fscrypt", hint="Use cache=plain"
            )
        if "size" in _changed(options) and options.method != "image":
            if options.method == "gocryptfs":
                raise InvalidParameter("size needs method=image", why="a gocryptfs volume has no limit of its own")
            return options.model_copy(update={"method": "image"})
        return options

    def volume_plan(self, volume: Volume[EncryptedOptions]) -> VolumePlan:
        """Key slots, and what they open: a directory that the kernel encrypts, a FUSE mount, or a store."""
        options = volume.options
        slots = KeySlots(
            path=f"{volume.data}/keyslots.json",
            source=options.source(),
            form="bytes" if options.key_file and not options.url else "text",
            password=bool(options.url),
        )
        if options.url:
            return _stored(volume, slots)
        if options.method == "gocryptfs":
            store = GocryptStore(path=f"{volume.data}/encrypted", slots=slots.path)
            mount = GocryptMount(target=f"{volume.run}/fs", store=store.path, slots=slots.path)
            return VolumePlan(plan=Plan.of(slots, store, mount), path=mount.target)
        resources, base = _kernel(volume, slots)
        directory = EncryptedDirectory(path=f"{base}/_data", slots=slots.path, uid=options.uid, gid=options.gid)
        return VolumePlan(plan=Plan.of(slots, resources, directory), path=directory.path)


def _kernel(volume: Volume[EncryptedOptions], slots: KeySlots) -> tuple[list[Resource], str]:
    """Return what gives the kernel the key, and the directory below which it can encrypt."""
    if volume.options.method == "fscrypt":
        return [FscryptKey(path=volume.data, slots=slots.path)], volume.data
    image = Image(path=f"{volume.data}/disk.img", size=volume.options.size, features=("encrypt",))
    mount = ImageMount(target=f"{volume.run}/fs", image=image.path)
    return [image, mount, FscryptKey(path=mount.target, slots=slots.path)], mount.target


def _stored(volume: Volume[EncryptedOptions], slots: KeySlots) -> VolumePlan:
    options = volume.options
    around: list[Resource]
    owner = {"mode": options.dir_mode, "uid": options.uid, "gid": options.gid}
    if options.cache == "encrypted":
        around, base = _kernel(volume, slots)
        around.append(EncryptedDirectory(path=f"{base}/cache", slots=slots.path))
        directory: Resource = EncryptedDirectory(path=f"{base}/cache/tree", slots=slots.path, **owner)
        base += "/cache"
    else:
        around, base = [], volume.data
        directory = Directory(path=f"{base}/tree", **owner)
    own = {"crypt-password": f"keyslots:{slots.path}"}
    if options.manifest:
        own |= {"manifest": "true", "manifest-mark": f"{base}/journal.db.mark"}
    tree = SyncedTree(
        path=f"{base}/tree",
        journal=f"{base}/journal.db",
        store=StoreSpec(url=f"crypt::{options.url}", options={**options.store_options, **own}),
        mode=options.mode,
        durability=options.durability,
        cache_size=options.cache_size,
        patience=options.patience,
        usual=usual_attributes(options),
        run=f"{volume.run}/helper",
    )
    return VolumePlan(plan=Plan.of(slots, around, directory, tree), path=tree.path)


def _changed(options: EncryptedOptions) -> set[str]:
    """Return the options that are not as they are when nobody gives them."""
    fields = EncryptedOptions.model_fields
    return {name for name in fields if getattr(options, name) != fields[name].get_default(call_default_factory=True)}
