"""Names: the server that containers ask at 127.0.0.11. See docs/explanation/names.md.

members    what the name server knows of a container on a network
directory  all of them, found by name and by address
answers    what a container is told about the containers on its networks
upstream   whom to ask for all other names
cache      what those said, as long as it is valid
forwarder  asking them
wire       the messages themselves (RFC 1035)
server     the sockets of all sandboxes, in one event loop
service    what the rest of the engine sees
"""
