"""`attic`: a directory of the volume's own, shown through a mount that never executes what lies in it."""

from engine_sdk import Bind, Directory, Field, Plan, Volume, VolumeDriver, VolumeOptions, VolumePlan


class AtticOptions(VolumeOptions):
    """Options of the driver `attic`."""

    executable: bool = Field(default=False, description="Let programs in the volume be executed")


class Attic(VolumeDriver[AtticOptions]):
    """Keep files in a directory, mounted noexec."""

    def volume_plan(self, volume: Volume[AtticOptions]) -> VolumePlan:
        """The directory, and the mount in which containers see it."""
        kept, shown = f"{volume.data}/attic", f"{volume.run}/attic"
        flags = () if volume.options.executable else ("noexec",)
        mount = Bind(source=kept, target=shown, options=("nosuid", "nodev", *flags))
        return VolumePlan(plan=Plan.of(Directory(path=kept), mount), path=shown)
