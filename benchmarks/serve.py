"""`vitbn serve` under load and under fire, over real HTTP on loopback; docs/serving.md holds the figures.

python benchmarks/serve.py                                    # 60 s of 8 clients, then 1,000 malformed bodies
python benchmarks/serve.py --seconds 15 --ckpt runs/study/RUN # shorter, another network (or two)

Clients ask as fast as they are answered, each over one kept connection, with the ten drawings of the browser test
as the page sends them: the sheet, 560 x 560, at half its size as PNG. The exit status is 1 after any error, or if a
malformed body is answered with anything but 200 or 400.
"""

import argparse
import http.client
import io
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.serve.fuzz import bodies  # noqa: E402
from tests.serve.handwriting import DRAWINGS, Drawing  # noqa: E402

SIDE, SENT = 560, 280
PENS = {"thin": 18, "medium": 42, "thick": 76}  # the page's, in pixels of the sheet


@contextmanager
def served(ckpt: list[str]) -> Iterator[int]:
    """The port of a server of its own."""
    weights = ["--ckpt", *ckpt] if ckpt else []
    command = [sys.executable, "-m", "vitbn.cli", "serve", "--port", "0", *weights]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            if not line:
                sys.exit(1)  # it has said why
            print(line, end="")
            yield int(line.rstrip("/\n").rpartition(":")[2])
        finally:
            process.terminate()


def sheet(drawing: Drawing) -> bytes:
    """The drawing as a PNG file."""
    picture = Image.new("RGBA", (SIDE, SIDE), "white")
    draw, width = ImageDraw.Draw(picture), PENS[drawing.pen]
    for stroke in drawing.strokes():
        points = [(x * SIDE, y * SIDE) for x, y in stroke]
        draw.line(points, fill="#111", width=width, joint="curve")
        for x, y in points:
            draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill="#111")
    content = io.BytesIO()
    picture.resize((SENT, SENT), Image.Resampling.BOX).save(content, "png")
    return content.getvalue()


def ask(connection: http.client.HTTPConnection, body: bytes) -> tuple[int, bytes]:
    connection.request("POST", "/predict", body)
    answer = connection.getresponse()
    return answer.status, answer.read()


def client(port: int, number: int, sheets: list[bytes], until: float) -> tuple[list[float], Counter]:
    """Seconds of every answer, and how often each status or error came."""
    connection, taken, outcomes = http.client.HTTPConnection("127.0.0.1", port, timeout=30), [], Counter[str]()
    for body in itertools.islice(itertools.cycle(sheets), number, None):
        start = time.perf_counter()
        if start >= until:
            return taken, outcomes
        try:
            outcomes[str(ask(connection, body)[0])] += 1
        except OSError as error:
            outcomes[type(error).__name__] += 1
            connection.close()
        taken.append(time.perf_counter() - start)
    raise AssertionError("the cycle has no end")


def load(port: int, clients: int, seconds: float) -> bool:
    """So many clients for so long; whether every answer was 200."""
    sheets = [sheet(drawing) for drawing in DRAWINGS]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    right = [json.loads(ask(connection, body)[1])["models"] for body in sheets]
    for position, model in enumerate(right[0]):
        digits = [models[position]["digit"] for models in right]
        print(f"{model['name']}: {sum(d == a.digit for d, a in zip(digits, DRAWINGS, strict=True))} of 10 digits right")
    begin = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        jobs = [pool.submit(client, port, number, sheets, begin + seconds) for number in range(clients)]
        results = [job.result() for job in jobs]
    elapsed = time.perf_counter() - begin
    taken, outcomes = [t for times, _ in results for t in times], sum((counts for _, counts in results), Counter())
    errors = len(taken) - outcomes["200"]
    cuts = statistics.quantiles(taken, n=100)
    print(
        f"{clients} clients, {elapsed:.1f} s: {len(taken):,} requests, {errors} errors, {len(taken) / elapsed:.1f} a "
        f"second, p50 {1e3 * cuts[49]:.0f} ms, p99 {1e3 * cuts[98]:.0f} ms, longest {1e3 * max(taken):.0f} ms"
    )
    return errors == 0


def fire(port: int, count: int) -> bool:
    """So many malformed bodies; whether the server stands and each was answered 200 or 400."""
    outcomes = Counter[str]()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for body in bodies(count, seed=1):  # others than the tests'
        try:
            outcomes[str(ask(connection, body)[0])] += 1
        except OSError as error:
            outcomes[type(error).__name__] += 1
            connection.close()
    connection.request("GET", "/healthz")
    stands = connection.getresponse().status == 200
    print(f"{count:,} malformed bodies: {dict(outcomes)}; the server {'stands' if stands else 'has fallen'}")
    return stands and set(outcomes) <= {"200", "400"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", nargs="+", default=[], help="default: the packaged network")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--bodies", type=int, default=1000)
    args = parser.parse_args()
    with served(args.ckpt) as port:
        good = [load(port, args.clients, args.seconds), fire(port, args.bodies)]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
