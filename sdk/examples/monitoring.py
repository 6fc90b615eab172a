"""A monitoring role: it reads models and metrics, and may not infer."""

import portero

with portero.Portero() as client:
    print("models:", ", ".join(client.models().names))
    metrics = str(client.request("GET", "/metrics").json)
    for line in metrics.splitlines():
        if line.startswith("portero_decisions_total"):
            print(line)
    try:
        client.chat("any", "Hello")
    except portero.PermissionDenied as error:
        print(f"may not infer, as it should be: {error}")
