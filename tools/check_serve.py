"""examples/serve.c as its clients see it: the `openai` package, and some that mean no good.

    python3 tools/check_serve.py [--serve build/serve] [--bodies 1000]
    python3 tools/check_serve.py --bench MODEL          tokens per second, time to the first token

Makes two small models with build/train, starts the server with them, and asks. A line for each
check that fails; "N passed, N failed" at the end; exit status 0 if none failed. What the server
says on stderr, as a sanitizer does, is a failure, too. --bodies is how many random ones it gets.
With --bench nothing is checked: it prints what build/generate does alone and what the server does
with one client and with eight."""
import argparse
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import openai

parser = argparse.ArgumentParser()
parser.add_argument("--serve", default="build/serve")
parser.add_argument("--bodies", type=int, default=1000)
parser.add_argument("--bench", metavar="MODEL")
options = parser.parse_args()
os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
temporary = tempfile.TemporaryDirectory()
passed = failed = 0


def check(name, good, shown=""):
    global passed, failed
    if good:
        passed += 1
    else:
        failed += 1
        print("FAIL %s %s" % (name, str(shown)[:300]), flush=True)


class Server:
    """with Server(model, options) as s: it listens at s.port; at the end it has to end by itself"""

    def __init__(self, model, *arguments, status=0):
        self.status, self.model = status, model
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [options.serve, model, "--port", "0", *arguments], stdout=subprocess.PIPE,
            stderr=self.errors, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("http://"):
            self.errors.seek(0)
            sys.exit("%s does not start: %s" % (options.serve, self.errors.read()))
        self.port = int(line.rsplit(":", 1)[1])

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            status = "none in a minute"
            self.process.kill()
        self.errors.seek(0)
        said = self.errors.read()
        check("exit status %s" % self.status, status == self.status, "%s %s" % (status, said))
        check("nothing on stderr", not said, said)
        self.process.stdout.close()

    def client(self, key="none", **more):
        return openai.OpenAI(base_url="http://127.0.0.1:%d/v1" % self.port, api_key=key,
                             max_retries=0, timeout=120, **more)

    def ask(self, method, path, body=None, **headers):
        """-> status, the answer's JSON"""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text)

    def post(self, path, **body):
        return self.ask("POST", "/v1/" + path, json.dumps(body))

    def state(self):
        health = self.ask("GET", "/health")[1]
        return health["running"], health["waiting"]

    def idle_within(self, seconds):
        end = time.time() + seconds
        while self.state() != (0, 0):
            if time.time() > end:
                return False
            time.sleep(0.01)
        return True


def many(n, function, arguments):
    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(function, arguments))


def train(name, *arguments, vocab=True):
    path = os.path.join(temporary.name, name)
    files = ["README.md", "Makefile", *("examples/" + f for f in sorted(os.listdir("examples")))]
    subprocess.run(["build/train", "--out", path, "--seq", "64", "--batch", "4", "--steps", "40",
                    "--eval", "0", "--save", "0", *(["--vocab", "400"] if vocab else []),
                    *arguments, *files],
                   check=True, stdout=subprocess.DEVNULL)
    return path


TEXT = open("README.md", encoding="utf-8").read()


def chat_of(i, n=24, **more):
    """different conversations, short ones and some that begin alike; every other one sampled"""
    messages = [{"role": "system", "content": TEXT[:[40, 900, 900, 300][i % 4]]},
                {"role": "user", "content": TEXT[100 * i:100 * i + 7 + 60 * (i % 5)]}]
    return dict(model="m", messages=messages, max_tokens=n, temperature=i % 2, seed=i, **more)


def whole(client, request):
    """all of an answer, and what it says beside its text"""
    choice = client.chat.completions.create(**request).choices[0]
    return choice.message.content, choice.finish_reason, choice.logprobs


def streamed(client, request):
    text, finish, logprobs = "", None, []
    for chunk in client.chat.completions.create(stream=True, **request):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
            if choice.logprobs:
                logprobs += choice.logprobs.content
    return text, finish, logprobs


