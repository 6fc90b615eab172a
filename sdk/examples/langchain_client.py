"""LangChain: a chat model and embeddings in a small chain."""

import portero

source = portero.TokenSource()
with source, portero.Portero(source) as look:
    model = look.models().names[0]
    chat = portero.langchain_chat(model, source, max_completion_tokens=16)
    embeddings = portero.langchain_embeddings(model, source)
    print("".join(str(piece.content) for piece in chat.stream("What is the capital of France?")))
    print(len(embeddings.embed_query("Paris")), "dimensions")
