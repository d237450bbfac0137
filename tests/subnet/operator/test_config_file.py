"""Where the configuration file is looked for, and what is refused before anything is made of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from subnet.errors import ConfigError
from subnet.operator.config_file import MAX_CONFIG_BYTES, find_config_path, read_config_file


def write(folder: Path, name: str = "mesh.toml", text: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_the_file_is_the_first_that_is_named_or_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert find_config_path(None, {}) is None
    of_user = write(tmp_path / "xdg" / "mesh")
    assert find_config_path(None, {}) == of_user
    home = {"MESH_HOME": str(tmp_path / "home")}
    assert find_config_path(None, home) is None
    assert find_config_path(None, home) != write(tmp_path / "home").parent
    assert find_config_path(None, home) == tmp_path / "home" / "mesh.toml"
    named = home | {"MESH_CONFIG": "elsewhere.toml"}
    assert find_config_path(None, named) == Path("elsewhere.toml")
    assert find_config_path(None, home | {"MESH_CONFIG": ""}) == tmp_path / "home" / "mesh.toml"
    assert find_config_path(Path("flag.toml"), named) == Path("flag.toml")


def test_keys_are_found_in_their_lines_and_doubtful_ones_in_none(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        text='chain = "ws://x"\n\n[ node ]\n# port = 1\n"port" = 2\ntext = """\n[serve]\nport = 3\n'
        '"""\n[serve]\nport = 4\n',
    )
    file = read_config_file(path)
    assert file.values["serve"] == {"port": 4}
    assert file.locate("", "chain") == f"{path}:1"
    assert file.locate("node", "port") == f"{path}:5"
    assert file.locate("serve", "port") == str(path)
    assert file.get_table("node")["port"] == 2
    assert file.get_table("absent") == file.get_table("chain") == {}


def test_the_null_device_is_an_empty_file() -> None:
    assert read_config_file(Path(os.devnull)).values == {}


def make_absent(path: Path) -> None:
    assert not path.exists()


def make_broken(path: Path) -> None:
    path.write_text("chain = \n")


def make_long(path: Path) -> None:
    path.write_text("#" * (MAX_CONFIG_BYTES + 1))


def make_latin(path: Path) -> None:
    path.write_bytes(b"name = '\xe9'")


def make_open(path: Path) -> None:
    path.touch()
    path.chmod(0o666)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (make_absent, "cannot read the configuration file .*: No such file"),
        (make_broken, r"is no TOML: .*line 1"),
        (make_long, "is longer than 65536 bytes"),
        (make_latin, "is not UTF-8"),
        (make_open, "can be changed by every user"),
        (Path.mkdir, "is no file"),
        (os.mkfifo, "is no file"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence_with_its_fix(
    make, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "mesh.toml"
    make(path)
    with pytest.raises(ConfigError, match=sentence) as refusal:
        read_config_file(path)
    assert str(path) in str(refusal.value) and refusal.value.hint
