"""Stand-ins for GitHub's own actions, as act can use them without GitHub: they do the same with folders of this machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

_ACTION = """name: {name}
inputs: {{{inputs}}}
runs:
  using: composite
  steps:
    - shell: sh -eu {{0}}
      env: {{{env}}}
      run: {run}
"""
_INPUTS = {
    "checkout": ("path", "repository", "ref", "fetch-depth", "persist-credentials"),
    "cache": ("path", "key", "restore-keys"),
    "upload-artifact": ("path", "name", "include-hidden-files"),
    "download-artifact": ("path", "name"),
}
# A checkout of another repository than the caller's is one of the tool: by act, its name is empty.
_RUN = {
    "checkout": 'case "$PATH_" in vllm-ci) from=$STANDIN_TOOL ;; *) from=$STANDIN_PROJECT ;; esac; '
    'git clone --quiet "$from" "$GITHUB_WORKSPACE/$PATH_"',
    "cache": 'echo "$KEY" >> "$STANDIN_KEPT/keys"',
    "upload-artifact": 'cp -R "$PATH_" "$STANDIN_KEPT/$NAME"',
    "download-artifact": 'cp -R "$STANDIN_KEPT/$NAME" "$GITHUB_WORKSPACE/$PATH_"',
}


def make(folder: Path, files: list[Path]) -> list[str]:
    """The options for act that put the stand-ins into the place of the pinned actions that the files use."""
    options = []
    used = {found for file in files for found in re.findall(r"uses: (actions/([\w-]+)@[0-9a-f]{40})", file.read_text())}
    for pinned, name in sorted(used):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        inputs = ", ".join(f'{each}: {{default: ""}}' for each in _INPUTS[name])
        env = ", ".join(f'{each}: "${{{{ inputs.{each.strip("_").lower()} }}}}"' for each in ("PATH_", "KEY", "NAME"))
        (place / "action.yml").write_text(_ACTION.format(name=name, inputs=inputs, env=env, run=_quoted(_RUN[name])))
        git(place, "init", "--quiet", ".")
        git(place, "add", ".")
        git(place, "commit", "--quiet", "--message", name)
        options += ["--local-repository", f"{pinned}={place}"]
    return options


def git(folder: Path, *words: str) -> None:
    person = ("-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *person, *words], cwd=folder, check=True, capture_output=True)


def _quoted(command: str) -> str:
    return "'" + command.replace("'", "''") + "'"
