# SPDX-License-Identifier: GPL-2.0-or-later
"""Moves a running guest from one QEMU process to another."""
import contextlib

# Bytes per second: as fast as it goes.
NO_LIMIT = 1 << 40


class MigrationError(Exception):
    """A migration has not ended as it should have."""


class Migration:
    """From the guest's QEMU to one that is started here and waits.

    capabilities: QEMU's, to be on at both ends. parameters: of the source. source_capabilities: on at the
    source alone. arguments: of the destination, None: as the source's.
    """

    def __init__(self, guest, arguments=None, capabilities=(), source_capabilities=(), parameters=None,
                 on_arrival=None):
        self.guest = guest
        self.source = guest.qemu
        self._on_arrival = on_arrival
        self.resumed = None  # the event of the destination's start
        self._silence = contextlib.ExitStack()
        self.destination = guest.start_qemu(arguments, ["-incoming", "defer"])
        self._uri = f"unix:{guest.directory}/{guest.name}.migration"
        self._capabilities = ["events", *capabilities]
        set_capabilities(self.destination.qmp, self._capabilities, True)
        self._capabilities += source_capabilities
        set_capabilities(self.source.qmp, self._capabilities, True)
        for side in (self.source, self.destination):
            side.qmp.command("migrate-set-parameters", **{"max-bandwidth": NO_LIMIT,
                                                          **(parameters or {})})

    def start(self):
        """Begins it. Commands to the guest must wait until complete() or give_up()."""
        self._silence.enter_context(self.guest.silence())
        self.source.qmp.events.clear()
        self.destination.qmp.command("migrate-incoming", uri=self._uri)
        self.source.qmp.command("migrate", uri=self._uri)

    def wait(self, *statuses):
        """Until the migration is said to be in one of these; returns it."""
        ends = {"completed", "failed", "cancelled"}
        event = self.source.qmp.wait_event(
            "MIGRATION", lambda data: data["status"] in {*statuses, *ends})
        status = event["data"]["status"]
        if status not in statuses:
            raise MigrationError(f"{status} instead of {' or '.join(statuses)}: {self.info()}\n"
                                 f"{self.destination.output()}")
        return status

    def info(self):
        return self.source.qmp.command("query-migrate")

    def complete(self):
        """Waits for the end; the guest is in the other process then. Returns query-migrate's answer."""
        self.wait("completed")
        self.resumed = self.destination.qmp.wait_event("RESUME")
        info = self.info()
        self.guest.adopt(self.destination)
        self.source.stop()
        if self._on_arrival:
            self._on_arrival()
        self._silence.close()
        set_capabilities(self.guest.qmp, self._capabilities, False)
        return info

    def run(self):
        self.start()
        return self.complete()

    def give_up(self):
        """The guest stays where it is."""
        self._silence.close()
        set_capabilities(self.source.qmp, self._capabilities, False)
        self.destination.stop()


def set_capabilities(qmp, names, on):
    qmp.command("migrate-set-capabilities",
                capabilities=[{"capability": name, "state": on} for name in names])