# ---- answers -----------------------------------------------------------------------------------
def check_answers(model, *arguments):
    with Server(model, "--format", "none", *arguments) as s:
        c = s.client()
        names = [m.id for m in c.models.list()]
        check("one model, named as its directory", names == [os.path.basename(model)], names)
        check("the model by its name", c.models.retrieve(names[0]).id == names[0])
        for i in range(8):
            request = chat_of(i, logprobs=True, top_logprobs=i)
            text, finish, logprobs = whole(c, request)
            pieces, end, streamed_logprobs = streamed(c, request)
            check("a stream is what the whole answer is", (text, finish, logprobs.content) ==
                  (pieces, end, streamed_logprobs), (text, pieces))
            joined = b"".join(bytes(t.bytes) for t in logprobs.content)
            check("the tokens' bytes are the text", joined.decode("utf-8", "replace") == text,
                  (joined, text))
            for t in logprobs.content:
                top = [x.logprob for x in t.top_logprobs]
                check("log-probabilities", len(top) == i and top == sorted(top, reverse=True) and
                      sum(map(pow, [2.718281828] * i, top)) < 1.001 and t.logprob <= 0, top)
                if i and i % 2 == 0:
                    check("greedy takes the likeliest", t.logprob == top[0], (t.logprob, top))
        requests = [chat_of(i, logprobs=True, top_logprobs=2) for i in range(16)]
        alone = [whole(c, r) for r in requests]
        together = many(8, lambda r: whole(c, r), requests)
        for a, b in zip(alone, together):
            check("sixteen, eight at a time, as one by one", a == b, (a[0], b[0]))
    with Server(model, "--format", "none", *arguments) as s:         # with nothing to share yet
        c = s.client()
        for a, b in zip(alone, many(16, lambda r: whole(c, r), requests)):
            check("sixteen at once, as one by one", a == b, (a[0], b[0]))


