"""What a container is to be, in the Docker Engine API's words (POST /containers/create, API v1.43).

Field names are the API's, so that inspect can give back what create was given. Unknown fields are ignored and null
means "not given", as the API has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_pascal

from engine.spec.errors import InvalidParameter


class DockerModel(BaseModel):
    """Base: PascalCase names outside, snake_case inside."""

    model_config = ConfigDict(
        alias_generator=to_pascal, populate_by_name=True, extra="ignore", validate_assignment=False
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, data: Any) -> Any:
        return {k: v for k, v in data.items() if v is not None} if isinstance(data, Mapping) else data

    def docker(self) -> dict[str, Any]:
        """Return the object in the API's JSON shape."""
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """Read an object of the API. Raises InvalidParameter that names the fields that are wrong."""
        try:
            return cls.model_validate(body)
        except ValidationError as err:
            problems = "; ".join(f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in err.errors()[:5])
            raise InvalidParameter("the request is malformed", why=problems) from err


def _words(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Words = Annotated[list[str], BeforeValidator(_words)]
"""A list of words; the API also takes one string."""


class Healthcheck(DockerModel):
    """A probe that an image or a person asks for; times in nanoseconds."""

    test: list[str] = []
    interval: int = 0
    timeout: int = 0
    retries: int = 0
    start_period: int = 0


class Config(DockerModel):
    """The portable part: what does not depend on the host."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, Any] = {}
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] = []
    cmd: Words | None = None
    entrypoint: Words | None = None
    healthcheck: Healthcheck | None = None
    image: str = ""
    volumes: dict[str, Any] = {}
    working_dir: str = ""
    network_disabled: bool = False
    mac_address: str = ""
    labels: dict[str, str] = {}
    stop_signal: str = ""
    stop_timeout: int | None = None
    shell: Words | None = None


class RestartPolicy(DockerModel):
    """When to start a container again: "", no, always, unless-stopped, on-failure."""

    name: str = ""
    maximum_retry_count: int = 0


class LogConfig(DockerModel):
    """Where output goes: json-file (kept, readable by `logs`) or none."""

    type: str = "json-file"
    config: dict[str, str] = {}


class UlimitConfig(DockerModel):
    """`--ulimit`."""

    name: str
    soft: int
    hard: int


class DeviceConfig(DockerModel):
    """`--device`."""

    path_on_host: str
    path_in_container: str = ""
    cgroup_permissions: str = "rwm"


class PortBinding(DockerModel):
    """Where a port is published: an empty port means any free one."""

    host_ip: str = ""
    host_port: str = ""


class Changeable(DockerModel):
    """The part of `HostConfig` that can change while the container is there: its limits, and when it restarts."""

    restart_policy: RestartPolicy = RestartPolicy()
    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = 0
    blkio_weight: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    memory_reservation: int = 0
    memory_swap: int = 0
    pids_limit: int = 0


class HostConfig(Changeable):
    """The part that depends on the host. `NetDriver` and `NetOpts` are ours: `--net-driver` and `--net-opt`."""

    binds: list[str] = []
    container_id_file: str = Field(default="", alias="ContainerIDFile")
    log_config: LogConfig = LogConfig()
    network_mode: str = "default"
    net_driver: str = ""
    net_opts: dict[str, str] = {}
    port_bindings: dict[str, list[PortBinding] | None] = {}
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] = []
    mounts: list[dict[str, Any]] = []
    cap_add: Words = []
    cap_drop: Words = []
    cgroupns_mode: str = ""
    dns: list[str] = []
    dns_options: list[str] = []
    dns_search: list[str] = []
    extra_hosts: list[str] = []
    group_add: list[str] = []
    ipc_mode: str = ""
    links: list[str] = []
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] = []
    storage_opt: dict[str, str] = {}
    tmpfs: dict[str, str] = {}
    uts_mode: str = Field(default="", alias="UTSMode")
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: dict[str, str] = {}
    runtime: str = ""
    console_size: tuple[int, int] = (0, 0)
    annotations: dict[str, str] = {}
    cgroup_parent: str = ""
    devices: list[DeviceConfig] = []
    device_cgroup_rules: list[str] = []
    memory_swappiness: int | None = None
    oom_kill_disable: bool = False
    ulimits: list[UlimitConfig] = []
    init: bool = False

    def changed(self, body: Mapping[str, Any]) -> HostConfig:
        """Return what the body of POST /containers/ID/update makes of it: zero and empty mean "as it was".

        Raises InvalidParameter for values that are wrong, and for what only a new container can have.
        """
        given = {key: value for key, value in body.items() if value not in (None, 0, "", [], {}, False)}
        can, cannot = _names(Changeable), _names(HostConfig) - _names(Changeable)
        if fixed := sorted(given.keys() & cannot):
            raise InvalidParameter(
                f"{', '.join(fixed)} cannot be changed",
                why="an update changes limits and the restart policy",
                hint="Remove the container, and create it anew",
            )
        new = HostConfig.parse(self.docker() | {key: value for key, value in given.items() if key in can})
        if not new.restart_policy.name:  # clients send an empty policy along with new limits
            new.restart_policy = self.restart_policy
        return new


def _names(model: type[DockerModel]) -> set[str]:
    """Return the API's names of a model's fields."""
    return {field.alias or name for name, field in model.model_fields.items()}


class EndpointIpam(DockerModel):
    """Addresses that an endpoint must have."""

    ipv4_address: str = Field(default="", alias="IPv4Address")
    ipv6_address: str = Field(default="", alias="IPv6Address")


class EndpointConfig(DockerModel):
    """How a container is attached to one network."""

    ipam_config: EndpointIpam = Field(default=EndpointIpam(), alias="IPAMConfig")
    aliases: list[str] = []
    mac_address: str = ""
    driver_opts: dict[str, str] = {}
    gw_priority: int = 0
    links: list[str] = []


class NetworkingConfig(DockerModel):
    """The networks that a container joins, by name or id."""

    endpoints_config: dict[str, EndpointConfig] = {}


class CreateRequest(Config):
    """The body of POST /containers/create."""

    host_config: HostConfig = HostConfig()
    networking_config: NetworkingConfig = NetworkingConfig()

    def config(self) -> Config:
        """Return the portable part alone."""
        return Config.model_validate(self.model_dump(exclude={"host_config", "networking_config"}))
