"""Our reading of env files against the real ``docker compose config``, on generated files. No engine is needed."""

import base64
import contextlib
import json
import os
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from reconciler.core.dotenv.grammar import EnvFileError
from reconciler.core.dotenv.interpolation import resolve_env_file
from reconciler.core.dotenv.quoting import write_value
from reconciler.core.model.targets import Parser
from reconciler.core.sops.dotenv_lines import UnfitError
from reconciler.core.sops.normal_form import normal_form

pytestmark = pytest.mark.docker

PROJECT = "differential"
OUTSIDE = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": os.environ.get("HOME", "/"),
    "EL_SET": "fromos",
    "EL_EMPTY": "",
}
# Compose puts the project's name into the environment that references see.
SEEN = {**OUTSIDE, "COMPOSE_PROJECT_NAME": PROJECT}

CORPUS = Path(__file__).parent.parent / "data" / "env-corpus.jsonl"
FILES = 1000  # per seed
BATCH = 100  # services in one project
REFUSED = 15  # per seed; each costs a call of its own

KEYS = (
    *("A", "B", "C", "A", "B", "EL_SET", "EL_EMPTY", "a.b", "x-y", "[k]", "1", "_", "é", "Ⅳ", "²", "exported", ""),
    *("export", "export A", "export\tB", "export\fC", "export\vC", "export\n", "A B", "A\tB", "A\u00a0B", "A\x85"),
    *("A@B", "A#", "$A", "A\u2003", "A\x1c", "\u00a0A", "\u2003A", "\ufeffA", "日本"),
)
DELIMITERS = ("=",) * 12 + (":", ": ", " = ", "= ", "=\t", "\t=", "=\u00a0", "\u00a0=", "=\u3000", "=\v", "\n", "")
REFERENCES = (
    *("$A", "$B", "$EL_SET", "$EL_EMPTY", "$UNSET", "${A}", "${EL_SET}", "${UNSET}", "$COMPOSE_PROJECT_NAME"),
    *("${A:-", "${A-", "${UNSET:-", "${UNSET-", "${EL_EMPTY:-", "${EL_EMPTY-", "${EL_SET:+", "${EL_EMPTY+"),
    *("${EL_EMPTY:+", "${A+", "${UNSET+", "${EL_SET:?", "${EL_SET?", "${EL_EMPTY?", "${EL_EMPTY:?", "${A?"),
    *("${A:=", "${A[0]}", "${A", "${", "${}", "${1}", "$1", "$", "$$", "$ſ", "${ſ}", "${\u212a:-", "${ı}", "$é"),
)
TEXT = (
    *("a", "b c", "#", " #", " # c", "\t#", " ", "  ", "\t", "=", ":", "-", "+", "?", "}", "}", "}", "{", "{}", "{{"),
    *("\\", "\\\\", "\\n", "\\t", "\\a", "\\c", "\\x41", "\\$", '\\"', "\\'", "\\0", "\\0101", "\\0377", "\\0400"),
    *("\\08", "\\0128", "'", '"', "`", "\n", "\r\n", "\r", "\v", "\x85", "\u00a0", "\u2028", "\u3000", "\x1c", "\x1b"),
    *("é", "日", "😀", "e\u0301", "\u200b", "\ufeff", "\ufffd", "\x00", "<&>", "export ", "B=2", "\nB=2\n", "\n# c\n"),
)
BRACES = (
    *("${A:-", "${A-", "${EL_SET:-", "${EL_SET:+", "${X:-", "${X+", "${X?", "${EL_SET?", "{", "{", "{}", "{{", "}"),
    *("}", "}", "}", "x", "y", "$$", "$A", "${A}", "\n", "$", " "),
)
BYTES = (b"\xff", b"\xc3", b"\xa9", b"\xe2\x82", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xef\xbb\xbf")


def some_bytes(rng: random.Random) -> bytes:
    pool: Sequence[str | bytes] = rng.choices((TEXT, REFERENCES, BYTES), (10, 8, 1))[0]
    piece = rng.choice(pool)
    return piece if isinstance(piece, bytes) else piece.encode()


def value(rng: random.Random) -> bytes:
    text = b"".join(some_bytes(rng) for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 4, 6))))
    if rng.random() < 0.6:  # mostly close what was opened, or nearly every file would be refused
        text += b"}" * (text.count(b"${") - text.count(b"}"))
    quote = rng.choice((b"", b"", b"", b"'", b'"', b'"'))
    if quote and rng.random() < 0.8:
        text = text.replace(quote, b"\\" + quote if rng.random() < 0.5 else b"")
    after = rng.choice((b"", b"", b"", b" ", b" # c", b"#", b"x", b" C=3", b"C:3")) if quote else b""
    return quote + text + quote + after


def written_file(rng: random.Random) -> bytes:
    lines = []
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        key, delimiter = rng.choice(KEYS if rng.random() < 0.3 else KEYS[:7]), rng.choice(DELIMITERS)
        lines.append(key.encode() + delimiter.encode() + value(rng))
    text = rng.choice((b"\n", b"\n", b"\n", b"\r\n")).join(lines)
    return rng.choice((b"", b"", b"", b"\xef\xbb\xbf", b"# c\n", b"\n \t")) + text + rng.choice((b"\n", b"\n", b""))


