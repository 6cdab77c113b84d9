"""The watcher of a node other than node 0: it connects to node 0, starts when that says so, and ends with it."""

import select
import socket
import time

from paddletag.launch.addresses import is_endpoint, own_address
from paddletag.launch.connections import Link, Message, answer
from paddletag.launch.launch_failed import LaunchFailed
from paddletag.launch.local_command import Command
from paddletag.launch.node import PATIENCE, Node, say
from paddletag.launch.watch_options import Options
from paddletag.runtime import one_line

VISIBLE = 60  # seconds after which a network file system shows what another node has written


class OtherNode(Node):
    """The other nodes, as any but node 0 sees them: a connection to node 0."""

    def __init__(self, options: Options, command: Command) -> None:
        super().__init__(options, command)
        self.finished = False  # on all nodes
        self.hub_seen = 0.0  # when node 0 was last heard
        self.announced: object = None  # what this node said last that it waits for
        self.unreadable: tuple[float, str] | None = None  # since when, and which file of node 0 cannot be read here

    def meet(self) -> tuple[str, str]:
        """Wait until all nodes are here. Returns the address of this one, and ADDRESS:PORT where all launchers meet.

        LaunchFailed if node 0 does not answer in time, has failed, or is somebody else.
        """
        self.hub_seen = time.monotonic()
        while True:
            self.command.check()
            self.check_wait()
            try:
                link = Link(socket.create_connection((self.host, self.port), timeout=5))
            except OSError:
                time.sleep(0.2)
                continue
            self.links = [link]
            self.introduce(link)
            endpoint = self.await_start(link)
            if endpoint:
                return own_address(link.socket), endpoint
            time.sleep(0.1)

    def check_wait(self) -> None:
        """Say what this node waits for. LaunchFailed once it has waited too long."""
        node, master, patience = self.options.node, self.options.master, self.options.node_wait
        now = time.monotonic()
        if self.unreadable and now - self.unreadable[0] > min(VISIBLE, patience):
            why = f"node {node} cannot read {self.unreadable[1]}, which node 0 has written"
            raise LaunchFailed(1, f"{why}: do both see one file system, as the same user?")
        if now - self.hub_seen > patience:
            raise LaunchFailed(1, f"node 0 did not answer at {master} within {patience} s")
        if now - self.hub_seen > 3 and not self.announced:
            self.announced = f"node {node} waits for node 0 at {master}, at most {patience} s"
            say(self.announced)

    def introduce(self, link: Link) -> None:
        """Answer node 0's question and say hello, as soon as the file that it names can be read here."""
        question = None
        while link.open:
            for message in self.hear(link):
                question = message if message["kind"] == "question" else question
            try:
                proof = answer(question) if question else None
            except ValueError:
                raise self.not_node_0() from None
            if proof:
                self.unreadable = None
                link.write(proof)
                link.send("hello", **self.options.hello())
                return
            if question and not self.unreadable:
                self.unreadable = time.monotonic(), question["file"]
            if link.silent():
                raise self.not_node_0()
            self.command.check()

    def await_start(self, link: Link) -> str | None:
        """ADDRESS:PORT where all launchers meet, once node 0 says so. None if this node is to connect anew."""
        accepted = False
        while link.open:
            for message in self.hear(link):
                self.hub_seen, accepted = time.monotonic(), True
                kind, step = message["kind"], message.get("step")
                if kind == "go" and is_endpoint(message.get("endpoint")):
                    link.node = 0
                    return message["endpoint"]
                if kind == "busy" and step != self.announced:
                    self.announced = step
                    say(f"node {self.options.node} waits for node 0, which is at {one_line(step)[:200]}")
                if kind == "again":  # node 0 goes on to its next stage
                    accepted = False
                    link.close()
            if link.silent():
                raise self.not_node_0()
            self.command.check()
            self.pulse()
        self.links, link.node = [], 0
        if accepted:
            raise self.lost(link)
        return None

    def hear(self, link: Link) -> list[Message]:
        """What came over `link` within a tenth of a second. LaunchFailed if node 0 tells of one."""
        if not select.select([link], [], [], 0.1)[0]:
            return []
        messages = link.receive()
        if link.nonsense and link.node is None:
            raise self.not_node_0()
        for message in messages:
            if message["failure"]:
                raise message["failure"]
        return messages

    def not_node_0(self) -> LaunchFailed:
        """What to say of somebody else at --master."""
        return LaunchFailed(1, f"{self.options.master} answers, but not as node 0 does")

    def poll(self) -> None:
        """Hear node 0 for a tenth of a second. LaunchFailed when a node has failed, or node 0 is lost."""
        self.pulse()
        (link,) = self.links
        if any(message["kind"] == "finished" for message in self.hear(link)):
            self.finished = True
        if not self.finished and (not link.open or link.silent()):
            raise self.lost(link)

    def finish(self) -> None:
        """Return when all nodes have done their part. LaunchFailed when one has failed."""
        self.links[0].send("done")
        while not self.finished:
            self.command.check()
            self.poll()

    def agree_on_cause(self, failure: LaunchFailed) -> LaunchFailed:
        """Tell node 0 and return what failed first: what node 0 has decided, if it lives."""
        if failure.decided:
            return failure
        for link in self.links:
            link.send("ended", **failure.to_message())
        failures = [failure]
        for other in self.more_failures(3 * PATIENCE):
            if other.decided:
                return other
            failures.append(other)
        return min(failures, key=lambda failure: failure.when)

    def close(self) -> None:
        """Nothing that others use is open."""
