"""The two ends of a TCP connection whose throughput or round trip is measured.

    python benchmarks/traffic.py serve PORT
    python benchmarks/traffic.py throughput|roundtrip ADDRESS PORT SECONDS

A client prints one number: Gbit/s, or microseconds at the median of 14-byte messages there and back.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import sys
import time

MESSAGE = b"fourteen bytes"
PIECE = 1 << 17


def serve(port: int) -> None:
    """Answer each message of a connection that begins with one; take in all that comes on the others."""
    with socket.create_server(("0.0.0.0", port)) as listener:
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(ConnectionError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                answer(connection)


def answer(connection: socket.socket) -> None:
    """Serve one connection."""
    room = bytearray(PIECE)
    size = connection.recv_into(room)
    echo = size == len(MESSAGE)
    while size:
        if echo:
            connection.sendall(MESSAGE)
        size = connection.recv_into(room)
    if not echo:
        connection.sendall(MESSAGE)  # all has come


def throughput(address: str, port: int, seconds: float) -> float:
    """Return Gbit/s, from the first byte to the word that all has come."""
    piece, sent = bytes(PIECE), 0
    with socket.create_connection((address, port), 10) as connection:
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            connection.sendall(piece)
            sent += PIECE
        connection.shutdown(socket.SHUT_WR)
        connection.recv(len(MESSAGE))
        return sent * 8 / (time.perf_counter() - begin) / 1e9


def roundtrip(address: str, port: int, seconds: float) -> float:
    """Return microseconds."""
    taken = []
    with socket.create_connection((address, port), 10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begin = end = time.perf_counter()
        while end - begin < seconds:
            start = time.perf_counter()
            connection.sendall(MESSAGE)
            connection.recv(len(MESSAGE))
            end = time.perf_counter()
            taken.append((end - start) * 1e6)
    return statistics.median(taken)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    measure = {"throughput": throughput, "roundtrip": roundtrip}[sys.argv[1]]
    print(measure(sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
