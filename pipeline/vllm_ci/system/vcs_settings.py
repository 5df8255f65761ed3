"""Settings for every call of git, so that its output does not depend on the user's configuration.

The user's and the system's configuration still apply (no ``GIT_CONFIG_NOSYSTEM``): users configure credential helpers, proxies,
certificates, ``insteadOf``, SSH commands and ``safe.directory`` there. The settings here override hooks, pagers, colours and
programs that git would start.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

# Variables that git sets for hooks, that select another repository, or that change git's output (git(1), ENVIRONMENT).
_FOREIGN = frozenset(
    {
        *("GIT_DIR", "GIT_WORK_TREE", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_INDEX_VERSION", "GIT_OBJECT_DIRECTORY"),
        *("GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_QUARANTINE_PATH", "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_NAMESPACE"),
        *("GIT_INTERNAL_SUPER_PREFIX", "GIT_GRAFT_FILE", "GIT_SHALLOW_FILE", "GIT_REPLACE_REF_BASE", "GIT_CONFIG"),
        *("GIT_EXTERNAL_DIFF", "GIT_DIFF_OPTS", "GIT_PAGER", "GIT_PAGER_IN_USE", "GIT_DEFAULT_HASH", "GIT_DEFAULT_REF_FORMAT"),
        *("GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS", "GIT_ATTR_SOURCE"),
        *("GIT_REFLOG_ACTION", "GIT_PUSH_OPTION_COUNT", "GIT_EDITOR", "GIT_SEQUENCE_EDITOR", "SSH_ASKPASS"),
    }
)

_SETTINGS = {
    "advice.detachedHead": "false",
    "advice.graftFileDeprecated": "false",
    "color.ui": "false",
    "core.fsmonitor": "false",  # may be a program
    "core.hooksPath": "/dev/null",
    "core.pager": "cat",
    "core.quotePath": "false",
    "diff.relative": "false",
    "fetch.recurseSubmodules": "false",
    "gc.auto": "0",
    "log.showSignature": "false",
    "maintenance.auto": "false",
    "push.recurseSubmodules": "no",
    "submodule.recurse": "false",
}

# Set by CI providers: no person is present, so a GIT_ASKPASS program there (such as Jenkins' bindings) does not prompt.
_UNATTENDED = ("CI", "JENKINS_URL", "GITLAB_CI", "GITHUB_ACTIONS")

_PASSWORD = "VLLM_CI_GIT_PASSWORD"  # noqa: S105 - a name
# A credential helper (gitcredentials(7)) that answers from the environment; the empty one before it disables all others.
_ANSWER = f'printf "username=%s\\npassword=%s\\n" "${{VLLM_CI_GIT_USERNAME:-git}}" "${_PASSWORD}"'
_HELPERS = ("", f'!f() {{ test "$1" = get && {_ANSWER}; }}; f')


def arguments_of(env: Mapping[str, str]) -> list[str]:
    """Arguments of ``git`` before the subcommand."""
    pairs = [*_SETTINGS.items(), *((("core.askPass", ""),) if not env.get("GIT_ASKPASS") else ())]
    if env.get(_PASSWORD):
        pairs += [("credential.helper", value) for value in _HELPERS]
    return ["--no-pager", *(part for name, value in pairs for part in ("-c", f"{name}={value}"))]


def environment(environ: Mapping[str, str], cwd: Path) -> dict[str, str]:
    """The environment that git runs in."""
    env = {name: value for name, value in environ.items() if name not in _FOREIGN}
    if not any(env.get(name) for name in _UNATTENDED):
        env.pop("GIT_ASKPASS", None)
    env |= {
        "GIT_GRAFT_FILE": os.devnull,
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
        "SSH_ASKPASS_REQUIRE": "never",
    }
    # With safe.bareRepository=explicit git does not detect bare repositories, so GIT_DIR is set explicitly.
    if _is_own_bare(cwd):
        env["GIT_DIR"] = str(cwd)
    return env


def _is_own_bare(path: Path) -> bool:
    """Whether ``path`` is a bare repository of this user; setting GIT_DIR to another user's would bypass safe.directory."""
    try:
        return (path / "objects").is_dir() and (path / "refs").is_dir() and (path / "HEAD").stat().st_uid == os.geteuid()
    except OSError:
        return False