def check_fields(model, experts):
    with Server(model, "--format", "none", "--context", "2048") as s:
        c = s.client()

        def complete(**more):
            return c.completions.create(model="m", **{"max_tokens": 12, "temperature": 0, **more})
        one = complete(prompt=TEXT[:50])
        check("usage", one.usage.total_tokens == one.usage.prompt_tokens + 12 and
              one.usage.completion_tokens == 12 and one.choices[0].finish_reason == "length",
              one.usage)
        check("no token was cached", one.usage.prompt_tokens_details.cached_tokens == 0)
        again = complete(prompt=TEXT[:50])
        check("all but one token were cached", again.usage.prompt_tokens_details.cached_tokens ==
              one.usage.prompt_tokens - 1, again.usage)
        check("and the text is the same", again.choices[0].text == one.choices[0].text)
        text = complete(prompt="The", max_tokens=60).choices[0].text
        stop = text[20:23]
        for stops in stop, ["never there", stop]:
            cut = complete(prompt="The", max_tokens=60, stop=stops).choices[0]
            check("a stop text ends it", cut.finish_reason == "stop" and
                  cut.text == text[:text.index(stop)], (cut, text, stop))
            parts = [x.choices[0].text for x in complete(prompt="The", max_tokens=60, stop=stops,
                                                         stream=True)]
            check("and does not come in parts", "".join(parts) == cut.text, parts)
        two = complete(prompt=["The", "int "], n=2, temperature=1, seed=5).choices
        check("prompts and choices", [x.index for x in two] == [0, 1, 2, 3])
        check("a seed gives its text again", [x.text for x in two] == [
            x.text for p in ("The", "int ")
            for x in complete(prompt=p, n=2, temperature=1, seed=5).choices], two)
        check("choices differ", two[0].text != two[1].text)
        random_ones = {complete(prompt="The", temperature=1).choices[0].text for _ in range(4)}
        check("without a seed it is random", len(random_ones) > 1, random_ones)
        listed = complete(prompt=[[5, 6, 7], [8]], logprobs=3)
        check("prompts of tokens", listed.usage.prompt_tokens == 4, listed.usage)
        for x in listed.choices:
            l = x.logprobs
            check("lists of log-probabilities", len(l.tokens) == len(l.token_logprobs) ==
                  len(l.text_offset) == len(l.top_logprobs) == 12 and
                  all(t in d and d[t] == p for t, p, d in
                      zip(l.tokens, l.token_logprobs, l.top_logprobs)), l)
        only = complete(prompt="The", logit_bias={"70": 100}, temperature=1, logprobs=0)
        check("a bias", len(set(only.choices[0].logprobs.tokens)) == 1, only)
        banned = complete(prompt="The", logit_bias={"71": 100, "70": -100}, logprobs=0)
        check("a ban", set(banned.choices[0].logprobs.tokens) & set(only.choices[0].logprobs.tokens)
              == set(), banned)
        for penalty, n in ((0, 1), (1, 2)):
            got = complete(prompt="The", logit_bias={"70": 90, "71": 89}, frequency_penalty=penalty,
                           logprobs=0).choices[0].logprobs.tokens
            check("a frequency penalty of %d" % penalty, len(set(got)) == n, got)
        end = list(complete(prompt="The", stream=True, stream_options={"include_usage": True}))[-1]
        check("usage of a stream", not end.choices and end.usage.completion_tokens == 12, end)
        parts = c.chat.completions.create(model="m", max_tokens=5, temperature=0, messages=[
            {"role": "developer", "content": [{"type": "text", "text": "The "},
                                              {"type": "text", "text": "cat"}]}])
        plain = c.chat.completions.create(model="m", max_tokens=5, temperature=0, messages=[
            {"role": "system", "content": "The cat"}])
        check("contents in parts", parts.choices[0].message.content ==
              plain.choices[0].message.content and parts.usage.prompt_tokens ==
              plain.usage.prompt_tokens, parts)
        check("max_tokens beyond what fits", complete(
            prompt="The", max_tokens=10**8, logit_bias={"70": 100}).usage.total_tokens == 2048)
        system = TEXT[:2000]
        few = 0 if experts else 16      # tokens that a last call has more than

        def cached(question):
            return c.chat.completions.create(model="m", max_tokens=2, messages=[
                {"role": "system", "content": system}, {"role": "user", "content": question}]).usage
        first, all_the_same = cached("?"), cached("?")
        length = first.prompt_tokens - 2
        check("a prompt again", all_the_same.prompt_tokens_details.cached_tokens ==
              first.prompt_tokens - 1, all_the_same)
        shares = many(8, cached, ["question %d" % i for i in range(8)])
        check("a first message is evaluated once", all(
            u.prompt_tokens_details.cached_tokens >= length - 2 - few for u in shares), shares)
        shares = many(8, lambda i: complete(prompt=[*range(10, 260)] * 4 + [i, i],
                                            max_tokens=1).usage, range(8))
        shares = sorted(u.prompt_tokens_details.cached_tokens for u in shares)
        least = 768 if experts else 1000 - few      # with experts, whole pieces
        check("what prompts begin with is evaluated once", not shares[0] and
              all(n >= least for n in shares[1:]), shares)


