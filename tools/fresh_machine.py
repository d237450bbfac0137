"""Proves README's commands, and the Dockerfile, on a Debian that has nothing else.

python tools/fresh_machine.py [--release bookworm|trixie] [--only readme|dockerfile]

debootstrap makes a minimal root. In one copy of it the packages that README names are installed,
then `make demo` and the quick tests run on the committed files. In another copy the Dockerfile's
steps run, so that it is tested where no container engine is. Both run in chroot, as root, in
mount and process namespaces that end with this program: no mount and no process outlives it.

Nothing of the host is used but its kernel and its way to the package indexes: apt's proxy
settings and pip's settings, with the files and folders that those name.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

SOURCE = Path(__file__).resolve().parents[1]
MIRROR = "http://deb.debian.org/debian"
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
CARRIED = re.compile(r"PIP_.+|(https?|no|all)_proxy|SSL_CERT_FILE|REQUESTS_CA_BUNDLE", re.I)
APT_CARRIED = re.compile(r"Acquire::(https?::.*Proxy|Check-Valid-Until|Check-Date|Retries)\b")
# What the Dockerfile's base image brings and a bare Debian does not.
BASE_IMAGE_PACKAGES = "python3-venv"


def main() -> int:
    """Run the proofs; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--release", default="bookworm", help="bookworm (Python 3.11) or trixie")
    parser.add_argument("--only", choices=["readme", "dockerfile"], help="half of it")
    parser.add_argument("--mirror", default=MIRROR, help="where Debian is fetched from")
    parser.add_argument("--tests", default="", help="pytest's arguments, instead of quick tests")
    parser.add_argument("--keep", action="store_true", help="leave the roots in place")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside is not None:
        return _prove(options, options.inside)
    problem = _find_problem()
    if problem is not None:
        print(problem, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="mesh-fresh-"))
    try:
        again = [*NAMESPACES, sys.executable, __file__, *sys.argv[1:], "--inside", str(folder)]
        return subprocess.run(again, check=False).returncode
    finally:
        # The mounts were in a namespace of their own: here are only the roots' own files.
        if options.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder)


def _find_problem() -> str | None:
    if os.geteuid() != 0:
        return "make fresh needs root: it makes a Debian root and enters it. Fix: sudo make fresh"
    if shutil.which("debootstrap") is None:
        return "debootstrap is not installed. Fix: apt-get install debootstrap"
    return None


