"""Agents in a row: one drafts, one criticizes, one refines. Each step is told the request's ID, by
which the gateway's log finds it.
"""

import sys

import portero

STEPS = {
    "draft": "Write one sentence on {topic}.",
    "critique": "Say in one sentence what is wrong with this: {draft}",
    "refine": "Write it anew. Text: {draft} Critique: {critique}",
}


def run(client: portero.Portero, topic: str) -> dict[str, str]:
    model = client.models().names[0]
    said = {"topic": topic}
    for step, prompt in STEPS.items():
        answer = client.chat(model, prompt.format(**said), max_tokens=24)
        said[step] = answer.text
        print(f"{step} [{answer.request_id}]: {answer.text.strip()}")
    return said


with portero.Portero() as client:
    try:
        run(client, "doormen")
    except portero.RateLimited as error:
        sys.exit(f"The limit is used up; try again in {error.retry_after} s.")
