"""One launch, watched: start it with the other nodes, show what rank 0 says, end everywhere when anything fails.

`launch` in utils/recipe.sh runs `python cluster.py OPTIONS -- COMMAND`, where COMMAND is Paddle's launcher. On several
nodes a watcher runs on each; that of node 0 listens at --master for as long as the stage lasts, the others connect.
What fails on one node reaches the others over these connections (links.py), and so does the end of a watcher or of its
machine.
"""

import argparse
import contextlib
import errno
import fcntl
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(sys.path[0])  # `local`, not the folder of this file

from paddletag.distributed import die_with_parent  # noqa: E402
from paddletag.links import LINES, SILENCE, Door, Ended, Link, answer  # noqa: E402
from paddletag.runtime import UserError, one_line  # noqa: E402

SIGN_OF_LIFE = 2  # seconds between two
PATIENCE = 1  # seconds in which the first cause is still on its way from another node
EARLIER = 2  # seconds: a node or launcher that is killed is noticed after what its end makes the others say
VISIBLE = 60  # seconds after which a network file system shows what another node has written


class Nobody:
    """The other nodes, where there are none."""

    def poll(self):
        time.sleep(0.1)

    def finish(self):
        pass

    def end(self, ended):
        return ended

    def close(self):
        pass


class Nodes:
    """The watchers of the other nodes. Node 0 is the hub: the others speak to it alone."""

    def __init__(self, args, watched):
        self.me, self.count, self.step, self.patience = args.node, args.nodes, args.step, args.node_wait
        self.master, self.log, self.watched = args.master, args.log, watched
        at = [word.endswith("/paddletag/distributed.py") for word in args.command]
        work = args.command[at.index(True) + 1 :] if any(at) else []
        self.offer = {"node": args.node, "nodes": args.nodes, "job": args.job, "command": work}
        self.links, self.refused, self.done, self.beat, self.met = [], [], set(), 0, False
        self.door, self.unseen = None, None  # of node 0; since when (and which) a file of node 0 cannot be read here
        self.name, port = args.master.rsplit(":", 1)
        self.port = int(port)
        self.host = resolve(self.name)
        if self.me == 0:
            self.listen()

    # ------------------------------------------------------------------------------------------- finding each other

    def listen(self):
        """Take the port of --master on this machine."""
        with socket.socket() as probe:
            try:
                probe.bind((self.host, 0))
            except OSError:
                raise UserError(f"--master {self.master}: {self.host} is no address of this machine, node 0") from None
        # A name of this machine may mean the loopback to it (as on Debian) and another address to the others.
        own = self.host.startswith("127.") and self.name not in (self.host, "localhost")
        try:
            self.door = Door("" if own else self.host, self.port, self.log)
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else os.strerror(error.errno).lower()
            raise UserError(f"--master {self.master}: port {self.port} {why} on this machine") from None

    def meet(self):
        """Wait until all nodes are here: (the address of this one, ADDRESS:PORT where Paddle's launchers meet)."""
        return self.gather() if self.me == 0 else self.join()

    def gather(self):
        start = time.monotonic()
        waiting = None
        while len(self.links) < self.count - 1:
            self.watched()
            self.poll()
            missing = sorted(set(range(1, self.count)) - {link.node for link in self.links})
            names = f"node{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
            waited = time.monotonic() - start
            if missing and missing != waiting and waited > 3:
                waiting = missing
                say(f"node 0 waits at {self.master} for {names}, at most {self.patience} s")
            if missing and waited > self.patience:
                raise Ended(1, f"{names} did not come to {self.master} within {self.patience} s")
        address = local(self.links[0].socket.getsockname()[0])
        with socket.socket() as free:
            free.bind((address, 0))
            endpoint = f"{address}:{free.getsockname()[1]}"
        self.met = True
        for link in self.links:
            link.send("go", endpoint=endpoint)
        return address, endpoint

    def join(self):
        start, said = time.monotonic(), None
        while True:
            self.watched()
            waited = time.monotonic() - start
            if self.unseen and time.monotonic() - self.unseen[0] > min(VISIBLE, self.patience):
                why = f"node {self.me} cannot read {self.unseen[1]}, which node 0 has written"
                raise Ended(1, f"{why}: do both see one file system, as the same user?")
            if waited > self.patience:
                raise Ended(1, f"node 0 did not answer at {self.master} within {self.patience} s")
            if waited > 3 and not said:
                said = f"node {self.me} waits for node 0 at {self.master}, at most {self.patience} s"
                say(said)
            try:
                link = Link(socket.create_connection((self.host, self.port), timeout=5))
            except OSError:
                time.sleep(0.2)
                continue
            self.links, known = [link], False
            self.introduce(link)
            while link.open:
                for message in self.messages(link):
                    start, known = time.monotonic(), True  # node 0 lives
                    if message["kind"] == "go" and is_endpoint(message.get("endpoint")):
                        link.node = 0
                        return local(link.socket.getsockname()[0]), message["endpoint"]
                    if message["kind"] == "busy" and message.get("step") != said:
                        said = message.get("step")
                        say(f"node {self.me} waits for node 0, which is at {one_line(said)[:200]}")
                    if message["kind"] == "again":  # node 0 goes on to its next stage
                        known = False
                        link.close()
                if link.silent():
                    raise self.stranger()
                self.watched()
                self.pulse()
            self.links, link.node = [], 0
            if known:
                raise self.lost(link)
            time.sleep(0.1)

    def introduce(self, link):
        """Answer node 0's question and say hello, as soon as the file that it names can be read here."""
        question = None
        while link.open:
            for message in self.messages(link):
                question = message if message["kind"] == "question" else question
            try:
                found = answer(question) if question else None
            except ValueError:
                raise self.stranger() from None
            if found:
                self.unseen = None
                link.write(found)
                return link.send("hello", **self.offer)
            if question and not self.unseen:
                self.unseen = time.monotonic(), question["file"]
            if link.silent():
                raise self.stranger()
            self.watched()

    def stranger(self):
        return Ended(1, f"{self.master} answers, but not as node 0 does")

    def messages(self, link):
        """What came over `link` within a tenth of a second; another node's end is raised."""
        if not select.select([link], [], [], 0.1)[0]:
            return []
        try:
            messages = link.receive()
        except ValueError:
            raise self.stranger() from None
        for message in messages:
            if message["end"]:
                raise message["end"]
        return messages

    # --------------------------------------------------------------------------------------------------- being there

    def pulse(self):
        if time.monotonic() - self.beat > SIGN_OF_LIFE:
            self.beat = time.monotonic()
            for link in self.links:
                link.send("alive")

    def poll(self):
        """Hear the others for a tenth of a second. Raises Ended when one has failed or is lost."""
        self.pulse()
        ready = select.select([*self.links, *(self.door.waiting() if self.door else [])], [], [], 0.1)[0]
        heard = [(link, None) for link in self.links if link in ready]
        if self.door:
            heard += [(link, rest) for link, (hello, *rest) in self.door.admit(ready) if self.welcome(link, hello)]
        for link, messages in heard:
            with contextlib.suppress(ValueError):
                messages = link.receive() if messages is None else messages
            for message in messages or ():
                if message["end"]:
                    link.ended = True
                    raise message["end"]
                if message["kind"] == "done":
                    self.done.add(link.node)
                if message["kind"] == "finished" and self.me:
                    self.done.update(range(self.count))
        if len(self.done) < self.count:
            for link in self.links:
                if not link.open or link.silent():
                    raise self.lost(link)

    def lost(self, link):
        why = f"no sign of life for {SILENCE} s" if link.open else "it was killed, or its machine went down"
        log = re.sub(r"\d+$", str(link.node), self.log)  # .../train.fold1.node0
        return Ended(1, f"node {link.node} lost: {why}; its log: {log}", when=time.time() - EARLIER)

    def welcome(self, link, hello):
        """Let a node in if it comes with the same job; whether it is in."""
        link.node = hello["node"]
        if self.watched.alone:
            link.send("busy", step=self.step)
            self.links.append(link)
            return True
        wrong = self.mismatch(hello)
        if wrong and self.met:  # this run goes on without it
            link.send("ended", **wrong.to_message())
            self.refused.append(link)  # closed here, it might not hear why
            return False
        self.links.append(link)
        if wrong:
            raise wrong
        return True

    def mismatch(self, hello):
        """Ended if the node that says hello was not started as this one was, or None."""
        if hello["node"] in [0, *(link.node for link in self.links)]:
            return Ended(2, f"run.sh: error: --node-rank {hello['node']}: two machines have this number", mistake=True)
        for key, text in (("nodes", "--nnodes"), ("job", "stage and fold"), ("command", "commands")):
            if hello.get(key) != self.offer[key]:
                theirs, ours = differing(hello.get(key), self.offer[key])
                text += f": '{ours}' on node 0, '{theirs}' on node {hello['node']}"
                return Ended(2, f"run.sh: error: start all nodes with the same options, not {text}", mistake=True)
        if hello["node"] >= self.count:
            of = f"of {self.count} machines the last has number {self.count - 1}"
            return Ended(2, f"run.sh: error: --node-rank {hello['node']}: {of}", mistake=True)
        return None

    # -------------------------------------------------------------------------------------------------------- ending

    def finish(self):
        """Return when all nodes have done their part."""
        if self.watched.alone:
            self.close()
            for link in self.links:
                link.send("again")
            return
        self.done.add(self.me)
        if self.me:
            self.links[0].send("done")
        while len(self.done) < self.count:
            self.watched()
            self.poll()
        self.close()  # before the others go on to the next launch
        for link in self.links:
            link.send("finished")

    def end(self, ended):
        """Tell the others that it ended here, or elsewhere, and agree on what came first."""
        causes = [ended]
        if self.me and ended.decided:
            return ended
        if self.me:
            for link in self.links:
                link.send("ended", **ended.to_message())
        end = time.monotonic() + (3 * PATIENCE if self.me else PATIENCE)
        while not self.watched.signal and time.monotonic() < end and any(link.open for link in self.links):
            for link in select.select([link for link in self.links if link.open], [], [], 0.1)[0]:
                with contextlib.suppress(ValueError):
                    for message in link.receive():
                        if message["end"]:
                            causes.append(message["end"])
                            link.ended = True
                            if self.me:
                                return causes[-1]  # node 0 has decided
                if not link.open and not link.ended and link.node is not None:
                    causes.append(self.lost(link))
        first = min(causes, key=lambda cause: cause.when)
        if not self.me:
            for link in self.links:
                link.send("ended", **first.to_message())
        return first

    def close(self):
        if self.door:
            self.door.close()
            self.door = None