def _prove(options: argparse.Namespace, folder: Path) -> int:
    base = folder / "base"
    _say(f"debootstrap {options.release}")
    done = subprocess.run(
        ["debootstrap", "--variant=minbase", options.release, str(base), options.mirror],
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode != 0:
        print((base / "debootstrap/debootstrap.log").read_text(errors="replace")[-2000:])
        return 1
    proofs = {"readme": _prove_readme, "dockerfile": _prove_dockerfile}
    for name, prove in proofs.items():
        if options.only not in (None, name):
            continue
        root = folder / name
        subprocess.run(["cp", "--archive", str(base), str(root)], check=True)
        try:
            prove(Machine.start(root), options)
        except subprocess.CalledProcessError as error:
            _say(f"{name} FAILED on {options.release}: exit code {error.returncode}")
            return 1
        _say(f"{name} passed on {options.release}")
    return 0


def _prove_readme(machine: Machine, options: argparse.Namespace) -> None:
    """Do what README's "Three commands" say of `make demo` and the tests, and nothing else."""
    machine.run(f"apt-get install --yes --quiet {find_readme_packages()}", log_only=True)
    machine.extract_source("/srv/mesh")
    machine.folder = "/srv/mesh"
    machine.run("make demo")
    quick = f" COVERAGE= QUICK={shlex.quote(options.tests)}" if options.tests else ""
    machine.run(f"make test-quick{quick}")


def _prove_dockerfile(machine: Machine, _options: argparse.Namespace) -> None:
    """Run the Dockerfile's steps, then both commands as its user."""
    machine.run(f"apt-get install --yes --quiet {BASE_IMAGE_PACKAGES}", log_only=True)
    machine.extract_source("/context")
    for word, rest in parse_dockerfile((SOURCE / "Dockerfile").read_text(encoding="utf-8")):
        machine.do_step(word, rest)
    machine.run("mesh --version")
    machine.run("mesh-test --version")
    machine.run("mesh-test --help > /dev/null")


def find_readme_packages() -> str:
    """Return the packages of README's first ``apt-get install``."""
    readme = (SOURCE / "README.md").read_text(encoding="utf-8")
    found = re.search(r"apt-get install ([a-z0-9.+ -]+)", readme)
    if found is None:
        raise SystemExit("README.md names no packages: it has no `apt-get install ...`")
    return found.group(1).strip()


def parse_dockerfile(text: str) -> Iterator[tuple[str, str]]:
    """Yield each instruction in order: its word, and its arguments on one line."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    for line in filter(str.strip, joined.splitlines()):
        word, _, rest = line.strip().partition(" ")
        yield word.upper(), " ".join(rest.split())


@dataclass
class Machine:
    """A Debian root that commands run in."""

    root: Path
    env: dict[str, str]
    shared: frozenset[Path]
    folder: str = "/"
    user: str = "root"
    build_args: dict[str, str] = field(default_factory=dict)

    @classmethod
    def start(cls, root: Path) -> Machine:
        """Mount what a running machine has, and carry the way to the package indexes over."""
        for kind, mount in (("proc", "proc"), ("sysfs", "sys")):
            _mount(["--types", kind, kind], root / mount)
        _mount(["--rbind", "/dev"], root / "dev")
        (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
        shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        (root / "etc/apt/apt.conf.d/90host").write_text(_read_apt_settings())
        settings = _read_pip_settings()
        shared = frozenset(_find_named_paths(settings))
        for path in sorted(shared):
            if path.is_dir():
                _mount(["--bind", "--options", "ro", str(path)], root / path.relative_to("/"))
        env = {
            "HOME": "/root",
            "PATH": SEARCH_PATH,
            "LANG": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
            **settings,
        }
        machine = cls(root, env, shared)
        machine.run("apt-get update --quiet", log_only=True)
        return machine

    def run(self, command: str, *, log_only: bool = False) -> None:
        """Run a shell command; ``log_only`` shows what it prints only if it fails."""
        self._copy_shared_files()
        _say(f"{self.folder} # {command}" if self.user == "root" else f"{self.user} $ {command}")
        began = time.monotonic()
        line = [
            *("chroot", f"--userspec={self.user}", str(self.root)),
            *("env", "-i", *(f"{name}={value}" for name, value in self.env.items())),
            *(f"{name}={value}" for name, value in self.build_args.items()),
            *("sh", "-c", f"cd {shlex.quote(self.folder)} && {command}"),
        ]
        done = subprocess.run(
            line,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if log_only else None,
            stderr=subprocess.STDOUT if log_only else None,
            check=False,
        )
        if log_only and done.returncode != 0:
            print(done.stdout.decode(errors="replace")[-4000:])
        done.check_returncode()
        _say(f"took {time.monotonic() - began:.0f} s")

    def extract_source(self, folder: str) -> None:
        """Put the committed files into a folder of the root."""
        target = self.root / folder.lstrip("/")
        target.mkdir(parents=True)
        packed = subprocess.run(
            ["git", "-c", "safe.directory=*", "archive", "HEAD"],
            cwd=SOURCE,
            capture_output=True,
            check=True,
        )
        subprocess.run(["tar", "-x", "-C", str(target)], input=packed.stdout, check=True)

    def do_step(self, word: str, rest: str) -> None:
        """Do one instruction of a Dockerfile; those that build nothing are passed over."""
        match word:
            case "RUN":
                self.run(rest)
            case "COPY":
                self._copy(shlex.split(rest))
            case "WORKDIR":
                self.folder = rest
                self._path(rest).mkdir(parents=True, exist_ok=True)
            case "USER":
                self.user = rest
            case "ENV":
                for pair in shlex.split(rest):
                    name, _, value = pair.partition("=")
                    self.env[name] = Template(value).safe_substitute(self.env | self.build_args)
            case "ARG":
                name, _, value = rest.partition("=")
                self.build_args[name] = value
            case "FROM" | "VOLUME" | "EXPOSE" | "HEALTHCHECK" | "ENTRYPOINT" | "CMD" | "LABEL":
                pass
            case _:
                raise SystemExit(f"tools/fresh_machine.py does not know the step {word}")

    def _copy(self, words: Sequence[str]) -> None:
        *sources, target = words
        into = self._path(target)
        for source in sources:
            path = self.root / "context" / source
            if path.is_dir():
                shutil.copytree(path, into, dirs_exist_ok=True)
            else:
                shutil.copy(path, into)

    def _path(self, path: str) -> Path:
        return self.root / os.path.join(self.folder, path).lstrip("/")

    def _copy_shared_files(self) -> None:
        # Before every command: a package may have written its own in their place.
        for path in self.shared:
            if path.is_file():
                copy = self.root / path.relative_to("/")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)


def _mount(arguments: Sequence[str], target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", *arguments, str(target)], check=True)


def _read_apt_settings() -> str:
    dumped = subprocess.run(
        ["apt-config", "dump"], capture_output=True, text=True, check=False
    ).stdout
    lines = [line for line in dumped.splitlines() if APT_CARRIED.match(line)]
    return "".join(f"{line}\n" for line in lines)


def _read_pip_settings() -> dict[str, str]:
    """Return pip's settings, of files and environment alike, as environment variables."""
    settings: dict[str, str] = {}
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    for line in listed.splitlines():
        found = re.fullmatch(r"(?:global|install)\.([a-z-]+)='(.*)'", line)
        if found is not None:
            name = "PIP_" + found.group(1).upper().replace("-", "_")
            settings[name] = found.group(2).replace("\\n", " ").strip()
    carried = {name: value for name, value in os.environ.items() if CARRIED.fullmatch(name)}
    return settings | carried


def _find_named_paths(settings: Mapping[str, str]) -> Iterator[Path]:
    for value in settings.values():
        for word in value.split():
            path = Path(word.removeprefix("file://"))
            if path.is_absolute() and path != Path("/") and path.exists():
                # A "simple" index on disk names files that lie beside it.
                yield path.parent if path.name == "simple" else path


def _say(line: str) -> None:
    print(f"== {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
