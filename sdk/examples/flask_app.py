"""A small web application whose threads and workers share one source: one login a process.

flask --app flask_app run
"""

from collections.abc import Iterator

from flask import Flask, Response, request

import portero

app = Flask(__name__)
client = portero.Portero(on_revoked="login")  # made once; a forked worker logs in for itself


@app.post("/ask")
def ask() -> Response:
    """A text in, a text out, as it comes."""
    model, question = client.models().names[0], request.get_data(as_text=True)

    def pieces() -> Iterator[str]:
        with client.stream_chat(model, question, max_tokens=16) as stream:
            yield from stream

    return Response(pieces(), mimetype="text/plain")


@app.errorhandler(portero.PorteroError)
def away(error: portero.PorteroError) -> tuple[str, int]:
    """Our users are told no more than that; the request's ID goes into our own log."""
    app.logger.warning("portero: %s", error)
    return "The model cannot be asked just now.", 503


if __name__ == "__main__":
    print(app.test_client().post("/ask", data="What is the capital of France?").text)
