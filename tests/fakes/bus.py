# SPDX-License-Identifier: LGPL-2.1-or-later
"""A message bus with a polkit on it, which says what a test wants, when it wants.

It serves in the loop of the test, and keeps what it was told: questions, and the
descriptors that came with them until its end.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Callable
from typing import Any

from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    Parser,
    new_error,
    new_method_return,
    new_signal,
)

ANSWER = "(bba{ss})"


class Question:
    """One CheckAuthorization that waits for its answer."""

    def __init__(self, link: Link, message: Message) -> None:
        self.link, self.message = link, message
        subject, self.action, self.details, self.flags, self.number = message.body
        self.kind = subject[0]
        self.subject = subject[1]  # of (type, value)

    def answer(self, allowed: bool, challenge: bool = False, **details: str) -> None:
        named = {f"polkit.{name}": value for name, value in details.items()}
        self.say(ANSWER, ((allowed, challenge, named),))

    def say(self, signature: str, body: tuple[Any, ...]) -> None:
        self.link.send(new_method_return(self.message, signature, body))

    def fail(self, name: str, text: str) -> None:
        self.link.send(new_error(self.message, name, "s", (text,)))


class Link:
    """One connection, as the bus sees it."""

    def __init__(self, bus: FakeBus, sock: socket.socket) -> None:
        self.bus = bus
        self.fds: list[int] = []
        self._socket = sock
        self._lines = b""
        self._talks = False
        self._parser = Parser()
        self._serials = itertools.count(1)
        sock.setblocking(False)
        asyncio.get_running_loop().add_reader(sock, self._read)

    def _read(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, 65536, 16)
        except OSError:
            data, fds = b"", []
        self.fds += fds
        if not data:
            self.hang_up()
        if not self._talks:
            self._lines += data
            data = b""
            while b"\r\n" in self._lines and not self._talks:
                line, self._lines = self._lines.split(b"\r\n", 1)
                self._talks = self._authenticate(line)
            if self._talks:
                data = self._lines
        self._parser.add_data(data, fds)
        while (message := self._parser.get_next_message()) is not None:
            self._take(message)

    def _authenticate(self, line: bytes) -> bool:
        """:returns: whether that was the end of it."""
        answer = self.bus.dialogue.get(line.lstrip(b"\0").split(b" ")[0])
        if answer is not None:
            self._socket.send(answer)
        return line == b"BEGIN"

    def _take(self, message: Message) -> None:
        member = message.header.fields[HeaderFields.member]
        if member == "Hello":
            self.bus.greet(self, message)
        elif member == "CheckAuthorization":
            question = Question(self, message)
            self.bus.questions.append(question)
            self.bus.on_question(question)
        else:
            assert member == "CancelCheckAuthorization"
            self.bus.withdrawn.append(message.body[0])
        self.bus.told.set()

    def send(self, message: Message) -> None:
        self.write(message.serialise(next(self._serials)))

    def write(self, data: bytes) -> None:
        self._socket.setblocking(True)
        try:
            self._socket.sendall(data)
        finally:
            self._socket.setblocking(False)

    def hang_up(self) -> None:
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            for fd in self.fds:
                os.close(fd)


def signal(size: int) -> bytes:
    """A message that nobody asked for, as anybody can send it to anybody."""
    emitter = DBusAddress("/org/example", interface="org.example.Noise")
    message = new_signal(emitter, "Noise", "s", ("x" * size,))
    return bytes(message.serialise(1))


def welcome(link: Link, hello: Message) -> None:
    link.send(new_method_return(hello, "s", (":1.7",)))


def turn_away(link: Link, hello: Message) -> None:
    name = "org.freedesktop.DBus.Error.LimitsExceeded"
    link.send(new_error(hello, name, "s", ("no more\nof you",)))


class FakeBus:
    """Listens at a path while the block lasts."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.address = f"unix:path={path}"
        self.questions: list[Question] = []
        self.withdrawn: list[str] = []
        self.told = asyncio.Event()
        self.links: list[Link] = []
        self.on_question: Callable[[Question], object] = lambda _: None
        self.greet: Callable[[Link, Message], object] = welcome
        self.dialogue = {
            b"AUTH": b"OK 1234\r\n",
            b"NEGOTIATE_UNIX_FD": b"AGREE_UNIX_FD\r\n",
        }
        self._listening = socket.socket(socket.AF_UNIX)

    async def __aenter__(self) -> FakeBus:
        self._listening.bind(self.path)
        self._listening.listen(100)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._listening, self._accept)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._listening)
        self._listening.close()
        os.unlink(self.path)
        for link in self.links:
            link.hang_up()

    def _accept(self) -> None:
        self.links.append(Link(self, self._listening.accept()[0]))

    async def asked(self, number: int = 1) -> Question:
        """The last of so many questions, when there are so many."""
        await self._until(lambda: len(self.questions) >= number)
        return self.questions[number - 1]

    async def withdrew(self, number: int = 1) -> str:
        """The number of the last of so many that were withdrawn."""
        await self._until(lambda: len(self.withdrawn) >= number)
        return self.withdrawn[number - 1]

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.told.clear()
            await asyncio.wait_for(self.told.wait(), 10)
