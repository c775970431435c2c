"""Work on volumes that takes time: a row in the database and a process of its own, which outlives the daemon.

The daemon checks, mounts and starts (`manager`); the process does the work (`__main__` and the modules beside it) and
says how far it is by files in the job's directory (`place`), which any later daemon reads.
"""
