"""Why a launch ended: what one watcher finds out, tells the watchers of the other nodes, and prints."""

import time
from collections.abc import Iterable
from typing import Any

EARLIER = 2  # seconds: a node or launcher that is killed is noticed after what its end makes the others say
LOG_LINES = 12  # of a failed worker's log


class LaunchFailed(Exception):
    """The launch is to end. Its attributes, but for `when`, travel to the other nodes as they are.

    status: the exit status for run.sh, 1 .. 255. cause: one line. log: the last lines of the failed worker's log.
    when: the time of the failure, in seconds since 1970, now if None. mistake: whether the user can mend it; `cause` is
    then all that is printed. decided: whether another node has told it; what node 0 tells is final.
    """

    def __init__(
        self, status: int, cause: str, log: Iterable[str] = (), when: float | None = None, mistake: bool = False
    ) -> None:
        super().__init__(cause)
        self.status, self.cause, self.log, self.mistake = status, cause, list(log), mistake
        self.when, self.decided = time.time() if when is None else when, False

    def to_message(self) -> dict[str, Any]:
        """The content of a message that tells it. Clocks of two machines differ: it says how long ago it was."""
        return {**vars(self), "when": None, "ago": time.time() - self.when}

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> "LaunchFailed":
        """What `to_message` has made on another node. ValueError for a message that is not of this form."""
        status, cause, log, mistake, ago = (message.get(key) for key in ("status", "cause", "log", "mistake", "ago"))
        if type(status) is not int or not 0 < status < 256 or type(mistake) is not bool:
            raise ValueError("not a message")
        if type(cause) is not str or type(log) is not list or any(type(line) is not str for line in log):
            raise ValueError("not a message")
        if not isinstance(ago, int | float) or isinstance(ago, bool) or not abs(ago) < 1e6:
            raise ValueError("not a message")
        failure = cls(status, cause[:2000], [line[:500] for line in log[:LOG_LINES]], time.time() - ago, mistake)
        failure.decided = True
        return failure
