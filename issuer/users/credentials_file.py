"""The credentials file, edited in place: one user's line is added, changed or taken away.

Comments, order, line ends, mode and owner stay, and whoever reads the file meanwhile sees the text
before or the one after. A text that its reader would refuse is never written. It must never write
or tell a secret: what comes in is a hash.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from issuer import files
from issuer.errors import Faults
from issuer.policy.roles import Roles, is_subject
from issuer.users import credential_lines, credentials
from issuer.users.credential_lines import BYTE_ORDER_MARK

DEMO_LOGINS = "demo-logins"
Edit = Callable[[str], str]


# Texts.


def added(text: str, name: str, hashed: str) -> str:
    """With a line at the end for a new user. Raises `Faults`."""
    if _places(text, name):
        raise Faults([f"{name} is a user already; 'users passwd' changes the secret"])
    end = "\r\n" if "\r\n" in text else "\n"
    before = text if not text or text.endswith("\n") else text + end
    return f"{before}{name}={hashed}{end}"


def changed(text: str, name: str, hashed: str) -> str:
    """With another secret on the user's line. Raises `Faults`."""
    lines = text.split("\n")
    place = _place(text, name)
    end = "\r" if lines[place].endswith("\r") else ""
    lines[place] = f"{lines[place].partition('=')[0]}={hashed}{end}"
    return "\n".join(lines)


def removed(text: str, name: str) -> str:
    """Without the user's line. Raises `Faults`."""
    lines = [f"{line}\n" for line in text.split("\n")]
    lines[-1] = lines[-1].removesuffix("\n")
    gone = lines.pop(_place(text, name))
    # Which is of the file, not of its first line.
    mark = BYTE_ORDER_MARK if gone.startswith(BYTE_ORDER_MARK) else ""
    return mark + "".join(lines)


def listed(text: str, roles: Roles) -> Sequence[tuple[str, str, str]]:
    """Each user's name, role and kind of secret, in the order of the file. Raises `Faults` where
    its reader would.
    """
    _judge(text, roles)
    return [
        (line.username, role.name, "plain text" if line.cost is None else "hash")
        for line in credential_lines.read(text)
        if line.username and (role := roles.of(line.username))
    ]


def check_name(name: str, roles: Roles) -> None:
    """Raise `Faults` unless it may be a user's. What is none may be a secret, and is not told."""
    if not is_subject(name):
        raise Faults(["NAME is no username: a role's code and 1 to 60 of A-Z a-z 0-9 . _ -"])
    if roles.of(name) is None:
        codes = ", ".join(f"{role.code} ({role.name})" for role in roles)
        raise Faults([f"{name} begins with no role's code; there are {codes}"])


def _place(text: str, name: str) -> int:
    places = _places(text, name)
    if not places:
        raise Faults([f"there is no user {name}" if is_subject(name) else "there is no such user"])
    if len(places) > 1:
        numbers = " and ".join(str(place + 1) for place in places)
        raise Faults([f"{name} is there twice, in the lines {numbers}: take one away by hand"])
    return places[0]


def _places(text: str, name: str) -> list[int]:
    return [line.number - 1 for line in credential_lines.read(text) if line.username == name]


def _judge(text: str, roles: Roles) -> None:
    credentials.parse(text, roles, b"", lambda _: None)


# The file.


def read(path: Path) -> str:
    """Its text as it stands, line ends too. Raises `Faults`."""
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        reason = error.strerror
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        reason = f"it is not UTF-8 (line {line}); save it as UTF-8"
    raise Faults([f"credentials: cannot read {path}: {reason}"])


def edit(path: Path, roles: Roles, change: Edit) -> None:
    """Change the text, one process at a time. Raises `Faults`, and then nothing was changed."""
    target = path.resolve()
    try:
        with files.locked(target):
            new = change(read(target))
            _judge_new(new, roles)
            files.replace(target, new.encode(), target.stat())
    except OSError as error:
        raise Faults([f"nothing is changed: {path} cannot be written: {error.strerror}"]) from None


def _judge_new(text: str, roles: Roles) -> None:
    try:
        _judge(text, roles)
    except Faults as found:
        raise Faults(["nothing is changed, as the file would have faults", *found.faults]) from None


def forget_demo_login(path: Path, name: str) -> None:
    """Secrets of demo users stand beside the file that was made with them. One that is good no
    longer goes.
    """
    beside = path.resolve().with_name(DEMO_LOGINS)
    with suppress(Faults, OSError), files.locked(beside):
        files.replace(beside, removed(read(beside), name).encode(), beside.stat())
