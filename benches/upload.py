#!/usr/bin/env python3
"""Store blobs over HTTP and say how fast it went.

    upload.py file   PROTOCOL URL FILE                    one file, once; prints nothing
    upload.py big    PROTOCOL URL BYTES                   one new blob; prints its seconds
    upload.py small  PROTOCOL URL BYTES CLIENTS SECONDS   new blobs for so long; prints count seconds p50_us p99_us

PROTOCOL is `orlop` (one PUT) or `oci` (POST, then PUT at the Location that it gives). Content is new every
time. Requests are written to plain sockets, for Python's own HTTP client would be what is measured.
"""
import hashlib
import os
import socket
import sys
import threading
import time
from urllib.parse import urlsplit


def main():
    command, protocol, url, *rest = sys.argv[1:]
    if command == "file":
        with open(rest[0], "rb") as file:
            body = file.read()
        Client(protocol, url).store(body, hashlib.sha256(body).hexdigest())
    elif command == "big":
        print(f"{store_big(protocol, url, int(rest[0])):.4f}")
    elif command == "small":
        print(*store_small(protocol, url, *map(int, rest)))


def store_big(protocol, url, size):
    pattern = os.urandom(1 << 20)
    body = bytearray(pattern * (size >> 20))
    body[:16] = os.urandom(16)
    digest = hashlib.sha256(body).hexdigest()
    client = Client(protocol, url)
    started = time.perf_counter()
    client.store(body, digest)
    return time.perf_counter() - started


def store_small(protocol, url, size, clients, seconds):
    tail = os.urandom(size - 16)
    latencies, failures = [], []

    def run():
        try:
            client = Client(protocol, url)
            while time.perf_counter() < deadline:
                body = os.urandom(16) + tail
                digest = hashlib.sha256(body).hexdigest()
                started = time.perf_counter()
                client.store(body, digest)
                latencies.append(time.perf_counter() - started)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(clients)]
    started = time.perf_counter()
    deadline = started + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - started
    if failures:
        sys.exit(f"a client failed: {failures[0]}")
    latencies.sort()
    p50, p99 = (latencies[int(len(latencies) * part)] * 1e6 for part in (0.50, 0.99))
    return len(latencies), f"{took:.4f}", f"{p50:.0f}", f"{p99:.0f}"


class Client:
    """One connection, kept open."""

    def __init__(self, protocol, url):
        self.store = {"orlop": self.store_orlop, "oci": self.store_oci}[protocol]
        self.host = urlsplit(url).netloc
        host, _, port = self.host.partition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=120)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def store_orlop(self, body, digest):
        self.call("PUT", f"/api/v1/content/sha256:{digest}/data", body, 201)

    def store_oci(self, body, digest):
        location = self.call("POST", "/v2/bench/blobs/uploads/", b"", 202)["location"]
        parts = urlsplit(location)
        self.call("PUT", f"{parts.path}?{parts.query}&digest=sha256:{digest}", body, 201)

    def call(self, method, path, body, wanted):
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        if len(body) <= 65536:
            self.socket.sendall(head + body)
        else:
            self.socket.sendall(head)
            self.socket.sendall(body)
        status, headers, text = self.answer()
        if status != wanted:
            raise RuntimeError(f"{method} {path}: {status} {text[:200].decode(errors='replace')}")
        return headers

    def answer(self):
        """The status, the headers and the body; connections that close in between are an error."""
        received = b""
        while b"\r\n\r\n" not in received:
            received += self.receive()
        head, _, body = received.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        while len(body) < int(headers.get("content-length", 0)):
            body += self.receive()
        return int(status.split()[1]), headers, body

    def receive(self):
        received = self.socket.recv(65536)
        if not received:
            raise RuntimeError("the server closed the connection")
        return received


if __name__ == "__main__":
    main()
