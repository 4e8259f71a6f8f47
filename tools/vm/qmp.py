# SPDX-License-Identifier: GPL-2.0-or-later
"""A small client of QEMU's monitor protocol."""
import json
import socket


class QmpError(Exception):
    """The monitor refused a command."""


class Qmp:
    def __init__(self, path, timeout=60, connection=None):
        """path: of the monitor's socket; connection: in its place, one that leads there."""
        self._socket = connection or socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        if not connection:
            self._socket.connect(path)
        self._lines = self._socket.makefile("r", encoding="utf-8")
        self.events = []
        self._next()  # the greeting
        self.command("qmp_capabilities")

    def _next(self):
        line = self._lines.readline()
        if not line:
            raise EOFError("QEMU has closed its monitor")
        return json.loads(line)

    def command(self, execute, **arguments):
        message = {"execute": execute, "arguments": arguments}
        self._socket.sendall(json.dumps(message).encode() + b"\n")
        while True:
            answer = self._next()
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise QmpError(answer["error"]["desc"])
            else:
                return answer["return"]

    def wait_event(self, name, wanted=lambda data: True):
        """The next event of that name and with the data wanted, or one that has come already."""
        while True:
            for i, event in enumerate(self.events):
                if event["event"] == name and wanted(event.get("data", {})):
                    return self.events.pop(i)
            answer = self._next()
            if "event" in answer:
                self.events.append(answer)
