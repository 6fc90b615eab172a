"""Chats as people send them, of any size: English, code, Spanish, Chinese, and with an image.

Each is made of a seed, so that it is the same in each run, and no sentence stands in it again and
again: what a scan meets in a text (quotes, escapes, bytes beyond ASCII) comes where it comes in
such texts. Pure.
"""

import base64
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

SEED = 19
#: Characters of a message, at least and at most.
MESSAGE = (200, 3_000)

#: "S": sentences; the others: words for a place in them.
Words = dict[str, str | tuple[str, ...]]

_ENGLISH: Words = {
    "S": (
        "{N} {v} {a} {o}, {c} {n} {v} {o}.",
        "{A} {o} that {n} {v}, {n} {v} {o} {p}.",
        "Why does {n} {v} {o} {p}?",
        '{N} said: "{n} don\'t {v} {a} {o}", and {n} {v} it {p}.',
        "I'd say {n} {v} {o}; {n} {v} {a} {o} {p} ({d} of them).",
    ),
    "n": "the model|our team|a reviewer|the older server|my colleague|each client|the schedule|"
    "nobody|the second draft|a neighbour|the committee|this paragraph",
    "v": "explains|needs|rewrites|doubts|keeps|has never measured|compares|would rather skip|"
    "summarises|answers|cannot find|sent",
    "a": "the longest|a careful|every other|some quiet|the unfinished|another|an early|that odd",
    "o": "report|answer|letters|request|list of names|contract|translation|proof|figures|recipe|"
    "timetable|explanation",
    "c": "because|while|although|and then|so|before",
    "p": "at noon|without being asked|in three words|after the release|on page 12|by hand|"
    "every Tuesday|under load",
}
_SPANISH: Words = {
    "S": (
        "{N} {v} {a} {o}, {c} {n} {v} {o}.",
        "¿Por qué {n} {v} {o} {p}?",
        "{A} {o} que {n} {v} {p} también {v} {o}.",
        "¡{N} ya {v} {o}! Después, {n} {v} {a} {o} {p}.",
        "{N} dijo: «{n} no {v} {o}», según {n}, {d} veces.",
    ),
    "n": "el niño|nuestra compañía|la señora Núñez|el médico|cada sesión|tu corazón|la canción|"
    "ningún vecino|el último capítulo|el pingüino|la administración|Andrés",
    "v": "explicó|necesitará|escribió|dudó de|guardó|jamás midió|comparó|preferiría|resumió|"
    "respondió a|encontró|envió",
    "a": "la más larga|otra difícil|aquella breve|cualquier|una pequeña|esta única",
    "o": "petición|respuesta|lección|traducción|página|razón|decisión|opinión|receta|mañana|"
    "explicación|conversación",
    "c": "porque|mientras|aunque|así que|después|además",
    "p": "al mediodía|sin que nadie lo pidiera|en tres líneas|más allá del río|en la página 12|"
    "a mano|todos los sábados|según el índice",
}
_CHINESE: Words = {
    "S": (
        "{n}{v}{a}{o}，{c}{n}{v}{o}。",
        "为什么{n}{p}{v}{o}？",
        "{p}，{n}{v}了{a}{o}，{n}也{v}{o}。",
        "{n}说：“{n}没有{v}{o}。”一共{d}次。",
        "如果{n}{v}{o}，那么{n}就{v}{a}{o}！",
    ),
    "n": "模型|我们的团队|老师|服务器|邻居|每个用户|这份计划|第二稿|委员会|学生|翻译|医生",
    "v": "解释|需要|改写|怀疑|保存|测量|比较|总结|回答|找到|发送|忽略",
    "a": "最长的|另一份|安静的|未完成的|奇怪的|早先的|详细的|不同的",
    "o": "报告|答案|信件|请求|名单|合同|译文|证明|数据|菜谱|时间表|说明",
    "c": "因为|同时|虽然|然后|所以|以前",
    "p": "中午|没有人问的时候|发布以后|在第十二页|每个星期二|手工地|负载很高时|昨天晚上",
}
_CODE: Words = {
    "S": (
        'def {f}({x}, {y}=None):\n    """{T} the {o}\'s {x}."""\n    if not {x}:\n'
        '        raise ValueError("no {x}\\n")\n'
        '    return [{y} for {y} in {x} if {y} != "{o}"]\n\n',
        'for (let {x} = 0; {x} < {y}.length; {x}++) {{\n\tif ({y}[{x}].type === "{o}") {{\n'
        "\t\tconsole.log(`{f}: ${{{x}}}`, /^\\d+\\s/.test({y}));\n\t}}\n}}\n\n",
        "SELECT {x}, count(*) FROM {o}s\nWHERE {y} LIKE '%\\_{f}' AND {x} > {d}\nGROUP BY {x};\n\n",
        "static int {f}(const char *{x}, size_t {y})\n{{\n\tchar buffer[{d}];\n"
        '\tsnprintf(buffer, sizeof buffer, "%s/{o}\\t%zu\\n", {x}, {y});\n'
        "\treturn {x}[0] == '\\\\' ? -1 : write(1, buffer, {y});\n}}\n\n",
        '{{"{o}": {{"{x}": {d}, "{y}": ["{f}", "C:\\\\{o}\\\\{f}.txt"]}}}},\n',
        '# {T} {o}: {x} and {y}; see {f}().\n{x}.{f}({y}, key=lambda {o}: {o}["{y}"])\n',
    ),
    "f": "read_all|parseHeader|flush|to_json|on_error|merge|lookup|retry|openStream|check_sum",
    "x": "items|request|buf|total|path|user|node|row|index|key",
    "y": "size|value|other|limit|found|name|child|options|count|entry",
    "o": "session|token|order|file|model|event|server|message",
    "T": "Find|Drop|Count|Write|Keep|Compare|Return",
}


