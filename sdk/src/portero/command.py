"""The command `portero`: log in, print a live token for programs that run a command for one, ask.

Secrets come by prompt, standard input, variable or file, never as an argument, where every user of
the machine would see them. It prints no token but where it is asked for one.
"""

import argparse
import getpass
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NoReturn

from portero import doctor
from portero.client import Portero
from portero.configuration import SECRET_FILE, VARIABLES, Configuration
from portero.errors import LoginError, NotFound, PorteroError
from portero.exit_status import BROKEN_OFF, DONE, UNAVAILABLE, USAGE, status_of
from portero.kept_login import KeptLogin, KeptToken, Store, TokenFile, state_folder
from portero.login import UNAUTHORIZED, Login, role_in
from portero.token_source import TokenSource


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; its exit status: 0 done, 1 refused, 2 usage, 3 unavailable.

    >>> main(["models"])
    tiny
    0
    """
    asked = parser().parse_args(words)
    try:
        return int(asked.run(Session(os.environ), asked) or DONE)
    except PorteroError as error:
        print(f"portero: {error}", file=sys.stderr)
        return status_of(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (KeyboardInterrupt, EOFError):  # a prompt's Ctrl-C, Ctrl-D
        return BROKEN_OFF


class Session:
    """The environment and the kept files of one run."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.store = Store(state_folder(environ))
        self.kept = self.store.login()

    def place(self, reads_secret: bool = True) -> Configuration:
        """What the environment says, and else what was kept: who asks where, and the secret if one
        is at hand, as there may be a token already. Raises `ConfigurationError` for all that is
        faulty, and falls back to nothing.
        """
        environ = self.kept.environment(self.environ)
        if not reads_secret:
            environ.pop(SECRET_FILE, None)
        read = Configuration.read(environ=environ, needs_secret=False)
        return replace(read, login=self.kept.login) if self.is_kept(read) else read

    def told(self, name: str) -> str:
        """What the environment says of a value; empty where it says nothing."""
        return next((self.environ[key] for key in VARIABLES[name] if self.environ.get(key)), "")

    def is_kept(self, place: Configuration) -> bool:
        """Whether this is whose login is kept."""
        return self.kept.is_for(place.url) and place.username == self.kept.username

    def live_token(self, renew: bool = False) -> tuple[Configuration, str]:
        """A token that the gateway takes, from the shared file or by a login."""
        place = self.place()
        if place.api_key:
            return place, place.api_key
        with self.store.token(place.url, place.username) as file:
            kept = None if renew else _good(file, place)
            if kept is None:
                kept = fetched(place)
                file.write(kept)
            return place, kept.token

    def examined(self, place: Configuration) -> TokenSource | None:
        """What a doctor asks with: an API key, a login of its own that ends with it, or else a kept
        token, which outlives it.
        """
        if place.secret:
            return _source(place)
        with self.store.token(place.url, place.username) as file:
            kept = file.read()
        token = place.api_key or (kept.token if kept and kept.seconds_left else "")
        return _source_of(place, token) if token else None

    def client(self) -> Portero:
        """A client with that token. It does not log out."""
        return Portero(_source_of(*self.live_token()))


def fetched(place: Configuration) -> KeptToken:
    """A token by a login. Raises `LoginError`."""
    if not place.secret:
        raise LoginError(doctor.ENDED.format(place.username, place.url))
    source = _source(place)
    token, current = source.token(), source.current
    life = current.seconds_left if current else 0.0
    return KeptToken.new(token, current.role if current else "", life)


def _source(place: Configuration) -> TokenSource:
    return TokenSource(
        place.url,
        place.username,
        place.secret,
        login=place.login or None,
        ca_bundle=place.ca_bundle or None,
    )


def _source_of(place: Configuration, token: str) -> TokenSource:
    """Of a token that is there: it neither logs in nor out."""
    return TokenSource(place.url, api_key=token, ca_bundle=place.ca_bundle or None)


