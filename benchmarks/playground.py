"""How soon the playground is up, and how soon it answers: strokes of several users at a time, the DDPM's first step.

    pip install -r requirements-playground.txt && python benchmarks/playground.py --users 10 --strokes 1000

Each user sends a drawing, waits for the answer, and sends the next 60 ms later, as the page does while one draws.
"""

import argparse
import base64
import io
import re
import secrets
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import common
import httpx
import numpy as np
from PIL import Image

from datasets.synthetic import make_digits
from training import PROJECT
from training.flags import positive_int

PAUSE = 0.06  # seconds between an answer and the next stroke
SIDE = 140  # pixels of a drawing
SAMPLE = ["DDPM", "all species", "normal", 1, 1, 0]  # the controls of the tab "New flowers"


def drawings(count: int) -> list[str]:
    """Different drawings, as the canvas sends them."""
    urls = []
    for digit in make_digits(count)[0][:, 0].numpy():
        png = io.BytesIO()
        Image.fromarray(digit).resize((SIDE, SIDE)).convert("RGBA").save(png, "PNG")
        urls.append(f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}")
    return urls


def start(port: int):
    """(the playground as a process, seconds until it sends its page)."""
    command = [sys.executable, "playground.py", "--port", str(port)]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL)
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/").raise_for_status()
            return process, time.perf_counter() - started
        except httpx.HTTPError:
            if process.poll() is not None:
                raise RuntimeError(f"the playground ended with status {process.returncode}") from None
            time.sleep(0.05)


def draw(url: str, urls: list[str]) -> list[float]:
    """Seconds until each of the drawings of a user is answered."""
    seconds, session = [], secrets.token_hex(5)
    with httpx.Client(timeout=30) as client:
        for drawing in urls:
            started = time.perf_counter()
            answer = client.post(
                f"{url}/gradio_api/run/answer", json={"data": [drawing, "guess"], "session_hash": session}
            )
            seconds.append(time.perf_counter() - started)
            if answer.status_code != 200 or answer.json()["data"][0].count("<img") < 14:
                raise RuntimeError(f"no answer: {answer.text[:200]}")
            time.sleep(PAUSE)
    return seconds


def first_step(url: str) -> float:
    """Seconds until the first step of the DDPM is there."""
    started = time.perf_counter()
    event = httpx.post(f"{url}/gradio_api/call/sample", json={"data": SAMPLE}).json()["event_id"]
    with httpx.stream("GET", f"{url}/gradio_api/call/sample/{event}", timeout=30) as stream:
        for line in stream.iter_lines():
            if "Step 1:" in line:
                return time.perf_counter() - started
    raise RuntimeError("the DDPM did not answer")


def main(argv=None):
    """Write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=positive_int, default=10)
    parser.add_argument("--strokes", type=positive_int, default=1000, help="of all users together")
    args = parser.parse_args(argv)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    urls, url = drawings(args.strokes), f"http://127.0.0.1:{port}"
    process, up = start(port)
    try:
        draw(url, urls[:5])  # the first ones are slower
        with ThreadPoolExecutor(args.users) as pool:
            found = list(pool.map(draw, [url] * args.users, np.array_split(urls, args.users)))
        seconds = [value for of in found for value in of]
        ddpm = first_step(url)
        peak = int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]) / 1024
    finally:
        process.terminate()
        process.wait()
    median, p95 = statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1]
    rows = [("from the command to the page", f"{up:.1f} s", "", "")]
    what = f"a stroke, {args.users} users, {len(seconds)} strokes, none failed"
    rows.append((f"{what}: median {1000 * median:.0f} ms, 95th percentile", f"{1000 * p95:.0f} ms", "", ""))
    rows.append(("the DDPM's first step", f"{1000 * ddpm:.0f} ms", "", ""))
    rows.append(("peak memory", f"{peak:.0f} MiB", "", ""))
    common.record("playground", rows)


if __name__ == "__main__":
    main()
