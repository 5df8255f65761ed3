from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from vllm_ci.domain.errors import UsageError
from vllm_ci.system import vcs, vcs_settings


def run(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false")
    env = {name: value for name, value in os.environ.items() if name not in {"GIT_PAGER", "GIT_EXTERNAL_DIFF", "GIT_EDITOR"}}
    env["GIT_CONFIG_GLOBAL"] = os.devnull
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, env=env, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    run(folder, "init", "--quiet", "--initial-branch=trunk")
    (folder / "file").write_text("one\n")
    run(folder, "add", ".")
    run(folder, "commit", "--quiet", "--message", "one")
    return folder


def test_head_is_found_with_its_branch_and_time(checkout: Path) -> None:
    commit = vcs.discover(checkout)
    assert commit.sha == run(checkout, "rev-parse", "HEAD")
    assert commit.ref == "refs/heads/trunk"
    assert commit.committed_at == int(run(checkout, "log", "-1", "--format=%ct"))
    assert not commit.dirty


@pytest.mark.parametrize("change", ["modified", "untracked", "staged"])
def test_any_change_makes_the_tree_dirty(checkout: Path, change: str) -> None:
    (checkout / ("new" if change == "untracked" else "file")).write_text("two\n")
    if change == "staged":
        run(checkout, "add", "file")
    assert vcs.discover(checkout).dirty


def test_ignored_files_do_not_make_it_dirty(checkout: Path) -> None:
    (checkout / ".gitignore").write_text("*.log\n")
    run(checkout, "add", ".gitignore")
    run(checkout, "commit", "--quiet", "--message", "ignore")
    (checkout / "run.log").write_text("noise\n")
    assert not vcs.discover(checkout).dirty


def test_another_revision_is_never_dirty(checkout: Path) -> None:
    first = run(checkout, "rev-parse", "HEAD")
    (checkout / "file").write_text("two\n")
    assert not vcs.discover(checkout, first).dirty


def test_a_detached_head_has_no_ref(checkout: Path) -> None:
    run(checkout, "checkout", "--quiet", "--detach")
    assert vcs.discover(checkout).ref == ""


def test_the_url_of_the_remote_has_no_password(checkout: Path) -> None:
    run(checkout, "remote", "add", "origin", "https://user:secret@git.example.com/team/repo.git")
    assert vcs.discover(checkout).source == "https://git.example.com/team/repo.git"
    run(checkout, "remote", "set-url", "origin", str(checkout))
    assert vcs.discover(checkout).source == ""


def test_a_folder_that_is_no_checkout_is_a_usage_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="git init"):
        vcs.root(tmp_path)


def test_an_empty_repository_has_no_commit(tmp_path: Path) -> None:
    run(tmp_path, "init", "--quiet")
    with pytest.raises(UsageError, match="has no commits"):
        vcs.discover(tmp_path)


