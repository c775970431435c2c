"""Network namespaces by path: also in the moment when the name is there and the namespace is not any more."""

from pathlib import Path

import pytest

from engine.reconcile import netns


def test_a_name_without_a_namespace_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "ns"
    netns.create(path)
    with netns.opened(path) as namespace:
        assert namespace > 0
    netns.destroy(path)
    netns.destroy(path)
    with pytest.raises(FileNotFoundError), netns.opened(path):
        pass
    path.touch()  # what `destroy` leaves for a moment between unmounting and unlinking
    with pytest.raises(FileNotFoundError), netns.opened(path):
        pass
    netns.destroy(path)
    assert not path.exists()
