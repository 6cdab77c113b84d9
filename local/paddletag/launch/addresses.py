"""Addresses of this machine and of node 0. All are IPv4: Paddle takes no other."""

import contextlib
import fcntl
import re
import socket

from paddletag.runtime import UserError

SIOCGIFADDR = 0x8915  # Linux's request for the address of a network interface


def resolve(host: str) -> str:
    """The address of a host name. UserError where there is none."""
    try:
        return socket.gethostbyname(host)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"--master {host}: no IPv4 address for this name on this machine ({why})") from None


def is_of_this_machine(address: str) -> bool:
    """Whether a program can listen at this address."""
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def own_address(connection: socket.socket) -> str:
    """The address of this machine in a connection, as Paddle knows it: of the loopback it takes 127.0.0.1 alone."""
    address = str(connection.getsockname()[0])
    return "127.0.0.1" if address.startswith("127.") else address


def free_endpoint(address: str) -> str:
    """ADDRESS:PORT with a port that is free at this address of this machine."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return f"{address}:{probe.getsockname()[1]}"


def is_endpoint(value: object) -> bool:
    """Whether this is a text of the form ADDRESS:PORT."""
    return type(value) is str and re.fullmatch(r"[0-9.]{7,15}:[0-9]{1,5}", value) is not None


def interface(address: str) -> str | None:
    """The name of the network interface that has this address, or None."""
    for _, name in socket.if_nameindex():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            record = fcntl.ioctl(probe, SIOCGIFADDR, name.encode().ljust(256, b"\0"))
            if socket.inet_ntoa(record[20:24]) == address:
                return name
    return None
