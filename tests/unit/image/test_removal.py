import pytest

from engine.image.model import Image
from engine.image.reference import Reference
from engine.image.removal import plan
from engine.spec.errors import Conflict

ID = "sha256:" + "c" * 64
IMAGE = Image(id=ID, config={}, layers=(), size=0)
TAG, OTHER, ELSEWHERE = (Reference.parse(name) for name in ("app:1", "app:2", "quay.io/app:1"))
DIGEST = Reference.parse("app@sha256:" + "d" * 64)
RUNNING, STOPPED = ("web", True), ("old", False)


def lines(*names: object, ref: str, users: tuple[tuple[str, bool], ...] = (), force: bool = False) -> list[str]:
    known = [name for name in names if isinstance(name, Reference)]
    return [f"{kind} {name}" for kind, name in plan(IMAGE, known, ref, users, force=force).report]


def test_one_of_several_names_only_goes_itself() -> None:
    assert lines(TAG, OTHER, ref="app:1", users=(RUNNING,)) == ["Untagged app:1"]


def test_the_last_name_takes_the_image_and_its_digests() -> None:
    assert lines(TAG, DIGEST, ref="app:1") == ["Untagged app:1", f"Untagged {DIGEST.familiar}", f"Deleted {ID}"]


def test_the_last_tag_of_a_repository_takes_its_digests() -> None:
    assert lines(TAG, DIGEST, ELSEWHERE, ref="app:1") == ["Untagged app:1", f"Untagged {DIGEST.familiar}"]


def test_by_id_all_names_of_one_repository_go() -> None:
    assert lines(TAG, OTHER, ref=ID) == ["Untagged app:1", "Untagged app:2", f"Deleted {ID}"]


def test_by_id_several_repositories_need_force() -> None:
    with pytest.raises(Conflict, match=r"must be forced.*multiple repositories"):
        lines(TAG, ELSEWHERE, ref=ID)
    assert lines(TAG, ELSEWHERE, ref=ID, force=True)[-1] == f"Deleted {ID}"


def test_a_running_container_protects_even_against_force() -> None:
    for force in (False, True):
        with pytest.raises(Conflict, match=r"cannot be forced.*running container web"):
            lines(TAG, ref=ID, users=(RUNNING,), force=force)


def test_a_stopped_container_protects_until_forced() -> None:
    with pytest.raises(Conflict, match=r"must be forced.*stopped container old"):
        lines(TAG, ref=ID, users=(STOPPED,))
    forced = plan(IMAGE, [TAG], ID, [STOPPED], force=True)
    assert forced.hide
    assert not forced.delete


def test_the_last_name_of_a_used_image_needs_force_and_then_only_goes_itself() -> None:
    with pytest.raises(Conflict, match=r"unable to remove repository reference 'app:1' \(must force\).*container web"):
        lines(TAG, ref="app:1", users=(RUNNING,))
    assert lines(TAG, ref="app:1", users=(RUNNING,), force=True) == ["Untagged app:1"]