def test_variables_of_a_git_hook_do_not_lead_elsewhere(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = run(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert vcs.discover(checkout).sha == expected


HOSTILE = {
    "log.showSignature": "true",
    "color.ui": "always",
    "color.status": "always",
    "core.pager": "false",
    "pager.status": "true",
    "core.quotePath": "true",
    "core.fileMode": "false",
    "core.attributesFile": "/nonexistent",
    "diff.external": "false",
    "diff.relative": "true",
    "diff.noprefix": "true",
    "diff.renames": "copies",
    "diff.mnemonicPrefix": "true",
    "status.showUntrackedFiles": "no",
    "status.branch": "true",
    "status.short": "true",
    "submodule.recurse": "true",
    "format.pretty": "oneline",
    "log.decorate": "full",
    "log.date": "human",
    "alias.status": "!false",
    "alias.rev-parse": "!false",
    "core.abbrev": "5",
    "safe.bareRepository": "explicit",
    "user.useConfigOnly": "true",
    "init.defaultObjectFormat": "sha256",
    "push.recurseSubmodules": "check",
    "fetch.recurseSubmodules": "true",
    "grep.column": "true",
}


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whose configuration changes all that can be changed, and a hook and a monitor that tell when they are run."""
    tell = tmp_path / "tell"
    tell.write_text(f"#!/bin/sh\necho ran >>{tmp_path}/ran\nexit 1\n", encoding="utf-8")
    tell.chmod(0o755)
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "pre-push", "post-index-change", "fsmonitor-watchman", "reference-transaction"):
        (hooks / name).symlink_to(tell)
    settings = HOSTILE | {"core.hooksPath": str(hooks), "core.fsmonitor": str(tell), "core.askPass": str(tell)}
    text = "".join(
        f'[{name.rpartition(".")[0]}]\n\t{name.rpartition(".")[2]} = "{value}"\n' for name, value in settings.items()
    )
    (tmp_path / "gitconfig").write_text(text, encoding="utf-8")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    for name in ("GIT_PAGER", "GIT_EXTERNAL_DIFF", "GIT_ASKPASS", "SSH_ASKPASS", "GIT_EDITOR"):
        monkeypatch.setenv(name, str(tell))
    monkeypatch.delenv("CI", raising=False)


@pytest.mark.usefixtures("configured")
def test_the_user_s_configuration_changes_nothing_of_what_is_found(checkout: Path, tmp_path: Path) -> None:
    from vllm_ci.images.vllm.history import History

    (checkout / "sub").mkdir()
    (checkout / "sub" / "naïve name").write_text("two\n", encoding="utf-8")
    run(checkout, "add", ".")
    run(checkout, "commit", "--quiet", "--message", "two")
    commit = vcs.discover(checkout)
    assert commit.sha == run(checkout, "rev-parse", "HEAD")
    assert (commit.ref, commit.dirty) == ("refs/heads/trunk", False)
    history = History(root=checkout, inputs=("file",))
    first = history.commit_of("HEAD^")
    assert [change.path for change in history.changes(first, commit, ".")] == ["sub/naïve name"]
    assert history.ancestors_with_same_inputs(commit.sha, 5) == [first]
    (checkout / "new").write_text("three\n", encoding="utf-8")
    assert vcs.discover(checkout).dirty
    assert not (tmp_path / "ran").exists()


@pytest.mark.usefixtures("configured")
def test_bare_repositories_of_our_own_are_used_where_git_is_told_not_to_look_for_them(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    vcs.git("init", "--quiet", "--bare", "--object-format=sha1", ".", cwd=bare)
    assert vcs.git("rev-parse", "--is-bare-repository", cwd=bare) == b"true\n"


def test_settings_for_the_network_stay_the_user_s(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``insteadOf`` and credential helpers of the user's configuration are followed."""
    server = tmp_path / "server.git"
    run(tmp_path, "clone", "--quiet", "--bare", str(checkout), str(server))
    text = f'[url "{server}"]\n\tinsteadOf = https://git.example.com/team/repo\n'
    (tmp_path / "gitconfig").write_text(text, encoding="utf-8")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    listed = vcs.git("ls-remote", "https://git.example.com/team/repo", "refs/heads/trunk", cwd=tmp_path).decode()
    assert listed.split()[0] == run(checkout, "rev-parse", "HEAD")


def test_a_signature_that_is_shown_changes_nothing(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    (tmp_path / "allowed").write_text(
        f"test@example.com {(tmp_path / 'key.pub').read_text(encoding='utf-8')}", encoding="utf-8"
    )
    signing = ("-c", "gpg.format=ssh", "-c", f"user.signingkey={tmp_path}/key.pub")
    run(checkout, *signing, "commit", "--quiet", "-S", "--allow-empty", "--message", "signed")
    for number, (key, value) in enumerate(
        (("log.showSignature", "true"), ("gpg.format", "ssh"), ("gpg.ssh.allowedSignersFile", str(tmp_path / "allowed")))
    ):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{number}", key)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{number}", value)
        monkeypatch.setenv("GIT_CONFIG_COUNT", str(number + 1))
    assert "Good" in run(checkout, "log", "-1"), "the setting has no effect, so the test says nothing"
    assert vcs.discover(checkout).sha == run(checkout, "rev-parse", "HEAD")


def test_a_branch_and_a_tag_of_one_name_are_told_apart(checkout: Path) -> None:
    first = run(checkout, "rev-parse", "HEAD")
    run(checkout, "tag", "trunk")
    run(checkout, "commit", "--quiet", "--allow-empty", "--message", "two")
    head = run(checkout, "rev-parse", "HEAD")
    assert (vcs.discover(checkout).sha, vcs.discover(checkout).ref) == (head, "refs/heads/trunk")
    assert (vcs.discover(checkout, "refs/tags/trunk").sha, vcs.discover(checkout, "refs/heads/trunk").sha) == (first, head)
    with pytest.raises(UsageError, match=r"refs/tags/trunk and refs/heads/trunk(.|\n)*full name"):
        vcs.discover(checkout, "trunk")


def test_the_ref_is_a_full_name_or_nothing(checkout: Path) -> None:
    run(checkout, "tag", "v1")
    run(checkout, "tag", "-a", "v2", "--message", "annotated")
    sha = run(checkout, "rev-parse", "HEAD")
    run(checkout, "branch", sha)  # a branch that is named like a commit
    found = {name: vcs.discover(checkout, name).ref for name in ("HEAD", "trunk", "v1", "v2", "HEAD~0", sha, sha[:12])}
    expected = {"HEAD": "refs/heads/trunk", "trunk": "refs/heads/trunk", "v1": "refs/tags/v1", "v2": "refs/tags/v2"}
    assert found == expected | {"HEAD~0": "", sha: "", sha[:12]: ""}
    assert vcs.discover(checkout, "v2").sha == sha


def test_replacements_and_grafts_change_no_commit(checkout: Path) -> None:
    first = run(checkout, "rev-parse", "HEAD")
    run(checkout, "commit", "--quiet", "--allow-empty", "--message", "two")
    second = run(checkout, "rev-parse", "HEAD")
    tree = run(checkout, "hash-object", "-w", "-t", "tree", "/dev/null")
    other = run(checkout, "commit-tree", "-m", "other", tree)
    run(checkout, "replace", second, other)
    (checkout / ".git" / "info" / "grafts").write_text(f"{second}\n", encoding="utf-8")
    assert vcs.git("rev-list", "HEAD", cwd=checkout).decode().split() == [second, first]
    assert vcs.paths(vcs.git("ls-tree", "-z", "--name-only", second, cwd=checkout)) == ["file"]


def test_a_repository_with_sha_256_ids_is_refused(tmp_path: Path) -> None:
    run(tmp_path, "init", "--quiet", "--object-format=sha256")
    (tmp_path / "file").write_text("one\n", encoding="utf-8")
    run(tmp_path, "add", ".")
    run(tmp_path, "commit", "--quiet", "--message", "one")
    with pytest.raises(UsageError, match=r"SHA-256 commit ids(.|\n)*SHA-1 ids"):
        vcs.discover(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_another_user_s_checkout_is_refused_with_git_s_own_remedy(checkout: Path) -> None:
    for path in (checkout, checkout / ".git"):
        os.chown(path, 1234, 1234)
    for call in (vcs.root, vcs.discover):
        with pytest.raises(
            UsageError, match=rf"dubious ownership(.|\n)*do: .*git config --global --add safe.directory {checkout}"
        ):
            call(checkout)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_another_user_s_bare_repository_does_not_bypass_safe_directory(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    run(tmp_path, "init", "--quiet", "--bare", str(bare))
    for path in (bare, *bare.iterdir()):
        os.chown(path, 1234, 1234)
    with pytest.raises(vcs.UnsafeCheckoutError):
        vcs.git("for-each-ref", cwd=bare)


def test_a_bare_repository_is_no_checkout(checkout: Path, tmp_path: Path) -> None:
    run(tmp_path, "clone", "--quiet", "--bare", str(checkout), str(tmp_path / "bare"))
    with pytest.raises(UsageError, match="is a bare repository"):
        vcs.root(tmp_path / "bare")


def test_shallow_clones_worktrees_and_odd_folder_names_are_read(checkout: Path, tmp_path: Path) -> None:
    run(checkout, "commit", "--quiet", "--allow-empty", "--message", "two")
    head = run(checkout, "rev-parse", "HEAD")
    shallow, tree, odd = tmp_path / "shallow", tmp_path / "tree", tmp_path / "odd \n naïve "
    run(tmp_path, "clone", "--quiet", "--depth=1", f"file://{checkout}", str(shallow))
    run(checkout, "worktree", "add", "--quiet", "-b", "topic", str(tree))
    run(tmp_path, "clone", "--quiet", str(checkout), str(odd))
    for place, ref in ((shallow, "refs/heads/trunk"), (tree, "refs/heads/topic"), (odd, "refs/heads/trunk")):
        assert vcs.root(place) == place
        assert (vcs.discover(place).sha, vcs.discover(place).ref) == (head, ref)
    with pytest.raises(UsageError, match="the clone is shallow"):
        vcs.discover(shallow, "HEAD~1")


def test_a_partial_clone_without_its_server_shows_the_error_of_git(checkout: Path, tmp_path: Path) -> None:
    run(checkout, "config", "uploadpack.allowFilter", "true")
    partial = tmp_path / "partial"
    run(tmp_path, "clone", "--quiet", "--no-checkout", "--filter=blob:none", f"file://{checkout}", str(partial))
    assert vcs.git("cat-file", "blob", "HEAD:file", cwd=partial) == b"one\n"
    again = tmp_path / "again"
    run(tmp_path, "clone", "--quiet", "--no-checkout", "--filter=blob:none", f"file://{checkout}", str(again))
    run(again, "remote", "set-url", "origin", str(tmp_path / "gone"))
    assert vcs.discover(again).sha == run(checkout, "rev-parse", "HEAD")
    with pytest.raises(vcs.GitError, match="gone"):
        vcs.git("cat-file", "blob", "HEAD:file", cwd=again)


@pytest.mark.parametrize(
    "revision", ["--help", "-1", "", "x\ny", "HEAD\nHEAD", ":/", "refs/heads/*", "a..b", "\udcff", "HEAD^{tree}"]
)
def test_a_name_that_is_no_commit_is_refused_and_never_an_option(checkout: Path, revision: str) -> None:
    with pytest.raises(UsageError, match="has no commit"):
        vcs.discover(checkout, revision)


def test_the_askpass_program_of_a_ci_answers_and_that_of_a_desktop_does_not(tmp_path: Path) -> None:
    given = {"GIT_ASKPASS": "/bin/answer", "SSH_ASKPASS": "/bin/window"}
    assert "GIT_ASKPASS" not in vcs_settings.environment(given, tmp_path)
    assert vcs_settings.environment({**given, "CI": "true"}, tmp_path)["GIT_ASKPASS"] == "/bin/answer"
    assert "SSH_ASKPASS" not in vcs_settings.environment({**given, "CI": "true"}, tmp_path)


@pytest.mark.parametrize("whose", ["variable", "configuration", "nobody"])
def test_ssh_asks_nothing_unless_the_user_named_another_command(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("ssh", "own"):
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{tmp_path}/called\nexit 1\n', encoding="utf-8")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.delenv("GIT_SSH", raising=False)
    monkeypatch.delenv("GIT_SSH_COMMAND", raising=False)
    if whose == "variable":
        monkeypatch.setenv("GIT_SSH_COMMAND", "own -x")
    if whose == "configuration":
        run(checkout, "config", "core.sshCommand", "own -x")
    with pytest.raises(vcs.GitError):
        vcs.git("ls-remote", "ssh://git@127.0.0.1/repository", cwd=checkout)
    called = (tmp_path / "called").read_text(encoding="utf-8").splitlines()[-1]
    assert called.startswith("ssh -o BatchMode=yes" if whose == "nobody" else "own -x")


def test_passwords_in_addresses_are_in_no_message(tmp_path: Path) -> None:
    with pytest.raises(vcs.GitError) as caught:
        vcs.git("ls-remote", "http://user:s3cret@127.0.0.1:1/repository", cwd=tmp_path)
    assert "s3cret" not in str(caught.value)
