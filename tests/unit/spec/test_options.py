"""Options are typed: unknown names are refused with a suggestion, wrong values name the field."""

import pytest
from pydantic import AliasChoices, Field

from engine.spec.errors import InvalidParameter
from engine.spec.options import NetworkOptions, ParentLink, parent_fields, parse_options


class Sample(NetworkOptions):
    parent: ParentLink = Field(default="default-route", description="Host link")
    host_ip: str | None = Field(default=None, description="An address", validation_alias=AliasChoices("com.x.host-ip"))


def test_strings_become_types() -> None:
    options = parse_options(Sample, {"mtu": "1400", "host-ip": "10.0.0.1", "parent": "eth1"}, driver="d")
    assert options == Sample(mtu=1400, host_ip="10.0.0.1", parent="eth1")


def test_aliases_and_field_names_are_spellings_of_one_option() -> None:
    assert parse_options(Sample, {"com.x.host-ip": "a"}, driver="d").host_ip == "a"
    assert parse_options(Sample, {"host_ip": "a"}, driver="d").host_ip == "a"
    with pytest.raises(InvalidParameter, match="twice"):
        parse_options(Sample, {"com.x.host-ip": "a", "host-ip": "b"}, driver="d")


def test_unknown_option_has_a_suggestion() -> None:
    with pytest.raises(InvalidParameter, match="Did you mean 'parent'"):
        parse_options(Sample, {"parnet": "x"}, driver="d")


def test_wrong_value_names_option_and_driver() -> None:
    with pytest.raises(InvalidParameter, match=r"driver d.*mtu"):
        parse_options(Sample, {"mtu": "lots"}, driver="d")


def test_parent_options_are_found() -> None:
    assert parent_fields(Sample) == ("parent",)
