"""A fleet of simulated devices that call a real server over HTTP; run as `python -m tests.remote.fleet PORT`.

Each device asks as an ESP8266 does, takes what it is given whole, and comes back: on the new version, or on the old one
where the release is one of those that never start. It runs until it is ended.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re

PAUSE = 0.4
"""How long a device stays away, in seconds: what takes hours in the field takes moments here."""


async def ask(port: int, project: str, number: int, version: str) -> tuple[int, str | None]:
    """Ask for an update once; return the status, and the version of the image that arrived whole."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    mac = f"5C:CF:7F:00:{number >> 8:02X}:{number & 255:02X}"
    head = (
        f"GET /{project} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: ESP8266-http-Update\r\n"
        f"Connection: close\r\nx-ESP8266-STA-MAC: {mac}\r\nx-ESP8266-AP-MAC: {mac}\r\n"
        f"x-ESP8266-free-space: 2097152\r\nx-ESP8266-sketch-size: 400000\r\nx-ESP8266-chip-size: 4194304\r\n"
        f"x-ESP8266-sdk-version: 2.5.0\r\nx-ESP8266-mode: sketch\r\nx-ESP8266-version: {version}\r\n\r\n"
    )
    writer.write(head.encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    fields, _, body = answer.partition(b"\r\n\r\n")
    status = int(fields.split()[1])
    length = re.search(rb"(?im)^content-length: ([0-9]+)", fields)
    told = re.search(rb"(?im)^x-version: ([0-9.]+)", fields)
    whole = status == 200 and length is not None and int(length[1]) == len(body)
    return status, told[1].decode() if whole and told else None


async def live(port: int, project: str, number: int, version: str, bad: frozenset[str]) -> None:
    """Be one device, for ever."""
    dice = random.Random(number)
    while True:
        await asyncio.sleep(PAUSE * dice.uniform(0.5, 1.5))
        try:
            _, taken = await ask(port, project, number, version)
        except OSError:
            # The server is starting, or being started anew; a device tries again later.
            continue
        if taken is not None and taken not in bad:
            version = taken


async def run(port: int, project: str, devices: int, version: str, bad: frozenset[str]) -> None:
    """Be a whole fleet."""
    await asyncio.gather(*(live(port, project, number, version, bad) for number in range(devices)))


def main() -> None:
    """Run until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--project", default="lamp")
    parser.add_argument("--devices", type=int, default=50)
    parser.add_argument("--version", default="1.0.0", help="what all of them run at first")
    parser.add_argument("--bad", action="append", default=[], help="a version that never starts")
    given = parser.parse_args()
    asyncio.run(run(given.port, given.project, given.devices, given.version, frozenset(given.bad)))


if __name__ == "__main__":
    main()
