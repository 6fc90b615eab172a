"""Anthropic's own library, for LLM servers that speak its API, as all four kinds do."""

import portero

source = portero.TokenSource()
with source, portero.Portero(source) as look, portero.anthropic(source) as client:
    model = look.models().names[0]
    with client.messages.stream(
        model=model, max_tokens=16, messages=[{"role": "user", "content": "Say hello."}]
    ) as stream:
        for text in stream.text_stream:
            print(text, end="")
    print()