def _good(file: TokenFile, place: Configuration) -> KeptToken | None:
    """The kept token where it may be used still: young enough, and not revoked meanwhile."""
    kept = file.read()
    if kept is None or not (kept.is_young or (kept.seconds_left and not place.secret)):
        return None
    if kept.was_just_good:
        return kept
    refusal = Login(place).refusal(kept.token)
    if refusal is not None and refusal.status == UNAUTHORIZED:
        file.forget()
        return None
    file.write(kept.checked())
    return kept


# The verbs.


def login(session: Session, asked: argparse.Namespace) -> int:
    """Ask for what is missing, try it, and keep it."""
    url = asked.url or session.told("url") or session.kept.url or _ask("Portero's URL")
    ca_bundle = asked.ca_bundle or session.told("ca_bundle")
    if not ca_bundle and session.kept.is_for(url):
        ca_bundle = session.kept.ca_bundle
    wanted = KeptLogin(url, login=asked.login or "", ca_bundle=_whole(ca_bundle))
    if asked.api_key:
        return _keep_key(session, wanted)
    return _keep_login(session, asked, wanted)


def _keep_key(session: Session, wanted: KeptLogin) -> int:
    key = session.told("api_key") or _ask_secret("API key")
    place = Configuration.read(wanted.url, api_key=key, ca_bundle=wanted.ca_bundle, environ={})
    refusal = Login(place).refusal(key)
    if refusal is not None and refusal.status == UNAUTHORIZED:
        raise LoginError("The API key is not good there: it may be mistyped, ended or revoked.")
    if refusal is not None:
        raise refusal
    session.store.keep_login(replace(wanted, url=place.url, api_key=place.api_key))
    print(f"The API key is good at {place.url}.")
    return DONE


def _keep_login(session: Session, asked: argparse.Namespace, wanted: KeptLogin) -> int:
    username = asked.username or session.told("username") or _ask("Username")
    file = asked.secret_file
    secret = None if file else session.told("secret")
    if not secret:
        file = file or session.environ.get(SECRET_FILE)
    place = Configuration.read(
        wanted.url,
        username,
        secret or (None if file else _ask_secret("Secret")),
        login=wanted.login,
        ca_bundle=wanted.ca_bundle,
        environ={SECRET_FILE: file} if file else {},
    )
    kept = fetched(place)
    with session.store.token(place.url, place.username) as tokens:
        tokens.write(kept)
    session.store.keep_login(
        replace(wanted, url=place.url, username=username, secret_file=_whole(file))
    )
    print(f"{username} is logged in at {place.url}; the token lives {kept.seconds_left:.0f} s.")
    return DONE


def _whole(path: str | None) -> str:
    """A path that means the same from every folder."""
    return os.path.abspath(path) if path else ""


def _ask(what: str) -> str:
    print(f"{what}: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def _ask_secret(what: str) -> str:
    """Not shown at a terminal; else a line of standard input."""
    if sys.stdin.isatty():
        return getpass.getpass(f"{what}: ")
    return sys.stdin.readline().rstrip("\r\n")


def token(session: Session, asked: argparse.Namespace) -> None:
    """A live token, for programs that run a command for one."""
    print(session.live_token(asked.renew)[1])


def whoami(session: Session, asked: argparse.Namespace) -> None:
    """Who the gateway takes the caller for."""
    place, live = session.live_token()
    with session.client() as client:
        try:
            _print_json(client.account().json)
        except NotFound:
            _print_json({"subject": place.username, "role": role_in(live)})


def models(session: Session, asked: argparse.Namespace) -> None:
    """The models that the caller may use, one a line."""
    with session.client() as client:
        for name in client.models().names:
            print(name)


def chat(session: Session, asked: argparse.Namespace) -> None:
    """One answer, as it comes."""
    text = " ".join(asked.text) or sys.stdin.read()
    with session.client() as client, client.stream_chat(asked.model, text) as stream:
        try:
            for piece in stream:
                print(piece, end="", flush=True)
        finally:
            print()


def usage(session: Session, asked: argparse.Namespace) -> None:
    """What the caller used."""
    with session.client() as client:
        _print_json(client.usage(asked.first_day, asked.last_day, asked.by).json)


def list_keys(session: Session, asked: argparse.Namespace) -> None:
    """The caller's API keys."""
    with session.client() as client:
        _print_json(client.keys().rows)


def create_key(session: Session, asked: argparse.Namespace) -> None:
    """A new API key, shown this once."""
    with session.client() as client:
        print(client.create_key(asked.name, asked.days, asked.model).key)


def revoke_key(session: Session, asked: argparse.Namespace) -> None:
    """End an API key."""
    with session.client() as client:
        client.revoke_key(asked.id)


def logout(session: Session, asked: argparse.Namespace) -> int:
    """Revoke the kept token, and forget the login."""
    place = session.place(reads_secret=False)
    if session.is_kept(place):
        session.store.forget_login()
    with session.store.token(place.url, place.username) as file:
        kept = file.read()
        file.forget()
    if kept is None or not kept.seconds_left or Login(place).revoke(kept.token):
        return DONE
    print("portero: the token could not be revoked; it ends by itself.", file=sys.stderr)
    return UNAVAILABLE


def examine(session: Session, asked: argparse.Namespace) -> int:
    """Look at all that may be wrong, and say what to do."""
    place = session.place()
    status = DONE
    with session.examined(place) or nullcontext() as source:
        for finding in doctor.examine(place, source):
            print(f"{'ok ' if not finding.status else 'NO '} {finding.what}: {finding.found}")
            if finding.advice:
                print(f"    {finding.advice}")
            status = status or finding.status
    return status


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2, ensure_ascii=False))


