"""Parsers of what is written after a flag: pure functions; BadValue names the flag, the value and the cause."""