def resolve(host):
    """The IPv4 address of a host name; Paddle takes no other."""
    try:
        return socket.gethostbyname(host)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"--master {host}: no IPv4 address for this name on this machine ({why})") from None


def local(address):
    """The address by which Paddle knows this machine: of the loopback it takes 127.0.0.1 alone."""
    return "127.0.0.1" if address.startswith("127.") else address


def is_endpoint(value):
    return type(value) is str and re.fullmatch(r"[0-9.]{7,15}:[0-9]{1,5}", value) is not None


def differing(one, other):
    """The parts of two commands that differ."""
    if not (isinstance(one, list) and isinstance(other, list)):
        return str(one)[:200], str(other)[:200]
    same = set(map(str, one)) & set(map(str, other))
    return tuple(" ".join(str(word) for word in words if str(word) not in same)[:200] for words in (one, other))


def interface(address):
    """The network interface that has this address, or None."""
    for _, name in socket.if_nameindex():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            found = fcntl.ioctl(probe, 0x8915, name.encode().ljust(256, b"\0"))  # SIOCGIFADDR
            if socket.inet_ntoa(found[20:24]) == address:
                return name
    return None


def say(text):
    print(f"run.sh: {text}", flush=True)


class Watched:
    """The command on this node. Calling it raises Ended if it has failed, or if this node is to end."""

    def __init__(self, args):
        self.log, self.alone, self.step, self.parent = Path(args.log), args.alone, args.step, os.getppid()
        self.where = f"node {args.node}, " if args.nodes > 1 else ""
        self.process = self.output = self.signal = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self.on_signal)

    def on_signal(self, number, frame):
        self.signal = number

    def start(self, command, env):
        if self.alone:
            self.process = subprocess.Popen(command, preexec_fn=die_with_parent)
            return
        self.output = open(self.log / "workerlog.0", "rb")
        with open(self.log / "launcher.log", "wb") as chatter:  # a session of its own: this process alone ends it
            kinds = {"stdout": chatter, "stderr": subprocess.STDOUT, "start_new_session": True}
            self.process = subprocess.Popen(command, env=env, preexec_fn=die_with_parent, **kinds)

    def __call__(self):
        if self.signal:
            name = signal.Signals(self.signal).name
            raise Ended(128 + self.signal, f"{self.where}run.sh was interrupted ({name})")
        if os.getppid() != self.parent:
            raise Ended(137, f"{self.where}run.sh was killed", when=time.time() - EARLIER)
        self.show()
        if self.process and (self.failed() or self.process.poll()):
            raise self.ended()

    def running(self):
        return self.process.poll() is None

    def show(self):
        if self.output:
            try:
                sys.stdout.buffer.write(self.output.read())
                sys.stdout.flush()
            except BrokenPipeError:  # nobody reads any more
                self.output = None

    def failed(self):
        """rank, local rank and status of the worker that failed first, and when (see distributed.py); or None."""
        with contextlib.suppress(OSError):
            fields = (self.log / "failed").read_text().split()
            if len(fields) == 4:  # it is being written
                return (*map(int, fields[:3]), float(fields[3]))
        return None

    def ended(self):
        """What to say of a worker or launcher that failed."""
        status, when, log = self.process.poll(), None, self.log / "launcher.log"
        found = self.failed()
        if found:
            rank, worker, status, when = found
            log = self.log / f"workerlog.{worker}"
        elif status < 0:
            status, when = 128 - status, time.time() - EARLIER
        if self.alone:
            return Ended(status, f"{self.where}{self.step}, exit status {status}")
        lines = [line.rstrip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if status == 2 and found:
            lines = [line for line in lines if ": error: " in line] or [f"see {log}"]
            return Ended(2, lines[-1], when=when, mistake=True)
        errors = [line for line in lines if re.match(r"[A-Za-z_.]*(Error|Exception|Interrupt)\b", line)]
        line = (errors or lines or ["it says nothing"])[-1]
        if status > 128:
            line = f"ended by signal {status - 128}" + " (out of memory?)" * (status == 137)
        who = f"rank {rank}" if found else "Paddle's launcher"
        tail = [f"{who} | {line[:300]}" for line in lines[-LINES:]]
        return Ended(status, f"{self.where}{who}, exit status {status}: {line[:500]}; log: {log}", tail, when)

    def stop(self):
        """End the launcher and its workers, which die with it."""
        if self.process and self.running():
            for number, seconds in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.send_signal(number)
                    self.process.wait(seconds)
                    break
        if self.output:
            self.show()
            for pattern in ("envlog.*", "backup_env.*", "*." + "[a-z]" * 6 + ".log"):  # copies of the environment
                for path in self.log.glob(pattern):
                    path.unlink(missing_ok=True)

    def shown(self, line):
        """Whether rank 0's output on this node had this line."""
        return self.output and line.encode() in (self.log / "workerlog.0").read_bytes().splitlines()


def work(args, watched, nodes):
    """Run the command to its end, and that of the other nodes."""
    command, env = list(args.command), dict(os.environ)
    if args.nodes > 1 and not args.alone:
        address, endpoint = nodes.meet()
        at = command.index("--master")
        command[at : at + 2] = ["--master", endpoint, "--host", address]
        env["NO_PROXY"] = env["no_proxy"] = "*"  # Paddle's launchers meet over HTTP
        if "GLOO_SOCKET_IFNAME" not in env and interface(address):
            env["GLOO_SOCKET_IFNAME"] = interface(address)  # else gloo takes what the host's name resolves to
    watched.start(command, env)
    while watched.running():
        watched()
        nodes.poll()
    watched()
    nodes.finish()


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step", required=True, help="what this is, for messages")
    parser.add_argument("--job", required=True, help="the name under which nodes meet")
    parser.add_argument("--log", required=True, help="folder of the logs")
    parser.add_argument("--alone", action="store_true", help="COMMAND is no launcher: the other nodes wait for it")
    parser.add_argument("--node", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--master", help="HOST:PORT of node 0")
    parser.add_argument("--node_wait", type=int, default=600, help="seconds that a node waits for the others")
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    args = parser.parse_args(arguments)
    watched, nodes = Watched(args), Nobody()
    try:
        if args.nodes > 1:
            nodes = Nodes(args, watched)
        work(args, watched, nodes)
        watched.stop()
        sys.exit(0)
    except UserError as error:
        ended = Ended(2, f"run.sh: error: {error}", mistake=True)
    except Ended as error:
        ended = error
    ended = nodes.end(ended)
    nodes.close()
    watched.stop()
    report(args, watched, ended)
    sys.exit(ended.status)


def report(args, watched, ended):
    """Print why it ended, and leave it in the log's folder: utils/recipe.sh then knows that it has been said."""
    if watched.signal or (args.alone and watched.process and watched.process.poll()):
        return
    line = ended.cause if ended.mistake else f"run.sh: {args.step} failed ({ended.cause})"
    if not (ended.mistake and watched.shown(line)):
        log = [] if ended.log and watched.shown(ended.log[-1].partition(" | ")[2]) else ended.log
        print(*log, line, sep="\n", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        (watched.log / "cause").write_text(line + "\n")


if __name__ == "__main__":
    main()
