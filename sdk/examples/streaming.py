"""A chat as it comes. Leaving the `with` early stops the LLM server, too; a stream that is cut says
why, and keeps what came.
"""

import portero

with portero.Portero() as client:
    model = client.models().names[0]
    try:
        with client.stream_chat(model, "Tell me a story.", max_tokens=24) as stream:
            for text in stream:
                print(text, end="", flush=True)
    except portero.StreamCut as cut:
        print(f"\ncut ({cut.code}) after {len(cut.partial)} characters, request {cut.request_id}")
    print()
