# SPDX-License-Identifier: GPL-2.0-or-later
"""rping between two nodes, and other programs of the RDMA CM."""
import re

# Its main thread closes the channel of events; its other one, if it comes back from the last event
# only then, fails to read the next. (Later versions of rping tell that thread to end.)
LATE_THREAD = re.compile(r"DISCONNECT EVENT\.\.\.\nrdma_get_cm_event: Bad file descriptor\n")


def ping(server, client, count, address=None, options="", timeout=180):
    """rping, count times: each message has come back, and both programs have ended well.

    address: the server's, its IPv4 address if None. options: the client's; "-V" compares every byte.
    """
    address = address or server.ipv4
    serving = server.guest.start(rping(f"-s -a {address} -C {count}"))
    wait_cm_listener(server)
    expect_pings(client.guest.run(rping(f"-c -a {address} -C {count} {options}"), timeout), count)
    expect_pings(serving.wait(timeout), count)


def rping(arguments):
    """The command whose result is for expect_pings(): what it says of events does not come between the lines."""
    return f"rping -v {arguments} >/tmp/rping.$$; status=$?; cat /tmp/rping.$$; exit $status"


def expect_pings(result, count):
    """That of rping(), of either side, with -C count."""
    pings = [int(number) for number in re.findall(r"ping data: rdma-ping-(\d+):", result.output)]
    has_ended_well = result.status == 0 or LATE_THREAD.search(result.output)
    assert pings == list(range(count)) and has_ended_well, result


def wait_cm_listener(node):
    """Until a program of the node listens through the RDMA CM."""
    node.guest.check("until rdma resource show cm_id | grep -q 'state LISTEN'; do :; done")
