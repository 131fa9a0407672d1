"""What the documentation names exists: links, anchors, and paths of the code."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from docs import outputs
from tests.support.cases import each
from tests.support.commands import run

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path for pattern in ("*.md", "docs/**/*.md", "envs/*.md", "tests/**/*.md") for path in ROOT.glob(pattern)
)
EACH = each("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())

# Folders of the project's own files; those below the package may be named without it: `engine/execute.py`.
FOLDERS = "adapters|app|benchmarks|cli|core|demo|deploy|docs|engine|reconciler|tests"
NAMED_PATH = re.compile(rf"(?<![\w./<>-])(?:{FOLDERS})/[\w./-]*(?:\.(?:py|md|yml|json|sh|service)\b|/(?=[`\s)]))")
NAMED_MODULE = re.compile(r"`(\w+\.py)`")
NAMED_TEST = re.compile(r"\b(tests/[\w/]+\.py)::(\w+)")
MODULES = {path.name for folder in ("reconciler", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")}


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors that forges make of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@EACH
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", without_code(page.read_text()))
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        linked = (page.parent / path).resolve() if path else page
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            broken.append(link)
    assert broken == []


@EACH
def test_every_path_that_is_named_exists(page: Path) -> None:
    text = page.read_text()
    named = set(NAMED_PATH.findall(text))
    missing = {path for path in named if not any((root / path).exists() for root in (ROOT, ROOT / "reconciler"))}
    assert sorted(missing | set(NAMED_MODULE.findall(text)) - MODULES) == []


@EACH
def test_every_test_that_is_named_exists(page: Path) -> None:
    named = set(NAMED_TEST.findall(page.read_text()))
    tests = {path: (ROOT / path).read_text() if (ROOT / path).exists() else "" for path, _ in named}
    assert sorted(f"{path}::{name}" for path, name in named if f"def {name}(" not in tests[path]) == []


@EACH
def test_outputs_that_a_page_shows_are_what_the_program_prints(page: Path) -> None:
    scenes = outputs.read_transcript(outputs.TRANSCRIPT.read_text())
    assert page.read_text() == outputs.refresh(page.read_text(), scenes)  # else: make outputs


def test_the_picture_shows_what_the_demo_printed() -> None:
    scenes = outputs.read_transcript(outputs.TRANSCRIPT.read_text())
    assert outputs.PICTURE.read_text() == outputs.picture(scenes)  # else: make outputs


@pytest.mark.slow
def test_the_site_is_built_without_a_broken_link_or_a_page_outside_its_navigation(tmp_path: Path) -> None:
    build = (Path(sys.executable).parent / "sphinx-build", "--fail-on-warning", "--keep-going", "--nitpicky")
    made = run(*build, ROOT / "docs", tmp_path / "site")
    assert made.returncode == 0, made.stderr.decode()
    assert (tmp_path / "site" / "searchindex.js").is_file()
    navigation = (tmp_path / "site" / "index.html").read_text()
    pages = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")]
    outside = [page for page in pages if f'href="{page}"' not in navigation and "decisions/0" not in f"{page}"]
    assert outside == [Path("index.html")]


def test_the_readme_has_a_row_for_each_command() -> None:
    from reconciler.cli.main import app  # here, so that a broken command fails this test alone

    table = (ROOT / "README.md").read_text().partition("| command |")[2].partition("\n\n")[0]
    cells = " ".join(row.split(" | ")[0] for row in table.splitlines())
    assert sorted(name for name in app.commands if not re.search(rf"`{name}\b", cells)) == []


def test_the_limits_are_those_of_the_code() -> None:
    from reconciler.adapters.git import branch_merges, command, mirror_directory, writer
    from reconciler.adapters.local import live_files
    from reconciler.app.config import conflicts, scalars, strict_yaml
    from reconciler.app.daemon.http import connections, webhook
    from reconciler.core import contract, tree
    from reconciler.core.sops import patterns
    from reconciler.engine import merge_plans

    mib = 1024 * 1024
    facts = {
        "a source, or any other file, in git": f"{patterns.MAX_BYTES // mib} MiB",
        "lines of a dotenv source": f"{patterns.MAX_NODES:,}",
        "levels of a YAML or JSON source": f"{patterns.MAX_DEPTH}",
        "a live file": f"{live_files.LARGEST_FILE // mib} MiB",
        "one value that a contract judges": f"{contract.MAX_VALUE // 1024} KiB",
        "`environment.yaml`": (
            f"{strict_yaml.MAX_BYTES // mib} MiB, {strict_yaml.MAX_VALUES:,} values, {strict_yaml.MAX_DEPTH} levels"
        ),
        "targets of an environment": f"{conflicts.MAX_TARGETS:,}",
        "hosts of a stack": f"{conflicts.MAX_HOSTS}",
        "a path in either file": f"{scalars.MAX_PATH_BYTES:,} bytes, {scalars.MAX_PATH_PARTS} levels",
        "files and bytes that": f"{tree.MAX_FILES:,} files, {tree.MAX_TOTAL // mib} MiB",
        "what one fetch may bring": f"{mirror_directory.LARGEST_PACK // mib:,} MiB",
        "commits in one automatic revert": f"{writer.MOST_COMMITS}",
        "the body of a webhook request": f"{webhook._LARGEST_BODY // mib} MiB",
        "a branch that is planned": (
            f"{branch_merges.LARGEST_BRANCH // mib} MiB, {branch_merges.MOST_COMMITS:,} new commits where each must be "
            "signed"
        ),
        "pull requests that are planned": f"the {merge_plans.MOST_PLANNED} newest",
        "connections, of clients": f"{connections._MOST_CONNECTIONS}",
    }
    page = (ROOT / "docs" / "limits.md").read_text().partition("| what | limit |")[2].partition("\n\n")[0]
    rows = [row.strip("| ").split(" | ") for row in page.splitlines()[2:]]
    assert [limit for _, limit in rows] == list(facts.values())
    assert all(fact.startswith(beginning) for (fact, _), beginning in zip(rows, facts, strict=True))
    assert patterns.MAX_BYTES == command.LARGEST_OBJECT
