"""The registry of drivers and plugins: finds, loads, checks, calls and isolates them."""

from engine.plugins.describe import DriverDescription, OptionRow, describe
from engine.plugins.entry import PLUGINS_GROUP, SPECS, DriverInfo
from engine.plugins.registry import Plugins

__all__ = ["PLUGINS_GROUP", "SPECS", "DriverDescription", "DriverInfo", "OptionRow", "Plugins", "describe"]
