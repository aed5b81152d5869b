"""Keys of a server and its clients: whose they are, how they are taken away, and who is let in."""

from __future__ import annotations

import os
import stat
import time

import pytest
import torch

from blackprop import errors
from blackprop.lab import RemoteDevice, Server
from blackprop.lab.remote.client._connection import Connection
from blackprop.lab.remote.shared import _messages as say
from blackprop.lab.remote.shared import _wire as wire
from blackprop.lab.remote.shared._keys import Authorised, client_pair, make_keys
from serving import Recorder, query, served

# ---- keys -----------------------------------------------------------------------------------------------------------


def test_keys_are_their_owners_alone_and_never_replaced(keys):
    for path in keys.rglob("*.key*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = {path: path.read_bytes() for path in keys.rglob("*.key*")}
    assert len(before) == 5
    with pytest.raises(errors.ArgumentError, match="keys are not replaced"):
        make_keys(keys)
    assert {path: path.read_bytes() for path in keys.rglob("*.key*")} == before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda keys: (keys / "client.key_secret").unlink(), "there is no key"),
        (lambda keys: (keys / "client.key_secret").chmod(0o644), "chmod 600"),
        (lambda keys: (keys / "client.key_secret").write_bytes(b"\xff\xfe"), "not a key"),
        (lambda keys: (keys / "server.key").write_text('public-key = "short"'), "not a key"),
        (lambda keys: (keys / "client.key_secret").write_text((keys / "client.key").read_text()), "no secret key"),
    ],
)
def test_a_key_that_cannot_be_used_is_named(keys, spoil, message):
    spoil(keys)
    with pytest.raises(errors.ArgumentError, match=message):
        client_pair(keys)


def test_a_key_is_taken_away_by_deleting_its_file(keys):
    now = [0.0]
    authorised = Authorised(keys / "authorised", clock=lambda: now[0])
    public = client_pair(keys)[0]
    assert public in authorised
    (keys / "authorised" / "client.key").unlink()
    (keys / "authorised" / "broken.key").write_text("nonsense")
    now[0] = 2.0
    assert public not in authorised
    assert len(authorised) == 0


@pytest.mark.parametrize("change", ["overwrite", "truncate", "replace the content, keep size and times"])
def test_a_key_is_taken_away_by_changing_its_file_in_place(keys, tmp_path, change):
    now = [0.0]
    make_keys(tmp_path / "other")
    authorised = Authorised(keys / "authorised", clock=lambda: now[0])
    public, other = client_pair(keys)[0], client_pair(tmp_path / "other")[0]
    path, before = keys / "authorised" / "client.key", (keys / "authorised" / "client.key").stat()
    with path.open("r+b") as file:
        file.truncate(0)
        if change != "truncate":
            file.write((tmp_path / "other" / "client.key").read_bytes())
    if change.startswith("replace"):
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_size == before.st_size
    now[0] = 2.0
    assert public not in authorised
    assert (other in authorised) == (change != "truncate")


@pytest.mark.parametrize("name", ["", "authorised", "authorised/client.key", "server.key_secret"])
@pytest.mark.parametrize("mode", [0o777, 0o720])
def test_keys_that_others_can_write_to_are_not_served(keys, record, name, mode):
    (keys / name).chmod(mode)
    with pytest.raises(errors.ArgumentError, match="chmod"):
        Server(lambda: Recorder(record), "tcp://127.0.0.1:0", keys=keys)


def test_keys_that_others_can_replace_are_used_by_neither_side(keys, record):
    with served(lambda: Recorder(record), keys) as server:
        keys.parent.chmod(0o777)
        with pytest.raises(errors.ArgumentError, match="can be replaced by other users"):
            RemoteDevice(server.address, keys=keys)
        keys.parent.chmod(0o1777)  # as /tmp
        RemoteDevice(server.address, keys=keys).close()
        (keys / "server.key").chmod(0o666)
        with pytest.raises(errors.ArgumentError, match=r"chmod go-w .*server\.key"):
            RemoteDevice(server.address, keys=keys)


def test_a_key_that_others_can_write_to_later_authorises_no_client(keys):
    now = [0.0]
    authorised = Authorised(keys / "authorised", clock=lambda: now[0])
    (keys / "authorised" / "client.key").chmod(0o666)
    now[0] = 2.0
    assert len(authorised) == 1
    assert client_pair(keys)[0] not in authorised


def test_new_keys_are_closed_to_the_group_whatever_the_umask(tmp_path):
    old = os.umask(0o002)
    try:
        make_keys(tmp_path / "new" / "keys")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "new" / "keys").stat().st_mode) == 0o700


# ---- who is let in --------------------------------------------------------------------------------------------------


def test_a_key_that_is_not_authorised_meets_silence(keys, record, tmp_path):
    stranger = tmp_path / "stranger"
    make_keys(stranger)
    (stranger / "server.key").write_bytes((keys / "server.key").read_bytes())
    with served(lambda: Recorder(record), keys) as server:
        connection = Connection(server.address, stranger)
        connection.send(wire.encode(say.STATUS, {"id": 1}))
        assert connection.receive(0.5) is None
        connection.close()
        with pytest.raises(errors.UnreachableError, match="wrong key looks like silence"):
            RemoteDevice(server.address, keys=stranger, deadline=0.5)
        assert server.report()["clients"] == []
        (keys / "authorised" / "stranger.key").write_bytes((stranger / "client.key").read_bytes())
        time.sleep(1.1)  # the folder is looked at once a second
        with RemoteDevice(server.address, keys=stranger, deadline=5) as device:
            device.measure([query()])
        (keys / "authorised" / "stranger.key").unlink()
        time.sleep(1.1)
        with pytest.raises(errors.UnreachableError):
            RemoteDevice(server.address, keys=stranger, deadline=0.5)


def test_a_client_that_takes_another_for_the_server_meets_silence(keys, record, tmp_path):
    other = tmp_path / "other"
    make_keys(other)
    (keys / "server.key").write_bytes((other / "server.key").read_bytes())
    with served(lambda: Recorder(record), keys) as server, pytest.raises(errors.UnreachableError):
        RemoteDevice(server.address, keys=keys, deadline=0.5)


def test_without_keys_only_this_machine_is_served(record, tmp_path):
    with pytest.raises(errors.ArgumentError, match="not loopback"):
        Server(lambda: Recorder(record), "tcp://0.0.0.0:0", journal=tmp_path)
    with (
        served(lambda: Recorder(record), None, journal=tmp_path / "journal") as server,
        RemoteDevice(server.address, insecure=True, deadline=5) as device,
    ):
        (y,) = device.measure([query()])
    assert torch.equal(y, query().x * query().theta)
    with pytest.raises(errors.ArgumentError, match="insecure=True"):
        RemoteDevice("tcp://127.0.0.1:5555")
