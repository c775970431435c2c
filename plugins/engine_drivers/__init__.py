"""The drivers that ship with Engine: ordinary plugins, found by their entry points like any other."""
