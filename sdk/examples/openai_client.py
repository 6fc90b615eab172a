"""OpenAI's own library, sync and async, with a token that renews by itself."""

import asyncio

import portero

QUESTION = "What is the capital of France?"

source = portero.TokenSource()


async def ask(model: str) -> str | None:
    async with portero.async_openai(source) as client:
        answer = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": QUESTION}], max_tokens=12
        )
        return answer.choices[0].message.content


with source, portero.openai(source) as client:
    model = client.models.list().data[0].id
    events = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": QUESTION}], max_tokens=12, stream=True
    )
    for event in events:
        print(event.choices[0].delta.content or "", end="")
    print()
    print(asyncio.run(ask(model)))
