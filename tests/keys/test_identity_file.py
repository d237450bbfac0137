"""Identity files: created once with the right mode, and read only if nobody else could."""

import os
import stat

import pytest

from keys.errors import (
    IdentityFileFormat,
    IdentityFileMissing,
    IdentityFileMode,
    KeyFileExists,
)
from keys.identity_file import (
    create_identity_file,
    create_identity_set,
    load_identity_file,
)
from keys.peer import PeerKey

SEED = bytes(range(32))


def write(path, content, mode=0o600):
    path.write_bytes(content)
    path.chmod(mode)
    return path


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_created_identity_is_private_and_loads_as_the_same_peer(tmp_path):
    path = tmp_path / "deep" / "er" / "peer_id.key"
    peer_id = create_identity_file(path)
    assert path.stat().st_size == 68
    assert mode_of(path) == 0o600
    assert mode_of(path.parent) == 0o700
    assert mode_of(path.parent.parent) == 0o700
    assert load_identity_file(path).peer_id == peer_id


def test_open_umask_does_not_open_the_file(tmp_path):
    before = os.umask(0)
    try:
        create_identity_file(tmp_path / "new" / "peer_id.key")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "new" / "peer_id.key") == 0o600
    assert mode_of(tmp_path / "new") == 0o700


def test_known_bytes_load_as_the_known_peer(tmp_path):
    path = write(tmp_path / "key", PeerKey(SEED).to_libp2p())
    key = load_identity_file(path)
    assert str(key.peer_id) == "12D3KooWA4Xop1JaT3MHxwYMkCepYsv4iPVopMXwCz5iHYdBfeSB"


def test_existing_file_is_never_overwritten(tmp_path):
    path = write(tmp_path / "key", b"something dear", 0o644)
    with pytest.raises(KeyFileExists):
        create_identity_file(path)
    assert path.read_bytes() == b"something dear"


def test_dangling_link_is_not_written_through(tmp_path):
    link = tmp_path / "key"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileExists):
        create_identity_file(link)
    assert not (tmp_path / "elsewhere").exists()


def test_link_to_a_private_file_is_followed(tmp_path):
    peer_id = create_identity_file(tmp_path / "real.key")
    (tmp_path / "link.key").symlink_to(tmp_path / "real.key")
    assert load_identity_file(tmp_path / "link.key").peer_id == peer_id


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o644, 0o666])
def test_file_open_to_others_is_refused_with_the_command_that_mends_it(tmp_path, mode):
    path = write(tmp_path / "key", PeerKey(SEED).to_libp2p(), mode)
    with pytest.raises(IdentityFileMode, match=f"chmod 600 {path}"):
        load_identity_file(path)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_private_modes_are_accepted(tmp_path, mode):
    load_identity_file(write(tmp_path / "key", PeerKey(SEED).to_libp2p(), mode))


def test_missing_file_and_directory_are_missing(tmp_path):
    with pytest.raises(IdentityFileMissing):
        load_identity_file(tmp_path / "absent.key")
    with pytest.raises(IdentityFileMissing):
        load_identity_file(tmp_path)


def test_named_pipe_does_not_hang_the_start(tmp_path):
    os.mkfifo(tmp_path / "key", 0o600)
    with pytest.raises(IdentityFileMissing):
        load_identity_file(tmp_path / "key")


@pytest.mark.parametrize("size", [0, 1, 36, 67, 69, 4096])
def test_identity_of_another_size_is_refused(tmp_path, size):
    raw = (PeerKey(SEED).to_libp2p() * 64)[:size]
    with pytest.raises(IdentityFileFormat):
        load_identity_file(write(tmp_path / "key", raw))


def test_every_single_byte_flip_is_refused(tmp_path):
    raw = PeerKey(SEED).to_libp2p()
    path = write(tmp_path / "key", raw)
    for position in range(len(raw)):
        tampered = bytearray(raw)
        tampered[position] ^= 0xFF
        path.write_bytes(bytes(tampered))
        with pytest.raises(IdentityFileFormat):
            load_identity_file(path)


def test_errors_and_tracebacks_show_no_secret(tmp_path):
    raw = bytearray(PeerKey(SEED).to_libp2p())
    raw[-1] ^= 1
    with pytest.raises(IdentityFileFormat) as caught:
        load_identity_file(write(tmp_path / "key", bytes(raw)))
    assert SEED.hex() not in str(caught.value)


def test_set_makes_three_different_identities(tmp_path):
    made = create_identity_set(tmp_path / "node")
    assert load_identity_file(tmp_path / "node/peer_id.key").peer_id == made.peer_id
    assert load_identity_file(tmp_path / "node/bootstrap_peer_id.key").peer_id == (
        made.bootstrap_peer_id
    )
    assert load_identity_file(tmp_path / "node/client_peer_id.key").peer_id == made.client_peer_id
    assert len({made.peer_id, made.bootstrap_peer_id, made.client_peer_id}) == 3


@pytest.mark.parametrize("name", ["peer_id.key", "bootstrap_peer_id.key", "client_peer_id.key"])
def test_set_is_all_or_nothing(tmp_path, name):
    write(tmp_path / name, b"dear")
    with pytest.raises(KeyFileExists):
        create_identity_set(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"dear"


def test_full_disk_leaves_no_half_written_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        create_identity_file(tmp_path / "key")
    assert not (tmp_path / "key").exists()
