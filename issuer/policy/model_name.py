"""Names of models, and which of a list's entries allows one: the gateway's rules
(`portero/policy/model_name.lua`), in the issuer's language.

Pure. Where the LLM server is Ollama, or may be, several names of one model are one; else a name is
its characters.
"""

import re
import string
from collections.abc import Sequence

from issuer.policy.roles import ANY_MODEL

_HOST, _LIBRARY, _LATEST = "registry.ollama.ai/", "library/", ":latest"
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_ORDINARY = re.compile(r"[A-Za-z0-9._:/-]*\Z", re.ASCII)
#: Tags of models that do not run on this machine, or need not.
_ELSEWHERE = re.compile(r":(cloud|local|[^:/]*-cloud)\Z", re.ASCII)


def canonical(name: str, is_ollama: bool) -> str:
    """A name as Ollama would write it."""
    if not is_ollama:
        return name
    short = name.translate(_LOWER).removeprefix(_HOST).removeprefix(_LIBRARY)
    return short.removesuffix(_LATEST)


def allowed_by(patterns: Sequence[str], name: str, is_ollama: bool) -> str | None:
    """The entry of an allow-list that allows this name, or None."""
    if tuple(patterns) == ANY_MODEL:
        return ANY_MODEL[0]
    wanted = canonical(name, is_ollama)
    for pattern in patterns:
        if not pattern.endswith("*") and canonical(pattern, is_ollama) == wanted:
            return pattern
    if is_ollama and not _is_ordinary(wanted):
        return None
    return next((one for one in patterns if _is_start(one, wanted, is_ollama)), None)


def _is_ordinary(name: str) -> bool:
    """Whether a `*` may stand for it. Not: a digest, which may be of any model; one that leaves the
    machine; and what holds characters that no name has.
    """
    return _ORDINARY.match(name) is not None and _ELSEWHERE.search(name) is None


def _is_start(pattern: str, name: str, is_ollama: bool) -> bool:
    """A start that names the registry or the library means what is in there alone: names with so
    many slashes, once they are canonical.
    """
    if not pattern.endswith("*"):
        return False
    start = pattern[:-1]
    if not is_ollama:
        return name.startswith(start)
    start = start.translate(_LOWER)
    rest = start.removeprefix(_HOST)
    short = rest.removeprefix(_LIBRARY)
    if short != rest:
        return name.startswith(short) and "/" not in name
    return name.startswith(short) and (rest == start or name.count("/") <= 1)