# The words.


class _Parser(argparse.ArgumentParser):
    """No abbreviations: a word that is new must not change what a script meant."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"portero: {message}\n{self.format_usage()}")


def parser() -> argparse.ArgumentParser:
    """The command's words.

    >>> parser().parse_args(["chat", "tiny", "Hello"]).model
    'tiny'
    """
    whole = _Parser(
        prog="portero",
        description="Log in at a Portero, and ask its LLM servers.",
        epilog="exit status: 0 done, 1 refused, 2 usage, 3 unavailable",
    )
    verbs = whole.add_subparsers(required=True, metavar="VERB")
    one = _verb(verbs, "login", login)
    one.add_argument("--url")
    one.add_argument("--username")
    one.add_argument("--secret-file", help="a file that holds the secret; its path is kept")
    one.add_argument("--api-key", action="store_true", help="ask for an API key instead")
    one.add_argument("--login", help="the login endpoint of a role that is not Portero's own")
    one.add_argument("--ca-bundle", help="PEM file of the certificates to trust")
    one = _verb(verbs, "token", token)
    one.add_argument("--renew", action="store_true", help="log in, whatever is kept")
    _verb(verbs, "whoami", whoami)
    _verb(verbs, "models", models)
    one = _verb(verbs, "chat", chat)
    one.add_argument("model", metavar="MODEL")
    one.add_argument("text", metavar="TEXT", nargs="*", help="without one: standard input")
    one = _verb(verbs, "usage", usage)
    one.add_argument("--from", dest="first_day", metavar="DAY", help="a UTC date: 2026-11-25")
    one.add_argument("--to", dest="last_day", metavar="DAY")
    one.add_argument("--by", metavar="COLUMNS", help="of user,model,day")
    _add_keys(
        verbs.add_parser("keys", help="API keys").add_subparsers(required=True, metavar="VERB")
    )
    _verb(verbs, "logout", logout)
    _verb(verbs, "doctor", examine)
    return whole


def _add_keys(verbs: Any) -> None:
    _verb(verbs, "list", list_keys)
    one = _verb(verbs, "create", create_key)
    one.add_argument("name", metavar="NAME")
    one.add_argument("--days", type=int, default=30)
    one.add_argument("--model", action="append", help="narrow it to this model; again for more")
    _verb(verbs, "revoke", revoke_key).add_argument("id", metavar="ID")


def _verb(
    verbs: Any, name: str, run: Callable[[Session, argparse.Namespace], int | None]
) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = verbs.add_parser(name, help=(run.__doc__ or "").split("\n")[0])
    made.set_defaults(run=run)
    return made


if __name__ == "__main__":
    sys.exit(main())
