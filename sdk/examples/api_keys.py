"""An API key for a tool that can hold only one fixed key: made, used, and ended. A program of your
own needs none; it renews its token by itself.
"""

import portero

with portero.Portero() as client:
    model = client.models().names[0]
    made = client.create_key("Open WebUI", days=30, models=[model])
    print(
        f"{made.json['name']}, until {made.json['expires_at']}: {made.key[:11]}…"
    )  # told this once

    with portero.Portero(url=client.source.url, api_key=made.key) as tool:
        print(tool.chat(model, "Say hello.", max_tokens=8).text)
        for row in client.keys().rows:
            print(f"{row['id']} {row['name']}, last used {row['last_used_at'] or 'never'}")
        client.revoke_key(made.id)
        try:
            tool.models()
        except portero.TokenRefused as error:
            print(f"dead at once: {error.status} {error.code}")
