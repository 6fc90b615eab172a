"""What may go wrong, by name, and what is left of limits."""

import portero

with portero.Portero(max_wait_seconds=5) as client:
    model = client.models().names[0]
    try:
        client.chat("no-such-model", "Hello")
    except portero.ModelNotFound as error:
        print(f"{error.status} {error.code}, request {error.request_id}: {error.message}")
    try:
        client.request("POST", "/v1/chat/completions", {"model": 5})
    except portero.InvalidRequest as error:
        print(f"{error.status} {error.code}: {error.message}")
    try:
        answer = client.chat(model, "Hello", max_tokens=4)
        for name, limit in answer.limits.items():
            print(
                f"{limit.remaining} of {limit.limit} {name} left, anew in {limit.reset_seconds} s"
            )
        print("answered" if answer.limits else "answered, and no limit counts it")
    except portero.QuotaSpent:
        print("the day's budget is spent; waiting does not help")
    except portero.RateLimited as error:
        print(f"too many for now; again in {error.retry_after} s")
    except (portero.NotReady, portero.UpstreamUnavailable, portero.UpstreamTimeout) as error:
        print(f"the LLM server is away: {error}")
    except portero.APIError as error:
        print(f"anything else that was answered: {error}")
    except portero.LoginError as error:
        print(f"no token: {error}")
    except portero.TransportError as error:
        print(f"no answer; the LLM server may {'' if error.may_have_started else 'not '}be at work")
