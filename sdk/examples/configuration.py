"""Where values come from: arguments, then variables, then a file for the secret. Every fault is
told at once, before anything is sent.
"""

import os

import portero

# All of the environment; a secret may stand in the file that PORTERO_SECRET_FILE names.
from_environment = portero.TokenSource()
# The same by arguments, of which each comes before its variable.
by_arguments = portero.TokenSource(
    url=os.environ["PORTERO_URL"] + "/v1",  # with or without /v1
    username=os.environ["PORTERO_USERNAME"],
    secret=os.environ["PORTERO_SECRET"],
)
print(f"{from_environment.url} is {by_arguments.url}")
print("one token for both:", from_environment.token() == by_arguments.token())
by_arguments.logout()

try:
    portero.TokenSource("ftp://nowhere", api_key="a", secret="b")  # noqa: S106 - it shows a fault
except portero.ConfigurationError as error:
    print(f"not accepted: {error}")
