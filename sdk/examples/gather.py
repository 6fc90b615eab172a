"""Many questions at once, in one event loop: one login serves them all."""

import asyncio

import portero

CAPITALS = ["France", "Spain", "Japan"]


async def main() -> None:
    async with portero.AsyncPortero() as client:
        model = (await client.models()).names[0]
        questions = [f"What is the capital of {country}?" for country in CAPITALS]
        asked = [client.chat(model, question, max_tokens=12) for question in questions]
        for country, answer in zip(CAPITALS, await asyncio.gather(*asked), strict=True):
            print(f"{country}: {answer.text!r}")


asyncio.run(main())
