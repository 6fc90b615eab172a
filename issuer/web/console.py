"""The console's pages: what an admin looks at first when something is wrong, and mends it.

Registered on the admin blueprint, which has judged by then who asks. Each change is asked once, on
a page of its own that works without scripts, and the page behind it says what was done. It must
never show a secret but the one that was just made.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, g, jsonify, make_response, request

from issuer import metrics, usage
from issuer.api_keys import ApiKeys
from issuer.audit import EVENTS, Actor
from issuer.authority import Authority
from issuer.errors import Faults, Unacceptable
from issuer.people import People
from issuer.policy.explanation import Explainer
from issuer.store import Selection
from issuer.store.usage import Usage
from issuer.sync import servers_told
from issuer.sync.active_tokens import Revocation
from issuer.sync.gateways import Gateways
from issuer.sync.policy_in_force import PolicyInForce
from issuer.web import audit_question, caller, pages

#: Rows of a page.
SHOWN = 200
GIBIBYTE, DAY_SECONDS = 1024**3, 86_400
#: What a gateway tells of its streams.
STREAMS = "portero_streams_running"
#: Label of a page -> its path; the order is that of the links.
PAGES = {
    "console.overview": "/admin/",
    "console.sessions": "/admin/sessions",
    "console.users": "/admin/users",
    "console.keys": "/admin/keys",
    "console.servers": "/admin/servers",
    "console.usage": "/admin/usage",
    "console.audit": "/admin/audit",
    "console.policy": "/admin/policy",
}


@dataclass(frozen=True)
class House:
    """What the console looks at, beside the authority and the API keys."""

    people: People
    policy: PolicyInForce
    policy_file: Path
    gateways: Gateways
    used: Usage
    data_dir: Path


@dataclass(frozen=True)
class Figure:
    """A line of the overview: what a script finds it by, what it is about, and what it says."""

    name: str
    about: str
    says: str


def servers_of(house: House) -> list[dict[str, Any]]:
    """The LLM servers as each gateway sees them now."""
    return servers_told.rows(house.policy, partial(servers_told.told, house.gateways))


@dataclass(frozen=True)
class Done:
    """What a change has to say: a text, or a fault, and a secret that was made."""

    said: str = ""
    fault: str = ""
    secret: str = ""


@dataclass(frozen=True)
class Change:
    """A change that a form asks for: what is asked before, the button, how it is done, and whether
    a secret comes of it.
    """

    question: str
    button: str
    make: Callable[[str], Done]
    makes_secret: bool = False


def add_to(routes: Blueprint, authority: Authority, api_keys: ApiKeys, house: House) -> None:
    """All pages of the console."""
    view = _Pages(authority, api_keys, house)
    for path, page in view.shown.items():
        name = page.__name__
        routes.add_url_rule(path, f"{name} page", page)
    for path in view.changes:
        routes.add_url_rule(path, f"{path} change", view.change(path), methods=["POST"])
    routes.add_url_rule("/policy", "explain", view.explain, methods=["POST"])


class _Pages:
    """The views."""

    def __init__(self, authority: Authority, api_keys: ApiKeys, house: House) -> None:
        self._authority = authority
        self._api_keys = api_keys
        self._house = house
        self.shown: dict[str, Callable[..., Response]] = {
            "/": self.overview,
            "/sessions": self.sessions,
            "/users": self.users,
            "/keys": self.keys,
            "/servers": self.servers,
            "/usage": self.usage,
            "/audit": self.audit,
            "/policy": self.policy,
        }
        end = "console.revoke"
        self.changes: dict[str, dict[str, Change]] = {
            "/sessions": {
                "session": Change("console.sure_session", end, self._end(_session)),
                "user": Change("console.sure_user_sessions", end, self._end(_user)),
                "role": Change("console.sure_role_sessions", end, self._end(_role)),
                "all": Change("console.sure_all_sessions", end, self._end(_all)),
            },
            "/keys": {"key": Change("console.sure_key", end, self._end_key)},
            "/users": {
                "add": Change("console.sure_add", "console.add_user", self._add, True),
                "renew": Change("console.sure_renew", "console.new_secret", self._renew, True),
                "remove": Change("console.sure_remove", "console.remove", self._remove),
            },
            "/servers": {
                "out": Change("console.sure_out", "console.take_out", self._take_out),
                "back": Change("console.sure_back", "console.put_back", self._put_back),
            },
        }

    # What is shown

    def overview(self) -> Response:
        """How things stand; console.js asks for the same again and again, as JSON."""
        figures = [*self._of_issuer(), *self._of_gateways(), *self._of_servers()]
        if request.accept_mimetypes.best == "application/json":
            return make_response(jsonify(figures={one.name: one.says for one in figures}))
        return self._page(
            "overview",
            script="/static/console.js",
            figures=figures,
            faults=self._house.policy.faults(),
            has_servers=bool(self._house.policy.in_force().servers),
        )

    def _of_issuer(self) -> Iterator[Figure]:
        count = self._authority.active.store.count_active(self._authority.now())
        yield Figure("active", pages.text("console.active"), str(count))
        serial = str(self._house.policy.serial)
        yield Figure("policy", pages.text("console.policy_number"), serial)
        disk = shutil.disk_usage(self._house.data_dir)
        free, total = (f"{size / GIBIBYTE:,.1f}" for size in (disk.free, disk.total))
        says = pages.text("console.disk_free", free=free, total=total)
        yield Figure("disk", pages.text("console.disk"), says)

    def _of_gateways(self) -> Iterator[Figure]:
        each = [(one, one.metrics()) for one in self._house.gateways.each]
        streams = sum(told.get(STREAMS, 0) for _, told in each if told is not None)
        yield Figure("streams", pages.text("console.streams"), str(int(streams)))
        for place, (one, told) in enumerate(each):
            says = pages.text("console.no_answer" if told is None else "console.answers")
            yield Figure(f"gateway-{place}", f"{pages.text('console.gateway')} {one.url}", says)
            about = f"{pages.text('console.certificate')} {one.url}"
            yield Figure(f"certificate-{place}", about, _said_of_certificate(told))

    def _of_servers(self) -> Iterator[Figure]:
        for place, one in enumerate(servers_of(self._house)):
            says = pages.text_or(f"state.{one['state']}", one["state"])
            if out := one.get("taken_out"):
                by = pages.text("console.out_by", by=out["by"])
                says = f"{says}; {by} {pages.utc(out['since'])}"
            about = f"{pages.text('console.server')} {one['name']}"
            yield Figure(f"server-{place}", about, says)

    def sessions(self, done: Done = Done()) -> Response:
        """The newest active tokens, as far as the filter lets."""
        asked = request.args.get("filter", "").strip()
        now, store = self._authority.now(), self._authority.active.store
        return self._page(
            "sessions",
            done,
            rows=store.active(now, SHOWN, asked),
            count=store.count_active(now),
            filter=asked,
            roles=[role.name for role in self._authority.roles()],
        )

    def users(self, done: Done = Done()) -> Response:
        """Who has credentials."""
        asked = request.args.get("filter", "").strip()
        try:
            found = self._house.people.listed()
        except Faults as error:
            return self._page("users", Done(fault=str(error)), rows=[], filter=asked, codes=[])
        rows = [one for one in found if asked.lower() in " ".join(one).lower()]
        codes = [role.code for role in self._authority.roles()]
        return self._page("users", done, **_cut(rows), filter=asked, codes=codes)

    def keys(self, done: Done = Done()) -> Response:
        """Everybody's API keys."""
        asked = request.args.get("filter", "").strip()
        found = self._api_keys.listed(None, SHOWN, asked)
        rows = [one.shown_key_to_admins for one in found]
        # What a changed policy has ended since is no row, and may be in the count for a moment.
        count = self._api_keys.count(asked) if len(rows) >= SHOWN else len(rows)
        return self._page("keys", done, rows=rows, count=count, filter=asked)

    def servers(self, done: Done = Done()) -> Response:
        """The LLM servers, as each gateway sees them."""
        return self._page("servers", done, rows=servers_of(self._house))

    def usage(self) -> Response:
        """What was used, told apart by what is asked."""
        words = {name: value for name, value in request.args.items() if value}
        by = words.get("by", "user,model,day")
        try:
            asked = usage.question({**words, "by": by}, datetime.now(UTC).date())
        except Unacceptable as error:
            return self._page("usage", Done(fault=str(error)), rows=[], asked=None, by=by)
        rows, count = self._house.used.page(asked, SHOWN)
        return self._page("usage", rows=rows, count=count, asked=asked, by=by)

    def audit(self) -> Response:
        """Who did what, the newest first."""
        words = {name: value.strip() for name, value in request.args.items() if value.strip()}
        words["user"] = self._whose(words.pop("filter", ""))
        try:
            asked = audit_question.asked({name: one for name, one in words.items() if one})
        except Unacceptable as error:
            return self._page("audit", Done(fault=str(error)), rows=[], asked=None, events=EVENTS)
        page = audit_question.answered(self._authority, asked)
        return self._page("audit", rows=page.rows, asked=asked, events=EVENTS, older=page.next)

    def _whose(self, asked: str) -> str:
        """The user who is meant, by name or by the ID of a token or an API key."""
        session = self._authority.active.store.find(asked) if asked else None
        return session.subject if session else asked

    def policy(self, told: Mapping[str, Any] | None = None) -> Response:
        """The file, its faults, and the answer to a question."""
        try:
            text = self._house.policy_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            text = type(error).__name__
        return self._page(
            "policy",
            text=text,
            file=self._house.policy_file.name,
            faults=self._house.policy.faults(),
            serial=self._house.policy.serial,
            told=told,
            asked=request.form,
        )

    def explain(self) -> Response:
        """Whether a user may do something, and the rule and line that say so."""
        form = {name: value.strip() for name, value in request.form.items()}
        in_force = self._house.policy.in_force()
        known = servers_told.first(self._house.gateways) if in_force.servers else None
        answer = Explainer(in_force, known).explain(
            form.get("user", ""),
            form.get("method", "") or "POST",
            form.get("path", "") or "/",
            form.get("model") or None,
        )
        return self.policy(vars(answer))

    # What is changed

    def change(self, path: str) -> Callable[[], Response]:
        """The view that asks once, then does it and says so."""

        def asked() -> Response:
            known = self.changes[path]
            kind, which = request.form.get("what", ""), request.form.get("which", "").strip()
            change = known.get(kind)
            if change is None:
                raise Unacceptable("Nothing of that kind is done here.")
            if change.makes_secret:
                caller.refuse_narrowed(g.claims)
            if request.form.get("sure") != "yes":
                return self._sure(path, kind, which, change)
            return self.shown[path](self._made(change, which))

        return asked

    def _sure(self, path: str, kind: str, which: str, change: Change) -> Response:
        return self._page(
            "sure",
            path=f"/admin{path}",
            what=kind,
            which=which,
            question=pages.text(change.question, which=which),
            button=pages.text(change.button),
        )

    def _made(self, change: Change, which: str) -> Done:
        try:
            return change.make(which)
        except Faults as error:
            return Done(fault=str(error))

    def _end(self, chosen: Callable[[str], Selection]) -> Callable[[str], Done]:
        return lambda which: _revoked(self._authority.active.revoke(chosen(which), _actor()))

    def _end_key(self, which: str) -> Done:
        return _revoked(self._api_keys.revoke(which, _actor()))

    def _add(self, name: str) -> Done:
        secret = self._house.people.add(name, _actor())
        return Done(pages.text("console.added", which=name), secret=secret)

    def _renew(self, name: str) -> Done:
        secret, done = self._house.people.renew(name, _actor())
        return replace(_ended(done, "console.renewed", name), secret=secret)

    def _remove(self, name: str) -> Done:
        return _ended(self._house.people.remove(name, _actor()), "console.removed", name)

    def _take_out(self, name: str) -> Done:
        return _told("console.taken_out", name, self._house.policy.take_out(name, _actor()))

    def _put_back(self, name: str) -> Done:
        return _told("console.back_in", name, self._house.policy.put_back(name, _actor()))

    def _page(self, name: str, done: Done = Done(), **values: Any) -> Response:
        here = PAGES.get(f"console.{name}", "")
        return pages.page(
            f"console_{name}.html",
            pages.SCRIPTED_POLICY,
            400 if done.fault else 200,
            routes=g.claims.classes(self._authority.roles()),
            ways=PAGES,
            at=here,
            done=done,
            **values,
        )


