#!/usr/bin/env python3
"""`temper serve` as the official client of the OpenAI API meets it.

    python3 -m venv venv && venv/bin/pip install openai==3.54.0
    venv/bin/python scripts/test_openai_client.py target/debug/temper

Trains two small adapters, serves them over the shipped model, and checks listing, completions, conversations,
streams, seeds, stop strings, errors as the exceptions of the client, keys, and asking for many things at once.
"""

import asyncio
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading

import openai

ROOT = pathlib.Path(__file__).resolve().parent.parent
STORIES = ROOT / "assets" / "stories260k"
KEY = "sk-for-this-test"
START = "Once upon a time"
RECIPE = """
device = "cpu"
seed = {seed}
[model]
path = "{model}"
[adapter]
kind = "oft"
oft_block_size = 8
[data]
kind = "gsm8k"
path = "{data}"
max_length = 300
cache = false
[train]
steps = 3
batch_size = 2
lr = 3e-2
[sample]
count = 0
[run]
dir = "{run}"
"""


class Server:
    """The binary, serving on a free port for as long as the `with` lasts."""

    def __init__(self, binary, *args, key=None):
        environment = dict(os.environ, TEMPER_TEST_KEY=key or "")
        keys = ["--api-key-env", "TEMPER_TEST_KEY"] if key else []
        command = [binary, "serve", "--model", STORIES, "--device", "cpu", "--port", "0", *keys, *args]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
        line = self.process.stdout.readline()
        assert line.startswith("listening on http://"), line
        self.url = line.split()[-1] + "/v1"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def client(self, key="unused", kind=openai.OpenAI):
        return kind(base_url=self.url, api_key=key, max_retries=0, timeout=60)


