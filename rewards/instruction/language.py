"""The language of a text, by langdetect, the detector of IFEval's reference.

Optional: pip install 'rlvr[instructions]'. The seed is fixed, so the same text always has the same
language; only the first 10,000 characters are read.
"""

import importlib.util
from functools import cache
from typing import Any

READ = 10_000  # characters; langdetect itself reads no more
_CODES = (
    "af ar bg bn ca cs cy da de el en es et fa fi fr gu he hi hr hu id it ja kn ko lt lv mk ml mr "
    "ne nl no pa pl pt ro ru sk sl so sq sv sw ta te th tl tr uk ur vi zh-cn zh-tw"
)
LANGUAGES = frozenset(_CODES.split())
"""Codes that langdetect can answer."""


def installed() -> bool:
    """Return whether the detector is there."""
    return importlib.util.find_spec("langdetect") is not None


def language_of(text: str) -> str | None:
    """Return the ISO 639-1 code of the text's language; None where it has no letters to go by."""
    from langdetect.lang_detect_exception import LangDetectException

    detector = _detectors().create()
    detector.append(text[:READ])
    try:
        return detector.detect()
    except LangDetectException:
        return None


@cache
def _detectors() -> Any:
    from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory

    factory = DetectorFactory()
    factory.load_profile(PROFILES_DIRECTORY)
    factory.seed = 0  # of this one: the package's own `detect` has a global seed
    return factory
