"""One launch, watched: start it with the other nodes, show what rank 0 says, end everywhere when anything fails.

`launch` in utils/recipe.sh runs `python watch.py OPTIONS -- COMMAND`, where COMMAND is Paddle's launcher. On several
nodes a watcher runs on each; that of node 0 (node_0.py) listens at --master for as long as the stage lasts, the others
(other_node.py) connect. What fails on one node reaches the others over these connections (connections.py), and so does
the end of a watcher or of its machine.
"""

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(sys.path[0]))  # `local`, not the folder of this file

from paddletag.launch.addresses import interface  # noqa: E402
from paddletag.launch.launch_failed import LaunchFailed  # noqa: E402
from paddletag.launch.local_command import Command  # noqa: E402
from paddletag.launch.node import NoOtherNodes  # noqa: E402
from paddletag.launch.node_0 import Node0  # noqa: E402
from paddletag.launch.other_node import OtherNode  # noqa: E402
from paddletag.launch.watch_options import Options, parse  # noqa: E402
from paddletag.runtime import UserError  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command of `arguments`, and end this process with its exit status, or that of another node."""
    options = parse(arguments)
    command = Command(options)
    nodes: NoOtherNodes | Node0 | OtherNode = NoOtherNodes()
    try:
        if options.nodes > 1:
            nodes = OtherNode(options, command) if options.node else Node0(options, command)
        work(options, command, nodes)
        command.stop()
        sys.exit(0)
    except UserError as error:
        failure = LaunchFailed(2, f"run.sh: error: {error}", mistake=True)
    except LaunchFailed as error:
        failure = error
    failure = nodes.agree_on_cause(failure)
    nodes.close()
    command.stop()
    report(options, command, failure)
    sys.exit(failure.status)


def work(options: Options, command: Command, nodes: NoOtherNodes | Node0 | OtherNode) -> None:
    """Run the command to its end, and that of the other nodes. LaunchFailed when one fails."""
    words, env = list(options.command), dict(os.environ)
    meeting = nodes.meet()
    if meeting:
        address, endpoint = meeting
        at = words.index("--master")
        words[at : at + 2] = ["--master", endpoint, "--host", address]
        env["NO_PROXY"] = env["no_proxy"] = "*"  # Paddle's launchers meet over HTTP
        name = interface(address)
        if name:
            env.setdefault("GLOO_SOCKET_IFNAME", name)  # else gloo takes what the host's name resolves to
    command.start(words, env)
    while command.running():
        command.check()
        nodes.poll()
    command.check()
    nodes.finish()


def report(options: Options, command: Command, failure: LaunchFailed) -> None:
    """Print why it ended, and leave it in the log's folder: utils/recipe.sh then knows that it has been said."""
    if command.signal or (options.alone and command.failed()):
        return
    line = failure.cause if failure.mistake else f"run.sh: {options.step} failed ({failure.cause})"
    if not (failure.mistake and command.has_shown(line)):
        log = [] if failure.log and command.has_shown(failure.log[-1].partition(" | ")[2]) else failure.log
        print(*log, line, sep="\n", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        (command.log / "cause").write_text(line + "\n")


if __name__ == "__main__":
    main()