def train(binary, directory, name, seed):
    recipe, run = directory / f"{name}.toml", directory / name
    data = ROOT / "assets" / "gsm8k" / "train-1000.jsonl"
    recipe.write_text(RECIPE.format(seed=seed, model=STORIES, data=data, run=run))
    subprocess.run([binary, "train", recipe], check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return run / "adapter"


def raises(kind, call, **expected):
    """The call raises this very exception, with these attributes."""
    try:
        call()
    except openai.OpenAIError as error:
        assert type(error) is kind, repr(error)
        for name, value in expected.items():
            assert getattr(error, name) == value, (name, getattr(error, name), value)
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def test_models(client, names):
    assert [model.id for model in client.models.list()] == names
    assert client.models.retrieve(names[1]).id == names[1]
    raises(openai.NotFoundError, lambda: client.models.retrieve("absent"), code="model_not_found", param="model")


def test_completions(client):
    def complete(**more):
        settings = {"model": "stories260k", "prompt": START, "temperature": 0, "max_tokens": 24}
        return client.completions.create(**{**settings, **more})

    whole = complete()
    text = whole.choices[0].text
    assert text.startswith(", there was"), text
    assert whole.choices[0].finish_reason == "length" and whole.object == "text_completion"
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (5, 24, 29)
    two = complete(prompt=[START, "Tom had"], n=2)
    assert [choice.index for choice in two.choices] == [0, 1, 2, 3]
    assert two.choices[0].text == two.choices[1].text == text != two.choices[2].text
    assert complete(prompt=[1, 403, 407, 261, 378]).choices[0].text == text
    stopped = complete(stop=["little", "never"])
    assert stopped.choices[0].text == text[: text.index("little")] and stopped.choices[0].finish_reason == "stop"
    drawn = [complete(temperature=1.3, seed=seed).choices[0].text for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert complete(temperature=1.3, extra_body={"top_k": 1}).choices[0].text == text

    chunks = list(complete(stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == text and len(chunks) > 10
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage


def test_chat(client):
    def chat(**more):
        messages = [{"role": "user", "content": START}]
        settings = {"model": "stories260k", "messages": messages, "temperature": 0, "max_completion_tokens": 12}
        return client.chat.completions.create(**{**settings, **more})

    whole = chat()
    message = whole.choices[0].message
    assert message.role == "assistant" and message.content and whole.object == "chat.completion"
    assert whole.usage.completion_tokens == 12 and whole.choices[0].finish_reason == "length"
    parts = [{"role": "user", "content": [{"type": "text", "text": START}]}]
    assert chat(messages=parts, user="somebody", max_tokens=12).choices[0].message.content == message.content

    chunks = list(chat(stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant" and chunks[-1].choices[0].finish_reason == "length"
    assert "".join(delta.content or "" for delta in deltas) == message.content
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    with client.chat.completions.stream(
        model="stories260k", messages=parts, temperature=0, max_completion_tokens=12
    ) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
    assert "".join(pieces) == message.content


def test_errors(server, client):
    def chat(**more):
        messages = [{"role": "user", "content": START}]
        return client.chat.completions.create(**{"model": "stories260k", "messages": messages, **more})

    bad = openai.BadRequestError
    raises(openai.NotFoundError, lambda: chat(model="absent"), code="model_not_found")
    raises(bad, lambda: chat(frequency_penalty=1), param="frequency_penalty", code="unsupported_parameter")
    raises(bad, lambda: chat(logprobs=True), param="logprobs", code="unsupported_parameter")
    raises(bad, lambda: chat(temperature=-1), param="temperature", type="invalid_request_error")
    raises(bad, lambda: chat(extra_body={"unheard": 1}), param="unheard", code="unknown_parameter")
    raises(bad, lambda: chat(max_tokens=600), code="context_length_exceeded")
    raises(bad, lambda: chat(messages=[]), param="messages")
    for key in ("", "sk-wrong"):
        stranger = server.client(key or "x")
        error = raises(openai.AuthenticationError, stranger.models.list, code="invalid_api_key")
        assert KEY not in str(error)
    raises(openai.APIStatusError, lambda: chat(user="x" * (3 << 20)), status_code=413)


def test_adapters(server, names):
    async def ask():
        async with server.client(KEY, openai.AsyncOpenAI) as client:
            def one(name):
                return client.completions.create(model=name, prompt=START, temperature=0, max_tokens=24)

            alone = [(await one(name)).choices[0].text for name in names]
            assert len(set(alone)) == len(names), alone
            together = await asyncio.gather(*(one(names[i % len(names)]) for i in range(24)))
            for i, reply in enumerate(together):
                assert reply.model == names[i % len(names)]
                assert reply.choices[0].text == alone[i % len(names)]

    asyncio.run(ask())


def test_queue_and_ending(binary):
    with Server(binary, "--max-sequences", "1", "--max-queue", "3") as server:
        client = server.client()
        settings = {"model": "stories260k", "prompt": START, "temperature": 1.5}
        stream = client.completions.create(**settings, max_tokens=500, n=4, stream=True)
        next(stream)
        error = raises(openai.RateLimitError, lambda: client.completions.create(**settings), code="queue_full")
        assert error.response.headers["retry-after"] == "1"
        # A client that retries, as it does by default, gets through once the other has gone.
        threading.Timer(0.3, stream.close).start()
        patient = client.with_options(max_retries=5)
        assert patient.completions.create(**settings, max_tokens=2).usage.completion_tokens == 2
        assert server.stop() == 0
        raises(openai.APIConnectionError, client.models.list)


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as directory:
        adapters = {name: train(binary, pathlib.Path(directory), name, seed) for seed, name in enumerate(["one", "two"])}
        named = [part for name, path in adapters.items() for part in ("--adapter", f"{name}={path}")]
        names = ["stories260k", *adapters]
        with Server(binary, "--template", "alpaca", *named, key=KEY) as server:
            client = server.client(KEY)
            test_models(client, names)
            test_completions(client)
            test_chat(client)
            test_errors(server, client)
            test_adapters(server, names)
            client.close()
            assert server.stop() == 0
    test_queue_and_ending(binary)
    print(f"openai {openai.__version__}: all as it should be")


if __name__ == "__main__":
    main()