def braces_file(rng: random.Random) -> bytes:
    """Defaults within defaults, and braces that do not pair: where one reference ends is the hardest rule."""
    text = "".join(rng.choice(BRACES) for _ in range(rng.randint(2, 12))) + "}" * rng.randint(0, 4)
    quote = rng.choice(('"', '"', ""))
    return f"A=a\nB={quote}{text}{quote}\n".encode()


def mutated_file(rng: random.Random, originals: Sequence[bytes]) -> bytes:
    data = rng.choice(originals)
    for _ in range(rng.choice((1, 1, 2, 3))):
        start = rng.randint(0, len(data))
        stop = min(len(data), start + rng.choice((0, 0, 0, 1, 1, 3)))
        data = data[:start] + some_bytes(rng) + data[stop:]
    return data


def corpus() -> list[bytes]:
    cases = [json.loads(line) for line in CORPUS.read_text("utf-8").splitlines()]
    return [base64.b64decode(case["text_b64"]) if "text_b64" in case else case["text"].encode() for case in cases]


def generate(seed: int, count: int) -> list[bytes]:
    rng = random.Random(seed)
    originals = [data for data in corpus() if len(data) < 500]
    makers = (written_file, braces_file, lambda rng: mutated_file(rng, originals))
    return [rng.choice(makers)(rng) for _ in range(count)]


def ours(data: bytes) -> dict[str, str] | None:
    try:
        return resolve_env_file(data, SEEN)
    except EnvFileError:
        return None


def theirs(directory: Path, files: Sequence[bytes]) -> list[dict[str, str] | None]:
    """Return what each file gives a service of its own; None where Compose refuses it. Bisects a refused batch."""
    services = {}
    for number, data in enumerate(files):
        (directory / f"{number}.env").write_bytes(data)
        services[f"s{number}"] = {"image": "x", "env_file": [f"{number}.env"]}
    model = directory / "compose.yaml"
    model.write_text(json.dumps({"services": services}))
    command = ["docker", "compose", "--project-name", PROJECT, "--file", str(model), "config", "--format", "json"]
    result = subprocess.run(command, env=OUTSIDE, capture_output=True, check=False, timeout=60)
    if result.returncode == 0:
        resolved = json.loads(result.stdout)["services"]
        return [undoubled(resolved[name].get("environment", {})) for name in services]
    if len(files) == 1:
        return [None]
    half = len(files) // 2
    return theirs(directory, files[:half]) + theirs(directory, files[half:])


def undoubled(environment: dict[str, str]) -> dict[str, str]:
    """``config`` doubles every dollar sign, in keys too."""
    return {key.replace("$$", "$"): text.replace("$$", "$") for key, text in environment.items()}


@pytest.mark.parametrize(
    "seed", [pytest.param(n, id=f"seed-{n}") for n in (1, 2, 3)] + [pytest.param(None, id="fresh")]
)
def test_compose_reads_generated_files_as_we_do(seed: int | None, tmp_path: Path) -> None:
    if seed is None:
        seed = random.SystemRandom().getrandbits(32)
    files = generate(seed, FILES)
    accepted = [data for data in files if ours(data) is not None]
    refused = [data for data in files if ours(data) is None]
    batches = [accepted[start : start + BATCH] for start in range(0, len(accepted), BATCH)]
    batches += [[data] for data in refused[:REFUSED]]
    answers = [(data, answer) for batch in batches for data, answer in zip(batch, theirs(tmp_path, batch), strict=True)]
    wrong = [f"{data!r}: we read {ours(data)}, Compose {answer}" for data, answer in answers if ours(data) != answer]
    assert not wrong, f"seed {seed}, {len(wrong)} of {len(answers)} files:\n" + "\n".join(wrong[:10])
    assert len(accepted) >= FILES // 4, f"seed {seed}: too few accepted files to say anything"


def test_compose_gives_a_container_every_value_as_it_was_before_we_wrote_it(tmp_path: Path) -> None:
    rng = random.Random(4)
    values = ["".join(rng.choices((*TEXT, *REFERENCES, *BRACES), k=rng.randint(0, 6))) for _ in range(FILES)]
    values = [value for value in values if "\0" not in value]
    files = [f"KEY={write_value(value.encode(), Parser.COMPOSE)}\n".encode() for value in values]
    batches = [files[start : start + BATCH] for start in range(0, len(files), BATCH)]
    answers = [answer for batch in batches for answer in theirs(tmp_path, batch)]
    assert answers == [{"KEY": value} for value in values]


def test_compose_reads_a_normal_form_as_it_reads_the_file(tmp_path: Path) -> None:
    pairs = []
    for data in [*corpus(), *generate(random.SystemRandom().getrandbits(32), FILES)]:
        if ours(data) is not None:
            with contextlib.suppress(UnfitError):
                pairs.append((data, normal_form(data, Parser.COMPOSE).data))
    for start in range(0, len(pairs), BATCH):
        before, after = zip(*pairs[start : start + BATCH], strict=True)
        answers = zip(theirs(tmp_path, before), theirs(tmp_path, after), before, after, strict=True)
        assert [pair for old, new, *pair in answers if old != new] == []
    assert len(pairs) > FILES // 4