def make_chat_model(path):
    """one of the other's vocabulary and ChatML's tokens, with its template"""
    tokenizer = json.load(open(os.path.join(path, "tokenizer.json")))
    names = "<|im_start|>", "<|im_end|>"
    for i, name in enumerate(names):
        tokenizer["added_tokens"].append(
            {"id": 400 + i, "content": name, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False, "special": True})
    source = os.path.join(temporary.name, "tokenizer")
    os.mkdir(source)
    json.dump(tokenizer, open(os.path.join(source, "tokenizer.json"), "w"))
    model = train("chatml", "--arch", "gpt2", "--context", "512", "--tokenizer", source,
                  vocab=False)
    with open(os.path.join(model, "chat_template.jinja"), "w") as template:
        template.write("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' +"
                       " message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
                       "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
    return model


def check_chat(model):
    with Server(model) as s:
        c = s.client()

        def ask(content, **more):
            return c.chat.completions.create(model="m", max_tokens=4, temperature=0,
                                             messages=[{"role": "user", "content": content}],
                                             **more)
        written = c.completions.create(
            model="m", max_tokens=4, temperature=0,
            prompt="<|im_start|>user\nThe<|im_end|>\n<|im_start|>assistant\n")
        told = ask("The")
        check("the template's format", told.usage.prompt_tokens == written.usage.prompt_tokens and
              told.choices[0].message.content == written.choices[0].text, (told, written))
        end = ask("The", logit_bias={"401": 100}, logprobs=True)
        check("its end of an answer", end.choices[0].finish_reason == "stop" and
              end.choices[0].message.content == "" and end.usage.completion_tokens == 1 and
              end.choices[0].logprobs.content == [], end)
        check("a message cannot spell it", ask("The<|im_end|>").usage.prompt_tokens >
              told.usage.prompt_tokens + 1)
    with Server(model, "--format", "llama-3") as s:
        got = s.post("chat/completions", **GOOD)
        check("a format without its tokens", got[0] == 400 and
              "no token <|begin_of_text|>" in got[1]["error"]["message"], got)


BAD = [
    ("", None), ("{", None), ("[]", None), ("{}", "prompt"),
    ('{"prompt": "a", "prompt": "b"}', None),
    ('{"prompt": 1}', "prompt"), ('{"prompt": []}', "prompt"), ('{"prompt": [1.5]}', "prompt"),
    ('{"prompt": [[]]}', "prompt"), ('{"prompt": [[1], "a"]}', "prompt"),
    ('{"prompt": ["a", [1]]}', "prompt"), ('{"prompt": [-1]}', "prompt"),
    ('{"prompt": [99999999]}', "prompt"), ('{"prompt": {"a": 1}}', "prompt"),
    ('{"prompt": "%s"}' % ("a b c " * 3000), "prompt"), ('{"prompt": "\\ud800"}', None),
    ('{"prompt": ' + "[" * 100, None), ('{"prompt": "a", "n": 0}', "n"),
    ('{"prompt": "a", "n": 1.5}', "n"), ('{"prompt": "a", "n": "1"}', "n"),
    ('{"prompt": "a", "n": 100}', "prompt"), ('{"prompt": "a", "best_of": 2}', "best_of"),
    ('{"prompt": "a", "temperature": 2.1}', "temperature"),
    ('{"prompt": "a", "temperature": -1e-9}', "temperature"),
    ('{"prompt": "a", "temperature": 1e999}', "temperature"),
    ('{"prompt": "a", "top_p": 1.1}', "top_p"), ('{"prompt": "a", "max_tokens": 0}', "max_tokens"),
    ('{"prompt": "a", "seed": 1e3}', "seed"), ('{"prompt": "a", "stream": 1}', "stream"),
    ('{"prompt": "a", "stream_options": {"include_usage": true}}', "stream_options"),
    ('{"prompt": "a", "stream": true, "stream_options": []}', "stream_options"),
    ('{"prompt": "a", "stop": 1}', "stop"), ('{"prompt": "a", "stop": ""}', "stop"),
    ('{"prompt": "a", "stop": "\\u0000"}', "stop"), ('{"prompt": "a", "stop": [[]]}', "stop"),
    ('{"prompt": "a", "stop": ["a", "b", "c", "d", "e"]}', "stop"),
    ('{"prompt": "a", "logprobs": 6}', "logprobs"),
    ('{"prompt": "a", "logprobs": true}', "logprobs"),
    ('{"prompt": "a", "presence_penalty": 3}', "presence_penalty"),
    ('{"prompt": "a", "frequency_penalty": "x"}', "frequency_penalty"),
    ('{"prompt": "a", "logit_bias": []}', "logit_bias"),
    ('{"prompt": "a", "logit_bias": {"x": 1}}', "logit_bias"),
    ('{"prompt": "a", "logit_bias": {"1x": 1}}', "logit_bias"),
    ('{"prompt": "a", "logit_bias": {"": 1}}', "logit_bias"),
    ('{"prompt": "a", "logit_bias": {"1": 101}}', "logit_bias"),
    ('{"prompt": "a", "logit_bias": {"4000000000": 1}}', "logit_bias"),
    ('{"prompt": "a", "echo": true}', "echo"), ('{"prompt": "a", "suffix": "b"}', "suffix"),
]
BAD_CHATS = [
    ({}, "messages"), ({"messages": []}, "messages"), ({"messages": "a"}, "messages"),
    ({"messages": [1]}, "messages"), ({"messages": [{"role": "user"}]}, "messages"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "messages"),
    ({"messages": [{"role": "user", "content": 1}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
    ({"messages": [{"role": "user", "content": ["a"]}]}, "messages"),
]
GOOD = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 3}
UNSUPPORTED = [
    ("tools", [{"type": "function"}]), ("tool_choice", "required"), ("functions", [{}]),
    ("response_format", {"type": "json_object"}), ("modalities", ["text", "audio"]),
    ("top_logprobs", 2), ("logprobs", 3), ("reasoning_effort", "high"), ("top_logprobs", 21),
]


def check_refused(model):
    with Server(model, "--format", "none", "--slots", "2", "--queue", "3") as s:
        def refused(path, body, param, words=""):
            status, answer = s.ask("POST", "/v1/" + path, body)
            error = answer.get("error", {})
            check("refused: %.80s" % body, status == 400 and error.get("param") == param and
                  error.get("message") and words in error["message"] and
                  error.get("type") == "invalid_request_error", (status, answer))
        for body, param in BAD:
            refused("completions", body, param)
        for body, param in BAD_CHATS:
            refused("chat/completions", json.dumps(body), param)
        for name, value in UNSUPPORTED:
            refused("chat/completions", json.dumps(dict(GOOD, **{name: value})), name)
        refused("completions", '{"prompt": "a", "top_p": 7}', "top_p",
                "top_p is 7, not a number from 0 to 1")
        asked = dict(GOOD, tools=[], tool_choice="none", response_format={"type": "text"}, user="u",
                     unknown=3, logit_bias=None, stop=None, modalities=["text"], metadata={})
        check("what asks for nothing is taken", s.post("chat/completions", **asked)[0] == 200)
        for method, path, status in (("GET", "/", 404), ("POST", "/v1/nothing", 404),
                                     ("GET", "/v1/completions", 405), ("POST", "/health", 405),
                                     ("DELETE", "/v1/models", 405), ("GET", "/v1/models/x", 404)):
            got = s.ask(method, path, b"" if method == "POST" else None)
            check("%s %s" % (method, path), got[0] == status and got[1]["error"]["message"], got)
        got = s.ask("POST", "/v1/completions", b" " * (5 << 20))
        check("a body of 5 MiB", got[0] == 413, got)
        check("it is all gone", s.idle_within(5))
        run = subprocess.run([options.serve, model, "--port", str(s.port)], capture_output=True,
                             text=True)
        check("a port that is taken", run.returncode == 1 and "in use" in run.stderr, run.stderr)
    with Server(model) as s:
        got = s.post("chat/completions", **GOOD)
        check("no conversations", got[0] == 400 and "--format" in got[1]["error"]["message"], got)
        check("but texts", s.post("completions", prompt="a", max_tokens=2)[0] == 200)
    with Server(model, "--key", "right") as s:
        for key, good in (("right", 1), ("wrong", 0), ("righ", 0), ("right1", 0), ("", 0)):
            got = s.ask("GET", "/v1/models", Authorization="Bearer " + key)
            check("the key \"%s\"" % key, got[0] == (200 if good else 401), got)
        check("no key", s.post("completions", prompt="a")[0] == 401)
        check("openai's key", s.client("right").models.list().data[0].id)
    for arguments in (("--port", "70000"), ("--context", "999999"), ("--host", "nowhere.invalid"),
                      ("--format", "nothing"), ("--slots", "0")):
        run = subprocess.run([options.serve, model, *arguments], capture_output=True, text=True)
        check("refuses %s" % (arguments,), run.returncode == 1 and arguments[0][2:] in run.stderr
              and run.stderr.count("\n") == 1, run.stderr)


# ---- who comes and goes ------------------------------------------------------------------------
LONG = {"model": "m", "prompt": "The", "logit_bias": {"70": 100, "71": 99.99}, "temperature": 1}


def check_clients(model):
    with Server(model, "--slots", "4", "--queue", "4", "--context", "8192") as s:
        c = s.client()
        start = time.time()
        length = c.completions.create(**LONG).usage.completion_tokens
        seconds = time.time() - start
        check("a long text", length > 8000, length)
        for round in range(3):
            streams = [c.completions.create(stream=True, **LONG) for _ in range(8)]
            for stream in streams[:4]:
                next(iter(stream))
            running = s.state()
            check("four run, four wait", running == (4, 4), running)
            status = s.post("completions", prompt="a")[0]
            check("503 where the queue is full", status == 503, status)
            try:
                c.completions.create(model="m", prompt="a")
                check("openai sees 503", False)
            except openai.InternalServerError as error:
                check("openai sees 503", error.status_code == 503)
            for stream in streams:
                stream.close()
            start = time.time()
            check("who goes away makes room at once", s.idle_within(0.2 + seconds / 4), s.state())
        sockets = []
        for _ in range(4):             # these wait for a whole answer, and do not
            body = json.dumps(LONG).encode()
            sockets.append(socket.create_connection(("127.0.0.1", s.port)))
            sockets[-1].sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: "
                                b"%d\r\n\r\n%s" % (len(body), body))
        end = time.time() + 5
        while s.state()[0] < 4 and time.time() < end:
            time.sleep(0.01)
        check("four more run", s.state() == (4, 0), s.state())
        for one in sockets:
            one.close()
        check("they make room, too", s.idle_within(0.2 + seconds / 4), s.state())
        stream, times = c.completions.create(stream=True, **LONG), []
        reader = threading.Thread(target=lambda: times.extend(time.time() for _ in stream))
        reader.start()
        time.sleep(0.1)
        start = time.time()
        joined = s.post("completions", prompt=[*range(50, 250)] * 35, max_tokens=1)[1]
        end = time.time()
        check("a long prompt", joined["usage"]["prompt_tokens"] == 7000, joined)
        between = sum(start < t < end for t in times)
        check("between its pieces others go on", between >= 20, between)
        reader.join()
    with Server(model, "--queue", "16") as s:
        c = s.client()
        answers = [complete_or_503(c, i) for i in range(8)]

        def one_of(i):
            return complete_or_503(c, i % 8)
        got = many(64, one_of, range(64))
        good = [(i, x) for i, x in enumerate(got) if x != 503]
        check("64 at once: 24 or more are answered", len(good) >= 24, len(good))
        check("64 at once: as they are alone", all(x == answers[i % 8] for i, x in good))
        check("64 at once: nothing is left", s.idle_within(5))
    with Server(model, "--timeout", "2") as s:
        def slow(data):
            """seconds until the server closes the connection on who sends a byte in 0.2 s"""
            start = time.time()
            with socket.create_connection(("127.0.0.1", s.port)) as one:
                one.settimeout(0.2)
                for i in range(100):
                    try:
                        if i < len(data):
                            one.sendall(data[i:i + 1])
                        if one.recv(1) == b"":
                            break
                    except TimeoutError:
                        pass
                    except OSError:
                        break
            return time.time() - start
        head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
        slow_ones = ThreadPoolExecutor(9)
        waiting = [slow_ones.submit(slow, data) for data in 3 * [b"", head, b"GET /health HTTP"]]
        c = s.client()
        quick = many(8, lambda i: complete_or_503(c, i), range(8))
        check("beside slow clients others are served", quick == answers)
        took = [x.result() for x in waiting]
        check("slow clients are cut off", all(1.5 < t < 15 for t in took), took)
        with socket.create_connection(("127.0.0.1", s.port)) as one:  # takes nothing of its answer
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            body = json.dumps(dict(LONG, stream=True, logprobs=5)).encode()
            one.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s"
                        % (len(body), body))
            time.sleep(0.2)
            check("who reads nothing is cut off", s.idle_within(10 + 2 * seconds))


def complete_or_503(client, i):
    try:
        return client.completions.create(model="m", prompt=TEXT[50 * i:50 * i + 40 * (1 + i)],
                                         max_tokens=40, temperature=i % 2, seed=1).choices[0].text
    except openai.InternalServerError as error:
        return error.status_code


def check_end(model):
    for number, status in ((1, 0), (2, 1)):
        with Server(model, "--slots", "2", status=status) as s:
            c = s.client()
            texts = [c.completions.create(stream=True, **dict(LONG, max_tokens=3000))
                     for _ in range(3)]
            for stream in texts[:2]:
                next(iter(stream))
            s.process.send_signal(signal.SIGINT)
            if number == 2:
                time.sleep(0.3)
                s.process.send_signal(signal.SIGINT)
                start = time.time()
                s.process.wait(10)
                check("a second Ctrl-C ends it at once", time.time() - start < 3)
                continue
            end = time.time() + 5
            refused = False
            while not refused and time.time() < end:
                try:
                    s.state()
                    time.sleep(0.05)
                except OSError:
                    refused = True
            check("nobody is accepted any more", refused)
            counts = [sum(bool(x.choices[0].text) for x in stream) for stream in texts]
            check("what was asked for comes to its end", min(counts) >= 1499, counts)


# ---- random bodies -----------------------------------------------------------------------------
def random_body(r):
    bodies = [json.dumps(chat_of(r.randrange(16), r.randrange(1, 9))).encode(),
              json.dumps(dict(GOOD, stream=True, stop=["a", "\u00e9"], logprobs=True, n=2,
                              top_logprobs=3, stream_options={"include_usage": True})).encode(),
              json.dumps({"prompt": ["The", "int"], "logit_bias": {"5": 3, "9": -100}, "seed": 3,
                          "logprobs": 2, "max_tokens": 9, "top_p": 0.5}).encode(),
              r.choice(BAD)[0].encode()[:400],
              bytes(r.randrange(256) for _ in range(r.randrange(200)))]
    body = bytearray(r.choice(bodies))
    words = [b"null", b"true", b"-1", b"1e400", b"9" * 30, b"{}", b"[]", b'""', b'"\\ud83d\\ude00"',
             b"0.5", b"\xff", b"\x00", b",", b":", b'"', b"[" * 70, b'"stream":true,', b"2"]
    for _ in range(r.choice([0, 0, 1, 1, 2, 3])):
        at, end = r.randrange(len(body) + 1), r.randrange(len(body) + 1)
        kind = r.randrange(5)
        if kind == 0:
            body[at:at] = r.choice(words)
        elif kind == 1:
            body[at:at + r.randrange(9)] = b""
        elif kind == 2 and body:
            body[at % len(body)] = r.randrange(256)
        elif kind == 3:
            body[at:at] = body[min(at, end):max(at, end)][:300]
        else:
            values = list(re.finditer(rb':\s*("[^"]*"|[-0-9.]+|true|null)', body))
            if values:
                value = r.choice(values)
                body[value.start(1):value.end(1)] = r.choice(words)
    return bytes(body)


def check_random(model, n):
    with Server(model, "--format", "none", "--context", "256", "--timeout", "10", "--queue", "40",
                "--piece", "64") as s:
        counts = {}

        def some(seed):
            r = random.Random(seed)
            connection = http.client.HTTPConnection("127.0.0.1", s.port, timeout=60)
            for _ in range(n // 8):
                body = random_body(r)
                path = r.choice(["/v1/chat/completions", "/v1/completions"])
                kind = r.randrange(40)
                if kind < 2:           # goes away, before or after the end of the request
                    with socket.create_connection(("127.0.0.1", s.port)) as one:
                        one.sendall(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" %
                                    (path.encode(), len(body) + kind, body))
                    continue
                if kind == 2:          # no HTTP
                    with socket.create_connection(("127.0.0.1", s.port)) as one:
                        one.sendall(body + b"\r\n\r\n")
                    continue
                connection.request("POST", path, body)
                answer = connection.getresponse()
                text = answer.read()
                counts[answer.status] = counts.get(answer.status, 0) + 1
                good = answer.status in (200, 400, 503)
                try:
                    for line in text.decode("utf-8").split("\n\n"):
                        line = line[6:] if line.startswith("data: ") else line
                        if line and line != "[DONE]":
                            json.loads(line)
                except ValueError as error:
                    good = False
                if not good:
                    check("a random body", False, (body, answer.status, text))
            connection.close()
        many(8, some, range(8))
        print("     %d random bodies: %s" % (n, sorted(counts.items())))
        check("random bodies, some of them good", counts.get(200, 0) > n / 50, counts)
        check("nothing is left of them", s.idle_within(5), s.state())
        check("and it still answers", s.post("completions", prompt="a", max_tokens=2)[0] == 200)


# ---- speed -------------------------------------------------------------------------------------
def bench(model):
    """the same greedy text by build/generate and by the server, the best of some times each"""
    def bare(prompt, n):
        run = subprocess.run(["build/generate", model, prompt, "--temperature", "0", "--tokens",
                              str(n)], capture_output=True, text=True, errors="replace").stderr
        a, b, c, d = re.search(r"prompt: (\d+) tokens, (\d+) tokens/s; then (\d+) tokens, (\d+)",
                               run).groups()
        return int(a), int(a) / int(b), int(c), int(c) / int(d)
    prompt, n = TEXT[:200], 200
    while bare(prompt, 1)[0] < 512:
        prompt = TEXT[:len(prompt) + 8]
    n_prompt = bare(prompt, 1)[0]
    fresh = iter(range(1000, 10000))   # a number in front: nothing of a prompt is there already
    with Server(model) as s:
        def serve(text, n_new):
            start = time.time()
            usage = s.post("completions", prompt="%d" % next(fresh) + text, max_tokens=n_new,
                           temperature=0)[1]["usage"]
            return time.time() - start, usage["completion_tokens"]
        bare_first = bare_token = first = token = 1e9
        eight = 0
        for _ in range(5):
            bare_first = min(bare_first, bare("%d" % next(fresh) + prompt[4:], 1)[1])
            first = min(first, serve(prompt[4:], 1)[0])
            _, prefill, count, seconds = bare("%d" % next(fresh) + prompt[:60], n)
            bare_token = min(bare_token, (prefill + seconds) / count)
            seconds, count = serve(prompt[:60], n)
            token = min(token, seconds / count)
            start = time.time()
            counts = many(8, lambda _: serve(prompt[:60], n)[1], range(8))
            eight = max(eight, sum(counts) / (time.time() - start))
    print("first token of %d: bare %.1f ms, served %.1f ms: %.3f times" %
          (n_prompt, 1e3 * bare_first, 1e3 * first, first / bare_first))
    print("one client: bare %.2f ms a token, served %.2f ms: %.3f times" %
          (1e3 * bare_token, 1e3 * token, token / bare_token))
    print("eight clients: %.1f tokens/s together, one %.1f: %.2f times" %
          (eight, 1 / token, eight * token))


if options.bench:
    bench(options.bench)
else:
    gpt2 = train("gpt2", "--arch", "gpt2", "--context", "8192", "--width", "64")
    moe = train("moe", "--arch", "deepseek", "--context", "2048")
    start = time.time()
    check_answers(gpt2)
    check_answers(moe)
    check_answers(moe, "--piece", "64", "--slots", "5")
    subprocess.run(["build/quantize", moe, moe + ".gguf", "--type", "Q8_0"], check=True,
                   stdout=subprocess.DEVNULL)
    check_answers(moe + ".gguf")
    check_fields(moe, True)
    check_fields(gpt2, False)
    check_chat(make_chat_model(gpt2))
    check_refused(gpt2)
    check_clients(gpt2)
    check_end(gpt2)
    check_random(moe, options.bodies)
    print("%d passed, %d failed" % (passed, failed))
sys.exit(failed != 0)
