"""`make verify`: every test file with its deep cases, resumable.

Each file runs in a process of its own, several at a time, the longest known ones first. What has
passed is kept in build/verify and not run again while the sources and the tests that the file
names are as they were, so an interrupted or mended run goes on where it was.

    python scripts/verify.py [--again] [--jobs N] [FILE ...]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "build" / "verify"
# These decide what a test does only if it names one.
DOCUMENTS = {".md", ".svg", ".png"}
TEST_FILE = re.compile(r"tests/(.*/)?test_\w+\.py$")
NAMED = re.compile(r"\btests\.[\w.]+")  # imported, or a bench that a simulator is told
# These come first while no time is known: mutants, many builds, proofs, whole chips.
LONG = ("tests/mutation", "tests/drawn", "tests/formal", "tests/test_")
LOOKS_AROUND = re.compile(r"rglob|ls-files")
READS = re.compile(r"\.(md|svg|png)\b|\bdocs\b|README")
TOLD = 40  # lines of a failed file's output
COUNT = re.compile(r"(\d+) (passed|failed|skipped|error)")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one test file."""

    file: str
    passed: int
    skipped: int
    failed: int
    seconds: float


class Sources:
    """All that git tracks or would track."""

    def __init__(self) -> None:
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.splitlines()  # fmt: skip
        paths = [ROOT / name for name in sorted(listed)]
        every = {str(path.relative_to(ROOT)): path.read_bytes() for path in paths if path.is_file()}
        self.tests = {name: text for name, text in every.items() if TEST_FILE.match(name)}
        self._digests = {name: hashlib.sha256(text).digest() for name, text in every.items()}
        installed = {f"{one.name} {one.version}" for one in distributions()}
        self._tools = "\n".join([sys.version, *sorted(installed), str(shutil.which("verilator"))])

    def digest(self, file: str) -> str:
        """Digest of what decides the result of a test file: what is installed, all sources, and of
        the tests itself and those that it names as modules, or all if it looks at the tree;
        documents if one of these reads any.
        """
        wanted, found, reads = [file], set(), False
        while wanted:
            name = wanted.pop()
            if name in found:
                continue
            found.add(name)
            text = self.tests[name].decode()
            around = bool(LOOKS_AROUND.search(text))
            wanted += self.tests if around else ()
            reads = reads or around or bool(READS.search(text))
            for module in NAMED.findall(text):
                start = module.replace(".", "/")
                wanted += [other for other in self.tests if other.startswith(start)]
        whole = hashlib.sha256(self._tools.encode())
        for name, digest in self._digests.items():
            source = reads or Path(name).suffix not in DOCUMENTS
            if name in found if name in self.tests else source:
                whole.update(name.encode() + b"\0" + digest)
        return whole.hexdigest()[:16]


def known_seconds() -> dict[str, float]:
    """Seconds that each file took when it passed last."""
    found: dict[str, float] = {}
    for path in sorted(KEPT.glob("*.json"), key=lambda path: path.stat().st_mtime):
        result = Result(**json.loads(path.read_text()))
        found[result.file] = result.seconds
    return found


def run(file: str, kept: Path) -> tuple[Result, str]:
    """Run a file, unless its result is kept; the output is empty if it is."""
    if kept.exists():
        return Result(**json.loads(kept.read_text())), ""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-o", f"cache_dir={KEPT / 'pytest'}", file],
        cwd=ROOT, env={**os.environ, "TOKENLOOM_DEEP": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    counts = dict.fromkeys(("passed", "failed", "skipped", "error"), 0)
    for number, what in COUNT.findall(done.stdout.splitlines()[-1] if done.stdout else ""):
        counts[what] = int(number)
    failed = counts["failed"] + counts["error"]
    if done.returncode not in (0, 5) and not failed:  # 5: no test for this machine
        failed = 1
    result = Result(
        file=file,
        passed=counts["passed"],
        skipped=counts["skipped"],
        failed=failed,
        seconds=round(time.monotonic() - start, 1),
    )
    if not failed:
        KEPT.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(asdict(result)))
        temporary.replace(kept)
    return result, done.stdout


def main() -> int:
    """Run all files and say what became of them; 1 if one failed."""
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    options.add_argument("files", nargs="*", help="test files; all if none is named")
    options.add_argument("--again", action="store_true", help="run what has passed as well")
    options.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = options.parse_args()
    sources, before = Sources(), known_seconds()
    files = given.files or sorted(sources.tests)
    if unknown := set(files) - set(sources.tests):
        options.error(f"no test file: {', '.join(sorted(unknown))}")
    files.sort(key=lambda file: (-before.get(file, math.inf), not file.startswith(LONG)))
    kept = {file: KEPT / f"{file.replace('/', '.')}-{sources.digest(file)}.json" for file in files}
    if given.again:
        for path in kept.values():
            path.unlink(missing_ok=True)
    results: list[Result] = []
    start = time.monotonic()
    with ThreadPoolExecutor(given.jobs) as pool:
        jobs = [pool.submit(run, file, kept[file]) for file in files]
        for number, job in enumerate(as_completed(jobs), 1):
            result, output = job.result()
            results.append(result)
            state = "FAILED" if result.failed else "passed" if output else "kept  "
            print(
                f"[{number}/{len(files)}, {time.monotonic() - start:.0f} s] {state} "
                f"{result.file}: {result.passed} passed, {result.skipped} skipped, "
                f"{result.seconds} s",
                flush=True,
            )
            if result.failed:
                print("\n".join(output.splitlines()[-TOLD:]))
                print(f"repeat with: TOKENLOOM_DEEP=1 python -m pytest {result.file}", flush=True)
    passed = sum(result.passed for result in results)
    failed = sum(result.failed for result in results)
    print(f"{passed} passed, {failed} failed, {sum(r.skipped for r in results)} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
