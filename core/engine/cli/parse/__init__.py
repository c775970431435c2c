"""Parsers of what is written after a flag: pure functions that raise BadValue with the flag, the value and the cause."""
