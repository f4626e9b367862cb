#!/usr/bin/env python3
"""A link between clients and a server on loopback, as it is over a distance: each connection has a rate and a delay.

    link.py PORT PEER-PORT MB/S DELAY-MS      rate of each connection towards the client; delay of each direction

Serves until it is ended.
"""
import asyncio
import sys
import time

PIECE = 64 << 10


async def carry(reader, writer, delay_s, bytes_per_s):
    """Hands on what it reads, each piece `delay_s` later, no faster than it may."""
    queue = asyncio.Queue(maxsize=max(4, int(delay_s * bytes_per_s / PIECE * 2) if bytes_per_s else 256))

    async def read():
        while piece := await reader.read(PIECE):
            await queue.put((time.monotonic() + delay_s, piece))
        await queue.put((0, b""))

    reading, free_at = asyncio.ensure_future(read()), 0.0
    try:
        while True:
            due, piece = await queue.get()
            if not piece:
                break
            now = time.monotonic()
            free_at = max(free_at, due)
            if free_at > now + 0.001:
                await asyncio.sleep(free_at - now)
            if bytes_per_s:
                free_at += len(piece) / bytes_per_s
            writer.write(piece)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        reading.cancel()
        writer.close()


async def main(port, peer, mb_per_s, delay_ms):
    async def serve(from_client, to_client):
        # The way to the server and back, once more for the handshake that loopback does not wait for.
        await asyncio.sleep(2 * delay_ms / 1000)
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", peer)
        except OSError:
            return to_client.close()
        await asyncio.gather(
            carry(from_client, to_server, delay_ms / 1000, 0),
            carry(from_server, to_client, delay_ms / 1000, mb_per_s * 1e6),
            return_exceptions=True,
        )

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])))
    except KeyboardInterrupt:
        pass
