"""The first program: what models there are, and one question."""

import portero

with portero.Portero() as client:  # PORTERO_URL, PORTERO_USERNAME, PORTERO_SECRET
    model = client.models().names[0]
    answer = client.chat(model, "What is the capital of France?", max_tokens=16)
    print(f"{model}: {answer.text}")
    print(f"{answer.usage['total_tokens']} tokens, request {answer.request_id}")