def _actor() -> Actor:
    """Who does it, to the audit."""
    return caller.actor(g.claims)


def _session(which: str) -> Selection:
    return Selection(jti=which, api_keys=False)


def _user(which: str) -> Selection:
    return Selection(subject=which, api_keys=False)


def _role(which: str) -> Selection:
    return Selection(role=which, api_keys=False)


def _all(_: str) -> Selection:
    return Selection(api_keys=False)


def _revoked(done: Revocation) -> Done:
    """Of what is asked for as a revocation and nothing else, there must be something."""
    said = _ended(done, "console.ended")
    return said if done.sessions else Done(fault=pages.text("console.nothing_ended"))


def _ended(done: Revocation, label: str, which: str = "") -> Done:
    """How many, and whether every gateway knows."""
    metrics.REVOCATIONS.labels("admin").inc()
    name = f"{label}_pending" if done.pending else label
    return Done(pages.text(name, which=which, count=len(done.sessions)))


def _said_of_certificate(told: Mapping[str, float] | None) -> str:
    """When a gateway's certificate ends, by its metrics."""
    if told is None:
        return pages.text("console.no_answer")
    left = told.get("portero_tls_certificate_seconds_left")
    if left is None:
        return pages.text("console.no_certificate")
    name = "console.certificate_left" if left > 0 else "console.certificate_over"
    return pages.text(name, days=int(left // DAY_SECONDS))


def _told(text: str, which: str, pending: Sequence[str]) -> Done:
    """What was done, and whether every gateway knows."""
    return Done(pages.text(f"{text}_pending" if pending else text, which=which))


def _cut(rows: Sequence[Any]) -> dict[str, Any]:
    """As many as a page has, and how many there are: a page that shows fewer says so."""
    return {"rows": rows[:SHOWN], "count": len(rows)}
