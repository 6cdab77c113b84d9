"""The options of watch.py."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass
class Options:
    """What watch.py is called with; `parse` explains each. `master` is empty on one node."""

    step: str
    job: str
    log: str
    command: list[str]
    alone: bool = False
    node: int = 0
    nodes: int = 1
    master: str = ""
    node_wait: int = 600

    def hello(self) -> dict[str, Any]:
        """How this node was started, which it tells node 0: the others must have been started in the same way."""
        is_worker = [word.endswith("/paddletag/launch/worker.py") for word in self.command]
        work = self.command[is_worker.index(True) + 1 :] if any(is_worker) else []
        return {"node": self.node, "nodes": self.nodes, "job": self.job, "command": work}


def parse(arguments: Sequence[str] | None = None) -> Options:
    """The options among `arguments`, by default those of this process. Ends the process for wrong ones."""
    parser = argparse.ArgumentParser(
        description="One launch, watched: start it with the other nodes, show what rank 0 says, end everywhere when "
        "anything fails."
    )
    parser.add_argument("--step", required=True, help="what this is, for messages")
    parser.add_argument("--job", required=True, help="the name under which nodes meet")
    parser.add_argument("--log", required=True, help="folder of the logs")
    parser.add_argument("--alone", action="store_true", help="COMMAND is no launcher: the other nodes wait for it")
    parser.add_argument("--node", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--master", default="", help="HOST:PORT of node 0")
    parser.add_argument("--node_wait", type=int, default=600, help="seconds that a node waits for the others")
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    return Options(**vars(parser.parse_args(arguments)))
