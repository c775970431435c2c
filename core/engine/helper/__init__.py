"""Helper processes: one for each volume whose content is kept in a store (`engine.spec.trees.SyncedTree`).

The daemon may die, or be replaced, at any moment; a helper goes on, and the next daemon finds it again.

Identity
    A helper is alive as long as the lock (flock(2)) on `lock` in its directory is held. The daemon takes it and the
    process inherits it, so that there is never a second one, and no number is mistaken for that of another process.
Speech
    The daemon makes the socket and the process inherits it listening: a request is never too early. One JSON object a
    line, each with `op`, and one line for an answer (`process.Session`). When the process ends, so do its connections.
Configuration
    The resource and the bytes of the secrets that it names, in a sealed memory file: not in arguments, environment or
    on a disk.
Death
    Nothing of a helper is worth keeping but the journal, which is on the disk: it may be killed at any time, and is
    started again by the reconciler. Local files stay usable meanwhile.
"""