class _Grammar:
    """Sentences with words chosen by chance; a name in capitals begins with a capital."""

    def __init__(self, grammar: Words, chance: random.Random) -> None:
        self._sentences = grammar["S"]
        self._words = {
            name: words.split("|") for name, words in grammar.items() if isinstance(words, str)
        }
        self._chance = chance

    def __getitem__(self, name: str) -> str:
        if name == "d":
            return str(self._chance.randint(2, 999))
        if name in self._words:
            return self._chance.choice(self._words[name])
        word = self._chance.choice(self._words[name.lower()])
        return word[0].upper() + word[1:]

    def sentence(self) -> str:
        """Another word at each place."""
        return self._chance.choice(self._sentences).format_map(self)

    def snippet(self) -> str:
        """The same word wherever a name stands."""
        names = {name: self[name] for name in (*self._words, "T", "d")}
        return self._chance.choice(self._sentences).format_map(names)


def _prose(grammar: Words, space: str) -> "Writer":
    def write(chance: random.Random, length: int) -> str:
        words, text = _Grammar(grammar, chance), ""
        while len(text) < length:
            text += words.sentence() + (space if chance.random() < 0.8 else "\n\n")
        return text[:length]

    return write


def _code(chance: random.Random, length: int) -> str:
    words, text = _Grammar(_CODE, chance), "```\n"
    while len(text) < length:
        text += words.snippet()
    return text[:length]


#: A text of so many characters, by chance.
Writer = Callable[[random.Random, int], str]
WRITERS: dict[str, Writer] = {
    "English": _prose(_ENGLISH, " "),
    "code": _code,
    "Spanish": _prose(_SPANISH, " "),
    "Chinese": _prose(_CHINESE, ""),
}
IMAGE = "an image"
KINDS = (*WRITERS, IMAGE)


def chat(kind: str, size: int, model: str = "tiny") -> bytes:
    """A chat of about so many bytes, as httpx and browsers write it: UTF-8, nothing escaped that
    need not be.
    """
    chance = random.Random(f"{SEED} {kind} {size}")
    messages = _with_image(chance, size) if kind == IMAGE else _talk(chance, WRITERS[kind], size)
    return _json({"model": model, "messages": list(messages), "temperature": 0.7})


def one(kind: str, size: int) -> bytes:
    """A body of so many bytes with one text: what is between the messages of a chat costs, too."""
    text = WRITERS[kind](random.Random(f"{SEED} {kind}"), 1 << 14)
    text *= size // len(text.encode()) + 1
    over = len(_json({"model": "tiny", "prompt": text})) - size
    return _json({"model": "tiny", "prompt": _shortened(text, over)})


def _talk(chance: random.Random, write: Writer, size: int) -> Iterator[dict[str, Any]]:
    """A user and an assistant in turn, until so many bytes are full."""
    left, roles = size - len(_json({"model": "tiny", "messages": [], "temperature": 0.7})), 0
    while left > 0:
        text = write(chance, chance.randint(*MESSAGE))
        message = {"role": ("user", "assistant")[roles % 2], "content": text}
        over = len(_json(message)) + 1 - left
        if over > 0:
            message["content"] = _shortened(text, over)
        left, roles = left - len(_json(message)) - 1, roles + 1
        yield message


def _shortened(text: str, over: int) -> str:
    """Without its last characters, as many as have so many bytes as JSON; one stays."""
    while len(text) > 1 and over > 0:
        part = text[-max(1, over // 4) :]
        text, over = text[: -len(part)] or text[:1], over - (len(_json(part)) - 2)
    return text


def _with_image(chance: random.Random, size: int) -> Iterator[dict[str, Any]]:
    """A question and a picture, which base64 makes a third longer."""
    question = WRITERS["English"](chance, MESSAGE[0])
    room = max(3, (size - len(question) - 250) * 3 // 4)
    picture = base64.b64encode(b"\x89PNG\r\n\x1a\n" + chance.randbytes(room)).decode()
    url = {"url": f"data:image/png;base64,{picture}", "detail": "auto"}
    yield {"role": "system", "content": "You describe pictures."}
    parts = [{"type": "text", "text": question}, {"type": "image_url", "image_url": url}]
    yield {"role": "user", "content": parts}


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
