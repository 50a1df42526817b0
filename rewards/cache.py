"""Verdicts already given: the completions of a group often repeat an answer."""

import hashlib
import threading
from collections import OrderedDict

from rlvr.rewards.verdict import Outcome, Verdict

CAPACITY = 50_000  # verdicts, about 200 bytes each
# a timeout or a crash may be the machine's doing: asked again, it may go better
_LASTING = {
    Outcome.CORRECT,
    Outcome.WRONG,
    Outcome.PARTIAL,
    Outcome.UNPARSABLE,
    Outcome.SKIPPED,
}


class VerdictCache:
    """Verdicts by request, least recently used ones dropped first."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._verdicts: OrderedDict[bytes, Verdict] = OrderedDict()
        self._capacity = capacity
        self._lock = threading.Lock()

    def get(self, request: bytes) -> Verdict | None:
        """Return the verdict that an equal request got, or None."""
        key = _key(request)
        with self._lock:
            verdict = self._verdicts.get(key)
            if verdict is not None:
                self._verdicts.move_to_end(key)
        return verdict

    def put(self, request: bytes, verdict: Verdict) -> None:
        """Keep a verdict that would come out the same again."""
        if verdict.outcome not in _LASTING:
            return
        with self._lock:
            self._verdicts[_key(request)] = verdict
            while len(self._verdicts) > self._capacity:
                self._verdicts.popitem(last=False)


def _key(request: bytes) -> bytes:
    return hashlib.blake2b(request, digest_size=16).digest()
