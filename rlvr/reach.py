"""Loading from the Hugging Face hub without waiting for one that is not there."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

SECONDS = 5.0

logger = logging.getLogger(__name__)


@contextmanager
def cache_if_unreachable(path: str) -> Iterator[None]:
    """Load `path` inside: from a folder, the hub, or, where the hub gives no sign of life, its cache only.

    The hub's library would ask for each file again and again, for half a minute.

    Args:
        path: Folder or hub id.
    """
    from huggingface_hub import constants

    if Path(path).exists() or constants.HF_HUB_OFFLINE or _is_reachable(constants.ENDPOINT):
        yield
        return
    import datasets

    kept = datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False
        datasets.config.HF_HUB_OFFLINE = kept


@cache
def _is_reachable(endpoint: str) -> bool:
    from huggingface_hub.errors import HTTPError
    from huggingface_hub.utils import get_session

    try:
        get_session().head(endpoint, timeout=SECONDS)
    except (HTTPError, OSError):
        logger.warning(
            "%s cannot be reached: only what is in the cache is found. Where there is no network, HF_HUB_OFFLINE=1 "
            "saves this look",
            endpoint,
        )
        return False
    return True
