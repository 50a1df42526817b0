"""The language of a text, by langdetect, the detector of IFEval's reference.

Optional: pip install 'rlvr[instructions]'. The seed is fixed, so the same text always has the same
language; only the first 10,000 characters are read.
"""

import importlib.util

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
    from langdetect import detector_factory
    from langdetect.lang_detect_exception import LangDetectException

    detector_factory.init_factory()
    detector = detector_factory._factory.create()  # `detect` has no seed but a global one
    detector.seed = 0
    detector.append(text[:READ])
    try:
        return detector.detect()
    except LangDetectException:
        return None
