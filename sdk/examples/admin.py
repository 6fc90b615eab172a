"""An admin lists who is logged in, and ends one user's tokens: they are dead when this returns.

python admin.py            # lists
python admin.py AGNRXYZ456 # revokes
"""

import sys

import portero


def show(client: portero.Portero) -> None:
    for session in client.request("GET", "/admin/api/sessions").json["sessions"]:
        print(f"{session['subject']} ({session['role']}) until {session['expires_at']}")


with portero.Portero() as client:
    show(client)
    for name in sys.argv[1:]:
        try:
            answer = client.request("DELETE", f"/admin/api/users/{name}/sessions")
        except portero.NotFound:
            print(f"{name} is not logged in")
            continue
        print(f"{name}: {len(answer.json['revoked'])} revoked")
        if answer.status == 202:
            print("still to be told:", answer.json["pending"])
