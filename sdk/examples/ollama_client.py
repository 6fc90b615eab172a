"""Ollama's own library, for LLM servers that speak its API (Ollama, LocalAI)."""

import portero

source = portero.TokenSource()
with source:
    client = portero.ollama(source)
    model = client.list().models[0].model or ""
    for piece in client.chat(
        model=model, messages=[{"role": "user", "content": "Say hello."}], stream=True
    ):
        print(piece.message.content, end="")
    print()
