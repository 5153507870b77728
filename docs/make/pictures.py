"""Make the pictures of the docs from a real run: a terminal as SVG, the report and page as PNG.

    python docs/make/pictures.py [RUN]

Without RUN it first runs the quickstart. Chromium and chromedriver take the screenshots.
"""

from __future__ import annotations

import io
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

IMAGES = Path(__file__).resolve().parents[1] / "images"
PORT = 8765
COLUMNS = 100
# The animated bars and the output of every epoch, which a recording at rest has no use for.
_LEFT_OUT = re.compile(r"^\s*(Epoch \d|Validation|.*━{5,}.*\d:\d\d)|it/s|^\s*$")

# The lines of a run that tell what happened; the picture has room for some thirty.
_TELLING = (
    r"^› (Data|Search|Training|Test)",
    r"classes; ",
    r"logistic regression .* in ",
    r"Trials$|optim.lr ┃|^━*(╇━*){8}$",
    r"★|│ 1[89] +│",
    r"best: trial",
    r"epoch (1|2|12)/12",
    r"kept epoch",
    r"Test, |95% interval|^ (top-1|macro F1|calibration error|cross-entropy) +│",
    r"^(run|report) ",
)


def typed(command: str, folder: Path) -> str:
    """Return what a command prints to a terminal, its colors included."""
    main, other = pty.openpty()
    # breedlab of the environment that runs this, activated or not
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    process = subprocess.Popen(
        ["bash", "-c", f"stty cols {COLUMNS} rows 50; {command}"],
        stdin=other,
        stdout=other,
        stderr=other,
        cwd=folder,
        env=environment,
    )
    os.close(other)
    output = b""
    while True:
        try:
            read = os.read(main, 65536)
        except OSError:  # the other side is closed
            break
        if not read:
            break
        output += read
    if process.wait():
        raise SystemExit(f"{command} failed:\n{output[-2000:].decode()}")
    return output.decode()


def at_rest(output: str) -> list[str]:
    """Return the lines that stay on a terminal: what was overwritten is left out."""
    lines: list[str] = []
    table = 0
    for line in output.replace("\r\n", "\n").split("\n"):
        shown = line.rpartition("\r")[2]
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Zhl]", "", shown)  # cursor movements; colors stay
        if _LEFT_OUT.search(plain(shown)):
            continue
        if plain(shown).strip() == "Trials":  # drawn anew over the table before it
            del lines[table or len(lines) :]
            table = len(lines)
        lines.append(shown)
    return lines


def plain(line: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", line)


def condensed(lines: list[str]) -> list[str]:
    """Return the lines of a run that a picture has room for, with dots for what is left out."""
    kept: list[str] = []
    left_out = False
    for line in lines:
        if any(re.search(pattern, plain(line)) for pattern in _TELLING):
            if left_out:
                kept.append("  ...")
            kept.append(line)
            left_out = False
        else:
            left_out = bool(kept)
    return kept


def record(commands: dict[str, list[str]], file: Path) -> None:
    """Write what commands print as an SVG that asks nobody for a font.

    Args:
        commands: Each with the lines of its output.
        file: Where to.
    """
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for command, lines in commands.items():
        console.print(Text.assemble(("$ ", "green"), (command, "bold")))
        for line in lines:
            console.print(Text.from_ansi(line), no_wrap=True, crop=True)
    svg = console.export_svg(title="breedlab")
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code, monospace", "monospace").replace("Fira Code", "monospace")
    file.write_text(re.sub(r"\n\s*\n+", "\n", svg), "utf-8")


@contextmanager
def browser(width: int, height: int) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.binary_location = shutil.which("chromium") or ""
    options.add_argument(f"--window-size={width},{height}")
    driver = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))
    )
    try:
        yield driver
    finally:
        driver.quit()


def save(png: bytes, file: Path) -> None:
    """Write a screenshot with few colors: a fifth of the bytes."""
    image = (
        Image.open(io.BytesIO(png)).convert("RGB").quantize(128, method=Image.Quantize.MEDIANCUT)
    )
    image.save(file, optimize=True)
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


def shoot_report(run: Path, file: Path) -> None:
    with browser(1200, 900) as driver:
        driver.get((run / "report.html").resolve().as_uri())
        drawn = "return document.documentElement.dataset.drawn"
        WebDriverWait(driver, 60).until(lambda _: driver.execute_script(drawn))
        save(driver.get_screenshot_as_png(), file)


def shoot_page(run: Path, image: Path, file: Path) -> None:
    command = [sys.executable, "-m", "breedlab.cli", "serve", str(run), "--port", str(PORT)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/ping").close()
                break
            except OSError:
                time.sleep(0.5)
        with browser(1000, 820) as driver:
            driver.get(f"http://127.0.0.1:{PORT}/")
            driver.find_element(By.CSS_SELECTOR, "input[type=file]").send_keys(str(image.resolve()))
            time.sleep(4)
            save(driver.get_screenshot_as_png(), file)
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1]).resolve().parents[2] if len(sys.argv) > 1 else Path(scratch)
        commands: dict[str, list[str]] = {}
        if len(sys.argv) > 1 and (folder / "quickstart.typescript").exists():
            shown = (folder / "quickstart.typescript").read_text("utf-8")
        else:
            shown = typed("breedlab launch experiment=quickstart", folder)
            (folder / "quickstart.typescript").write_text(shown, "utf-8")
        commands["breedlab launch experiment=quickstart"] = condensed(at_rest(shown))
        predict = "breedlab predict runs/latest data/sample/test/*/0001.jpg --top 2"
        commands[predict] = at_rest(typed(predict, folder))[:8]
        IMAGES.mkdir(exist_ok=True)
        record(commands, IMAGES / "demo.svg")
        shoot_report(folder / "runs" / "latest", IMAGES / "report.png")
        image = sorted((folder / "data/sample/test").glob("*/0001.jpg"))[0]
        shoot_page(folder / "runs" / "latest", image, IMAGES / "page.png")


if __name__ == "__main__":
    main()
