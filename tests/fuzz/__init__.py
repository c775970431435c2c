"""Requests that nobody means: made at random from the daemon's own routes, and repeatable by their seed."""
