"""Engine: a container engine whose networks, volumes and storage are plugins.

Kept empty on purpose: the command line's fast path imports this package on every call.
"""
