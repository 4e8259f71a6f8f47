# SPDX-License-Identifier: GPL-2.0-or-later
"""The verifying client (tests/client): its suites, and traffic that goes on until it is told to end."""
import re

from test_programs import both, expect_success
from vm.fabric import run_pair
from vm.guest import GuestError

PROGRAM = "/payload/rdma-verify"
PORT = 18600
# For rxe: where it has sent the answer to a READ and is asked for it again, after a WRITE or READ of no
# bytes, it has no memory region and the QP fails (read_reply() in rxe_resp.c, with a warning in rxe_mr.c).
NOT_EMPTY = "--min-size 1"
ENDLESS = 100000  # seconds
REPORT = re.compile(r"^stream: so far: .* (\d+) at least on each QP, longest gap ([\d.]+) ms, "
                    r"([\d.]+) ms since the last report\n", re.M)


def verify(fabric, suite, timeout=180):
    """Runs a suite between the fabric's two nodes."""
    server, client, address, server_gid, client_gid = both(fabric)
    results = run_pair(
        server, client, f"{PROGRAM} -d {server.device} -g {server_gid} {suite}",
        f"{PROGRAM} -d {client.device} -g {client_gid} {suite} {address}", PORT, timeout)
    expect_success(results)
    return results


class Stream:
    """`rdma-verify stream` between two nodes, or from one to itself.

    options: rdma-verify's, for both. quiet: the programs print nothing before their end, so that
    nobody can expect_progress().
    """

    def __init__(self, server, client, options, quiet=False, port=PORT):
        options = f"stream --seconds {ENDLESS} --port {port} {options}"
        output = " >/tmp/stream.$$ 2>&1 || { cat /tmp/stream.$$; exit 1; }" if quiet else ""
        self._processes = [server.guest.start(
            f"{PROGRAM} -d {server.device} -g {server.gid_index(server.ipv4)} {options}{output}")]
        server.guest.wait_listening(port)
        self._processes.append(client.guest.start(
            f"{PROGRAM} -d {client.device} -g {client.gid_index(client.ipv4)} {options} "
            f"{server.ipv4}{output}"))
        if not quiet:
            self.expect_progress()

    def expect_progress(self, timeout=120):
        """Until each QP has received something new, at both ends."""
        for process in self._processes:
            before = len(reports(process.output))

            def has_progressed(output, before=before):
                new = reports(output)[before:]
                return len(new) > 1 and new[-1][0] > new[0][0]
            try:
                process.wait_until(has_progressed, timeout)
            except GuestError as error:
                raise GuestError(f"{error}\n" + "\n".join(
                    f"{other.guest.name}, status {other.status}:\n{other.end_of_output()}"
                    for other in self._processes)) from error

    def longest_gaps(self, since=(0, 0)):
        """The longest time between two completions at server and client, in the reports after so many, in ms."""
        return [max(gap for _, _, gap in reports(process.output)[start:])
                for process, start in zip(self._processes, since)]

    def num_reports(self):
        return [len(reports(process.output)) for process in self._processes]

    def end(self, timeout=120):
        """Has both ends come to an end, which checks that nothing is missing."""
        for process in self._processes:
            process.guest.run("kill -TERM $(pidof rdma-verify)")
        results = [process.wait(timeout) for process in self._processes]
        for result in results:
            if result.status != 0:
                raise GuestError("".join(
                    f"{side}, status {r.status}:\n{r.output[-2000:]}\n"
                    for side, r in zip(("server", "client"), results)))


def reports(output):
    """(messages on the QP with the fewest, longest gap, longest gap since the last report) each time."""
    return [(int(least), float(longest), float(gap)) for least, longest, gap in REPORT.findall(output)]


class Scale:
    """`rdma-verify scale` between the fabric's two nodes, which waits for go_on() between its steps."""

    TIMEOUT = 900

    def __init__(self, fabric, options):
        server, client, address, server_gid, client_gid = both(fabric)
        self.guests = [server.guest, client.guest]
        for guest in self.guests:
            guest.check("rm -f /tmp/hold && mkfifo /tmp/hold")
        command = f"{PROGRAM} scale {options} --hold /tmp/hold"
        self._processes = [server.guest.start(f"{command} -d {server.device} -g {server_gid}")]
        server.guest.wait_listening(PORT)
        self._processes.append(
            client.guest.start(f"{command} -d {client.device} -g {client_gid} {address}"))

    def wait_held(self, pattern):
        """Until both say so, which match pattern."""
        for process in self._processes:
            process.wait_output(pattern, self.TIMEOUT)

    def go_on(self):
        for guest in self.guests:
            guest.check(": > /tmp/hold")

    def end(self):
        """What the client has printed in the end."""
        expect_success([process.wait(self.TIMEOUT) for process in self._processes])
        return self._processes[1].output
