"""Serve a GGUF model by llama.cpp's own HTTP server, which speaks OpenAI's chat completions, until it is ended.

    .envs/serve/bin/python tests/llama_server.py MODEL.gguf NAME

Prints its address when it listens. One request at a time and no cache, so equal questions have equal answers.
"""

import sys
import time

import xllamacpp

if __name__ == "__main__":
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.model_alias = sys.argv[1], {sys.argv[2]}
    settings.n_ctx, settings.n_parallel, settings.cache_prompt, settings.warmup = 4096, 1, False, False
    settings.port, settings.cpuparams.n_threads, settings.verbosity = 0, 1, 0
    server = xllamacpp.Server(settings)
    print(server.listening_address, flush=True)
    while True:
        time.sleep(60)
