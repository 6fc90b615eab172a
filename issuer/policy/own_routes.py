"""Portero's own routes: what it answers itself, for whom a role's classes allow it.

No choice of a deployment. Which of them are of the LLM server instead (`WEB_UI=upstream`) is told
by the compiler; it must never list what is open to everybody, as logins are.
"""

FILE = "issuer/policy/own_routes.py"
#: The class of what everybody may ask about themselves: every role has it, and no file names it.
ACCOUNT = "account"

OWN_ROUTES = {
    "page": ("GET / model=none",),
    # Asked by clients that only want to know whether somebody is there.
    "health": ("HEAD / model=none",),
    "metrics": ("GET /metrics model=none",),
    ACCOUNT: (
        "GET /account model=none",
        "GET /account/keys model=none",
        "POST /account/keys model=none",
        "POST /account/keys/{id} model=none",
        "DELETE /account/keys/{id} model=none",
        "GET /account/usage model=none",
    ),
    "console": (
        "GET /admin/ model=none",
        "GET /admin/sessions model=none",
        "GET /admin/users model=none",
        "GET /admin/keys model=none",
        "GET /admin/servers model=none",
        "GET /admin/usage model=none",
        "GET /admin/audit model=none",
        "GET /admin/policy model=none",
        "POST /admin/sessions model=none",
        "POST /admin/users model=none",
        "POST /admin/keys model=none",
        "POST /admin/policy model=none",
        "POST /admin/servers model=none",
        "GET /admin/api/sessions model=none",
        "DELETE /admin/api/sessions/{jti} model=none",
        "GET /admin/api/users model=none",
        "DELETE /admin/api/users/{name}/sessions model=none",
        "GET /admin/api/users/{name}/keys model=none",
        "POST /admin/api/users/{name}/keys model=none",
        "GET /admin/api/keys model=none",
        "DELETE /admin/api/keys/{id} model=none",
        "GET /admin/api/servers model=none",
        "POST /admin/api/servers/{name}/take-out model=none",
        "POST /admin/api/servers/{name}/put-back model=none",
        "GET /admin/api/usage model=none",
        "GET /admin/api/audit model=none",
    ),
}
