"""docs/tutorial.md and the guides that can be run: each command is run, and what a page shows is what comes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import engine
from tests.support.commands import run
from tests.support.compose import ComposeProject
from tests.support.pages import DOCS, MARK, Block, judge, read_blocks, run_blocks

TUTORIAL = DOCS / "tutorial.md"
IMAGE = "busybox:1.36"
# A developer's clone of a configuration, and the server that it came from, which follows it.
CLONE = f"""
mkdir -p server/app && cd server
printf 'API_TOKEN=an-invented-token\\nLOG_LEVEL=info\\n' > app/api.env
printf 'services: {{api: {{image: "{engine.IMAGE}", env_file: api.env}}}}\\n' > app/compose.yaml
git init --quiet --bare --initial-branch main origin.git
git init --quiet --initial-branch main config
cd config
reconciler init production --age-key-file ../age.key
git add --all && git commit --quiet --message Start
export SOPS_AGE_KEY_FILE=$HOME/server/age.key
reconciler import production "file:$HOME/server/app" --yes
git merge --quiet reconciler/import-production
git remote add origin ../origin.git && git push --quiet --set-upstream origin main
cat > ../reconciler.yaml <<END
environment: production
repository: {{url: $HOME/server/origin.git}}
decryption: {{age_key_file: $HOME/server/age.key}}
allowed_paths: [$HOME/server/app]
state_dir: $HOME/server/state
END
export RECONCILER_CONFIG=$HOME/server/reconciler.yaml
"""
BEFORE = {
    "rotate-a-secret": "",
    "merge-conflict": """
git switch --quiet --create quieter
echo warning | reconciler set production/api.env LOG_LEVEL && git commit --quiet --all --message "Log less"
git switch --quiet main
echo an-invented-token-2 | reconciler set production/api.env API_TOKEN && git commit --quiet --all --message Rotate
""",
    "disaster": "rm ../app/api.env\n",
}


@pytest.fixture
def busybox(docker_engine: str) -> Iterator[None]:
    """The tutorial's image, without a registry. No other test may have the name: it is removed at the end."""
    if run("docker", "image", "inspect", IMAGE).returncode == 0:
        yield
        return
    assert run("docker", "tag", docker_engine, IMAGE).returncode == 0
    yield
    run("docker", "image", "rm", IMAGE)


@pytest.mark.docker
@pytest.mark.usefixtures("busybox")
def test_every_command_of_the_tutorial_does_what_the_page_says(tmp_path: Path) -> None:
    blocks, home = read_blocks(TUTORIAL), tmp_path / "home"
    assert len(blocks) > 10
    try:
        done = run_blocks(blocks, home)
    finally:
        ComposeProject("reconciler-tutorial", tmp_path).remove()
    judge(TUTORIAL, blocks, done)
    assert sorted(path.name for path in home.iterdir() if path.name != ".docker") == [".gitconfig"]


@pytest.mark.docker
@pytest.mark.usefixtures("docker_engine")
@pytest.mark.parametrize("guide", BEFORE)
def test_every_command_of_a_guide_does_what_the_page_says(guide: str, tmp_path: Path) -> None:
    page = DOCS / "guides" / f"{guide}.md"
    blocks = read_blocks(page)
    judge(page, blocks, run_blocks(blocks, tmp_path / "home", CLONE + BEFORE[guide]))


def test_the_page_is_linked_and_its_checks_can_fail() -> None:
    assert "docs/tutorial.md" in (DOCS.parent / "README.md").read_text()
    (block, *_) = read_blocks(TUTORIAL)
    wrong = Block(block.commands, block.line, ["never shown"])
    output = f"something\n{MARK.format(0, 0)}\n".encode()
    with pytest.raises(AssertionError, match="does not show"):
        judge(TUTORIAL, [wrong], subprocess.CompletedProcess([], 0, output, b""))
    with pytest.raises(AssertionError, match="did not end with 0"):
        judge(TUTORIAL, [block], subprocess.CompletedProcess([], 1, b"something\n", b"why"))
