"""What the watchers of all nodes do alike: show that they live, hear the others, agree on what failed first.

Node 0 is the hub (node_0.py): the others (other_node.py) are connected to it alone.
"""

import re
import select
import time
from collections.abc import Iterator

from paddletag.launch.addresses import resolve
from paddletag.launch.connections import SILENCE, Link
from paddletag.launch.launch_failed import EARLIER, LaunchFailed
from paddletag.launch.local_command import Command
from paddletag.launch.watch_options import Options

SIGN_OF_LIFE = 2  # seconds between two
PATIENCE = 1  # seconds in which the first cause is still on its way from another node


class NoOtherNodes:
    """The other nodes, where there are none."""

    def meet(self) -> tuple[str, str] | None:
        """None: there is no place to meet at."""
        return None

    def poll(self) -> None:
        """Wait for a tenth of a second."""
        time.sleep(0.1)

    def finish(self) -> None:
        """Nobody else has to finish."""

    def agree_on_cause(self, failure: LaunchFailed) -> LaunchFailed:
        """The failure itself."""
        return failure

    def close(self) -> None:
        """Nothing is open."""


class Node:
    """What node 0 and the others have in common: the connections in `links`.

    UserError for a --master that has no address.
    """

    def __init__(self, options: Options, command: Command) -> None:
        self.options, self.command = options, command
        name, port = options.master.rsplit(":", 1)
        self.host, self.port = resolve(name), int(port)
        self.links: list[Link] = []
        self.last_pulse = 0.0

    def pulse(self) -> None:
        """Show the others that this node lives, every SIGN_OF_LIFE seconds."""
        if time.monotonic() - self.last_pulse > SIGN_OF_LIFE:
            self.last_pulse = time.monotonic()
            for link in self.links:
                link.send("alive")

    def lost(self, link: Link) -> LaunchFailed:
        """What to say of a node that is gone without a word."""
        why = f"no sign of life for {SILENCE} s" if link.open else "it was killed, or its machine went down"
        log = re.sub(r"\d+$", str(link.node), self.options.log)  # .../train.fold1.node0
        return LaunchFailed(1, f"node {link.node} lost: {why}; its log: {log}", when=time.time() - EARLIER)

    def more_failures(self, seconds: float) -> Iterator[LaunchFailed]:
        """What the others tell of their failures within so many seconds, while they are there."""
        end = time.monotonic() + seconds
        while not self.command.signal and time.monotonic() < end and any(link.open for link in self.links):
            for link in select.select([link for link in self.links if link.open], [], [], 0.1)[0]:
                for message in link.receive():
                    if message["failure"]:
                        yield message["failure"]
                if not link.open and not link.explained and link.node is not None:
                    yield self.lost(link)


def say(text: str) -> None:
    """Print a line in the name of run.sh."""
    print(f"run.sh: {text}", flush=True)
