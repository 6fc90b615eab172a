"""The token alone, for a program that sends its own requests."""

import httpx2

import portero


def told(event: portero.Event) -> None:
    print(f"  {event.kind} of {event.username}, {event.seconds:.2f} s")


with (
    portero.TokenSource(on_event=told, on_revoked="login") as source,
    httpx2.Client(base_url=source.url, auth=source.auth) as http,
):
    print("models:", http.get("/v1/models").status_code)
    assert source.current is not None
    print(f"{source.current.role}, {source.current.seconds_left:.0f} s left")
    source.invalidate(source.token())  # as if it had been refused: the next request logs in
    print("again:", http.get("/v1/models").status_code)
