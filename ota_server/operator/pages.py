"""What pages are made of, and the few that there are to log in and out."""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import attrs

from ota_server.operator.calls import Problem
from ota_server.operator.sessions import LONGEST, Session, Sessions, is_own, make_cookie, matches
from ota_server.operator.tokens import Token

HTML = "text/html; charset=utf-8"

MAX_FORM = 8192
"""The largest form, in bytes."""


@attrs.frozen
class Visit:
    """One request for a page. `headers` are by names in lower case, `form` is empty but for POST."""

    headers: Mapping[str, str] = attrs.field(repr=False)
    form: Mapping[str, str] = attrs.field(repr=False)
    session: Session | None
    cookie: str
    """The name of the session's cookie."""
    secure: bool
    now: float


@attrs.frozen
class Page:
    """What is answered to a visit."""

    body: str = ""
    status: int = 200
    media: str = HTML
    fields: Sequence[tuple[str, str]] = ()


class TokenTrier(Protocol):
    """Takes a token that somebody typed, and lets those wait that try many."""

    def __call__(self, brought: bytes) -> Awaitable[Token]:
        """Return the token. Raises Problem, after a while, where it is none."""


Visitor = Callable[[Visit, TokenTrier], Awaitable[Page]]


def lead_to(address: str, *fields: tuple[str, str]) -> Page:
    """Lead the browser to another page (RFC 9110, section 15.4.4)."""
    return Page(status=303, fields=(("Location", address), *fields))


_STYLE = """\
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif }
body { max-width: 34rem; margin: 4rem auto; padding: 0 1rem }
label, input { display: block; width: 100%; box-sizing: border-box; font: inherit }
input { padding: .5rem; margin: .25rem 0 1rem }
button { font: inherit; padding: .4rem 1.2rem }
[role=alert] { border-left: .25rem solid #c00; padding-left: .75rem }
"""

# The link of the first start has the token behind its #, which no browser sends to a server.
_SCRIPT = """\
"use strict";
const form = document.querySelector("form");
const token = new URLSearchParams(location.hash.slice(1)).get("token");
if (form && token) {
  history.replaceState(null, "", location.pathname);
  form.elements.namedItem("token").value = token;
  form.requestSubmit();
}
"""


def frame(title: str, content: str, script: str = "") -> str:
    """Return a whole page."""
    end = f'<script src="{script}"></script>\n' if script else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f'<title>{html.escape(title)}</title>\n<link rel="stylesheet" href="/login.css">\n'
        f"</head>\n<body>\n<main>\n<h1>{html.escape(title)}</h1>\n{content}</main>\n{end}</body>\n</html>\n"
    )


def _log_in_page(alert: str = "", status: int = 200) -> Page:
    said = f'<p role="alert">{html.escape(alert)}</p>\n' if alert else ""
    content = (
        f'{said}<form method="post" action="/login">\n<label for="token">Token</label>\n'
        '<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>\n'
        "<button>Log in</button>\n</form>\n"
        "<p>The server made a token at its first start: it is in the file <code>operator.token</code>, "
        "in the folder of what the server keeps.</p>\n"
    )
    return Page(frame("OTA Server", content, "/login.js"), status)


class LogIn:
    """The pages to log in and out, and the first one."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self.pages: Mapping[str, Mapping[str, Visitor]] = {
            "/": {"GET": self.home},
            "/login": {"GET": self.show, "POST": self.log_in},
            "/logout": {"POST": self.log_out},
            "/login.css": {"GET": self.style},
            "/login.js": {"GET": self.script},
            "/favicon.ico": {"GET": self.icon},
        }
        """What is answered, by path and method."""

    async def show(self, visit: Visit, try_token: TokenTrier) -> Page:
        """Ask for a token."""
        return _log_in_page()

    async def log_in(self, visit: Visit, try_token: TokenTrier) -> Page:
        """Begin a session where the token is right."""
        try:
            check_origin(visit.headers, secure=visit.secure)
        except Problem:
            return _log_in_page("Another site sent you here with this form; type the token yourself.", 403)
        try:
            token = await try_token(visit.form.get("token", "").strip().encode())
        except Problem as problem:
            # 401 would make the browser ask for a name and a password.
            status = 403 if problem.status == 401 else problem.status
            return _log_in_page(f"{problem.title}.", status)
        if visit.session is not None:
            self._sessions.end(visit.session)
        identity = self._sessions.begin(token, visit.now)
        cookie = make_cookie(visit.cookie, identity, secure=visit.secure, seconds=LONGEST)
        return lead_to("/", ("Set-Cookie", cookie))

    async def log_out(self, visit: Visit, try_token: TokenTrier) -> Page:
        """End the session."""
        # From another site the browser sends no cookie, and yet it would take to heart that it is to forget it.
        check_origin(visit.headers, secure=visit.secure)
        if visit.session is None:
            return lead_to("/login")
        brought = visit.form.get("csrf_token")
        check_session_write(visit.session, visit.headers, brought, secure=visit.secure)
        self._sessions.end(visit.session)
        return lead_to("/login", ("Set-Cookie", make_cookie(visit.cookie, "", secure=visit.secure, seconds=0)))

    async def home(self, visit: Visit, try_token: TokenTrier) -> Page:
        """Say who is logged in."""
        if visit.session is None:
            return lead_to("/login")
        token = visit.session.token
        scopes = html.escape(", ".join(sorted(token.scopes)))
        content = (
            f"<p>You are logged in with the token <strong>{html.escape(token.name)}</strong> ({scopes}).</p>\n"
            '<p><a href="/api/v1/openapi.json">The API</a></p>\n'
            '<form method="post" action="/logout">\n'
            f'<input type="hidden" name="csrf_token" value="{html.escape(visit.session.csrf)}">\n'
            "<button>Log out</button>\n</form>\n"
        )
        return Page(frame("OTA Server", content))

    async def style(self, visit: Visit, try_token: TokenTrier) -> Page:
        """Return the style sheet."""
        return Page(_STYLE, media="text/css; charset=utf-8")

    async def icon(self, visit: Visit, try_token: TokenTrier) -> Page:
        """Return no icon: browsers ask for one unasked."""
        return Page(status=204)

    async def script(self, visit: Visit, try_token: TokenTrier) -> Page:
        """Return the script that takes the token out of a link."""
        return Page(_SCRIPT, media="text/javascript; charset=utf-8")


def check_origin(headers: Mapping[str, str], *, secure: bool) -> None:
    """Check that it isn't another site that makes a browser write, where it tells that. Raises Problem.

    That matters even where a token is brought: a browser that was given one in an address goes on to send it.
    """
    if ("origin" in headers or "sec-fetch-site" in headers) and not is_own(headers, secure=secure):
        raise Problem(
            403, "foreign-origin", "Another site asked for that", "the browser doesn't tell that a page from here did"
        )


def check_session_write(session: Session, headers: Mapping[str, str], brought: str | None, *, secure: bool) -> None:
    """Check that it isn't another site that makes a browser write (CSRF). Raises Problem."""
    if not is_own(headers, secure=secure):
        raise Problem(
            403, "foreign-origin", "Another site asked for that", "the browser doesn't tell that a page from here did"
        )
    if not matches(session, brought):
        raise Problem(
            403,
            "wrong-csrf-token",
            "The CSRF token is missing or wrong",
            "bring that of GET /api/v1/session as X-CSRF-Token",
        )
