"""A person's login: the name begins with USRS, the secret is asked for and kept nowhere."""

import getpass
import os
import sys

import portero

username = os.environ.get("PORTERO_USERNAME") or input("Username: ")
secret = os.environ.get("PORTERO_SECRET") or getpass.getpass("Secret: ")
try:
    with portero.Portero(username=username, secret=secret) as client:
        print(client.chat(client.models().names[0], "Hello!", max_tokens=12).text)
except portero.WrongCredentials:
    sys.exit("That name and secret do not fit together.")
except portero.TooManyTokens as error:
    sys.exit(f"Too many logins: {error}")
