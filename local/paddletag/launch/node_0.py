"""The watcher of node 0: it listens at --master, lets the other nodes in, starts them all and ends with them."""

import errno
import os
import select
import time
from typing import Any

from paddletag.launch.addresses import free_endpoint, is_of_this_machine, own_address
from paddletag.launch.connections import Link, Listener, Message
from paddletag.launch.launch_failed import LaunchFailed
from paddletag.launch.local_command import Command
from paddletag.launch.node import PATIENCE, Node, say
from paddletag.launch.watch_options import Options
from paddletag.runtime import UserError


class Node0(Node):
    """The other nodes, as node 0 sees them. UserError if this machine cannot listen at --master.

    With --alone the others are told to wait.
    """

    def __init__(self, options: Options, command: Command) -> None:
        super().__init__(options, command)
        self.done: set[int] = set()  # the nodes that have finished their part
        self.refused: list[Link] = []  # closed, they might not hear why
        self.met = False
        self.listener = self.listen()

    def listen(self) -> Listener:
        """Take the port of --master on this machine."""
        master = self.options.master
        if not is_of_this_machine(self.host):
            raise UserError(f"--master {master}: {self.host} is no address of this machine, node 0")
        # A name of this machine may mean the loopback to it (as on Debian) and another address to the others.
        name = master.rsplit(":", 1)[0]
        everywhere = self.host.startswith("127.") and name not in (self.host, "localhost")
        try:
            return Listener("" if everywhere else self.host, self.port, self.options.log)
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            why = "is in use" if in_use else os.strerror(error.errno or 0).lower()
            raise UserError(f"--master {master}: port {self.port} {why} on this machine") from None

    def meet(self) -> tuple[str, str] | None:
        """Wait until all nodes are here. Returns the address of this one, and ADDRESS:PORT where all launchers meet.

        None with --alone. LaunchFailed if a node does not come in time, or was started with other options.
        """
        if self.options.alone:
            return None
        self.await_all()
        address = own_address(self.links[0].socket)
        endpoint = free_endpoint(address)
        self.met = True
        for link in self.links:
            link.send("go", endpoint=endpoint)
        return address, endpoint

    def await_all(self) -> None:
        """Let the other nodes in until none is missing."""
        master, patience = self.options.master, self.options.node_wait
        start = time.monotonic()
        announced = None
        while len(self.links) < self.options.nodes - 1:
            self.command.check()
            self.poll()
            missing = sorted(set(range(1, self.options.nodes)) - {link.node for link in self.links})
            names = f"node{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
            waited = time.monotonic() - start
            if missing and missing != announced and waited > 3:
                announced = missing
                say(f"node 0 waits at {master} for {names}, at most {patience} s")
            if missing and waited > patience:
                raise LaunchFailed(1, f"{names} did not come to {master} within {patience} s")

    def poll(self) -> None:
        """Hear the others for a tenth of a second. LaunchFailed when one has failed or is lost."""
        self.pulse()
        ready = select.select([*self.links, *self.listener.waiting()], [], [], 0.1)[0]
        ready_links = [link for link in self.links if link in ready]
        admitted = [(link, rest) for link, (hello, *rest) in self.listener.admit(ready) if self.welcome(link, hello)]
        for link in ready_links:
            self.obey(link, link.receive())
        for link, messages in admitted:
            self.obey(link, messages)
        if len(self.done) < self.options.nodes:
            for link in self.links:
                if not link.open or link.silent():
                    raise self.lost(link)

    def obey(self, link: Link, messages: list[Message]) -> None:
        """Take note of which nodes are done; raise what has failed on another one."""
        for message in messages:
            if message["failure"]:
                raise message["failure"]
            if message["kind"] == "done" and link.node is not None:
                self.done.add(link.node)

    def welcome(self, link: Link, hello: Message) -> bool:
        """Let a node in if it comes with the same job; whether it is in."""
        link.node = hello["node"]
        if self.options.alone:
            link.send("busy", step=self.options.step)
            self.links.append(link)
            return True
        mismatch = find_mismatch(hello, self.options.hello(), {link.node for link in self.links})
        if mismatch and self.met:  # this run goes on without it
            link.send("ended", **mismatch.to_message())
            self.refused.append(link)
            return False
        self.links.append(link)
        if mismatch:
            raise mismatch
        return True

    def finish(self) -> None:
        """Return when all nodes have done their part. LaunchFailed when one has failed."""
        if self.options.alone:
            self.close()
            for link in self.links:
                link.send("again")
            return
        self.done.add(0)
        while len(self.done) < self.options.nodes:
            self.command.check()
            self.poll()
        self.close()  # before the others go on to the next launch
        for link in self.links:
            link.send("finished")

    def agree_on_cause(self, failure: LaunchFailed) -> LaunchFailed:
        """Hear what else has failed, decide what came first, tell the others and return it."""
        first = min([failure, *self.more_failures(PATIENCE)], key=lambda failure: failure.when)
        for link in self.links:
            link.send("ended", **first.to_message())
        return first

    def close(self) -> None:
        """Listen no more; those who are in stay connected."""
        self.listener.close()


def find_mismatch(theirs: Message, ours: dict[str, Any], present: set[int | None]) -> LaunchFailed | None:
    """What to say to a node that was not started as node 0 was, or None.

    theirs, ours: the hello of each. present: the numbers of the other nodes that are here.
    """
    node, count = theirs["node"], ours["nodes"]
    if node == 0 or node in present:
        return _mistake(f"--node-rank {node}: two machines have this number")
    for key, text in (("nodes", "--nnodes"), ("job", "stage and fold"), ("command", "commands")):
        if theirs.get(key) != ours[key]:
            own, other = _differing(ours[key], theirs.get(key))
            text += f": '{own}' on node 0, '{other}' on node {node}"
            return _mistake(f"start all nodes with the same options, not {text}")
    if node >= count:
        return _mistake(f"--node-rank {node}: of {count} machines the last has number {count - 1}")
    return None


def _mistake(text: str) -> LaunchFailed:
    return LaunchFailed(2, f"run.sh: error: {text}", mistake=True)


def _differing(one: object, other: object) -> tuple[str, str]:
    """The parts of two commands that differ; all of anything else."""
    if isinstance(one, list) and isinstance(other, list):
        first, second = list(map(str, one)), list(map(str, other))
        one = " ".join(word for word in first if word not in second)
        other = " ".join(word for word in second if word not in first)
    return str(one)[:200], str(other)[:200]
