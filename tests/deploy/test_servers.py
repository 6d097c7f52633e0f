"""The local PostgreSQL and Valkey: passwords, data that lasts, and recovery."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg2
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy.engine import make_url

from deploy.local.errors import DiskFull, LocalError
from deploy.local.memory import Memory
from deploy.local.processes import wait_until
from deploy.local.servers import LocalServers
from deploy.local.users import server_user


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServers]:
    with LocalServers(tmp_path_factory.mktemp("servers"), durable=False) as running:
        yield running


def query(url: str, statement: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def test_postgresql_is_version_18(servers: LocalServers) -> None:
    assert query(servers.owner_url, "SHOW server_version_num")[0][0] >= "180000"  # type: ignore[operator]  # the driver gives text


@pytest.mark.parametrize("password", [None, "wrong"])
@pytest.mark.parametrize("role", ["postgres", "saas_owner"])
def test_postgresql_refuses_who_has_no_password(servers: LocalServers, role: str, password: str | None) -> None:
    port = make_url(servers.owner_url).port
    with pytest.raises(psycopg2.OperationalError, match=r"no password supplied|password authentication failed"):
        psycopg2.connect(host="127.0.0.1", port=port, user=role, password=password, dbname="postgres", passfile="/dev/null")


def test_postgresql_keeps_no_password_in_clear_and_no_md5_of_one(servers: LocalServers) -> None:
    hashes = [row[0] for row in query(servers.superuser_url, "SELECT rolpassword FROM pg_authid WHERE rolcanlogin")]
    assert len(hashes) >= 2
    assert all(str(value).startswith("SCRAM-SHA-256$") for value in hashes)


def test_valkey_refuses_who_has_no_password(servers: LocalServers) -> None:
    with redis.Redis(port=make_url(servers.redis_url).port or 0, retry=Retry(NoBackoff(), 0)) as client, pytest.raises(redis.AuthenticationError):
        client.get("anything")


def test_the_owner_is_no_superuser_and_may_make_databases_and_roles(servers: LocalServers) -> None:
    flags = query(servers.owner_url, "SELECT rolsuper, rolbypassrls, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = current_user")
    assert flags == [(False, True, True, True)]


def test_servers_listen_on_this_machine_alone(servers: LocalServers) -> None:
    for url in (servers.owner_url, servers.redis_url):
        port = make_url(url).port
        listening = {item.laddr[0] for item in psutil.net_connections("inet") if item.laddr and item.laddr[1] == port and item.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}


def test_files_with_passwords_are_readable_by_their_owner_alone(servers: LocalServers) -> None:
    secrets = [value for name, value in vars(servers.memory).items() if name.endswith("password")]
    holding = [
        path
        for path in servers.directory.rglob("*")
        if path.is_file() and "postgres" not in path.relative_to(servers.directory).parts[0] and any(s in path.read_text(errors="replace") for s in secrets)
    ]
    assert {path.name for path in holding} == {"servers.json", "valkey.conf"}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in holding)
    assert stat.S_IMODE((servers.directory / "postgres").stat().st_mode) == 0o700


def test_no_password_stands_on_a_command_line(servers: LocalServers) -> None:
    assert servers.postgres.child and servers.valkey.child
    lines = [" ".join(psutil.Process(child.process.pid).cmdline()) for child in (servers.postgres.child, servers.valkey.child)]
    assert not any(value in line for line in lines for name, value in vars(servers.memory).items() if name.endswith("password"))


def test_data_ports_and_passwords_survive_a_restart(tmp_path: Path) -> None:
    with LocalServers(tmp_path, durable=True) as first:
        query(first.owner_url, "CREATE DATABASE kept")
        with redis.Redis.from_url(first.redis_url) as client:
            client.set("kept", "yes")
        before = vars(first.memory)
    with LocalServers(tmp_path, durable=True) as second:
        assert query(second.owner_url, "SELECT 1 FROM pg_database WHERE datname = 'kept'") == [(1,)]
        with redis.Redis.from_url(second.redis_url) as client:
            assert client.get("kept") == b"yes"
        assert vars(second.memory) == before


def test_a_port_that_was_taken_meanwhile_is_left_to_who_has_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        taken = squatter.getsockname()[1]
        Memory(postgres_port=taken, redis_port=taken).save(tmp_path / "servers.json")
        with LocalServers(tmp_path, durable=True) as servers:
            assert taken not in (servers.memory.postgres_port, servers.memory.redis_port)
            assert query(servers.owner_url, "SELECT 1") == [(1,)]


HOLD_SERVERS = """
import sys, time
from pathlib import Path
from deploy.local.servers import LocalServers
from deploy.local.users import server_user
with LocalServers(Path(sys.argv[1]), durable=True):
    print("running", flush=True)
    time.sleep(600)
"""


def start_holder(directory: Path) -> "subprocess.Popen[str]":
    holder = subprocess.Popen([sys.executable, "-c", HOLD_SERVERS, str(directory)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert holder.stdout
    assert holder.stdout.readline() == "running\n"
    return holder


def pids(directory: Path) -> dict[str, int]:
    return {path.stem: json.loads(path.read_text())["pid"] for path in (directory / "run").glob("*.pid")}


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a process with its parent")
def test_servers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    with start_holder(tmp_path) as holder:
        running = pids(tmp_path)
        holder.kill()
    assert set(running) == {"postgres", "valkey"}
    assert wait_until(lambda: all(is_gone(pid) for pid in running.values()), 30)


def test_the_next_start_recovers_after_everything_was_killed_at_once(tmp_path: Path) -> None:
    with start_holder(tmp_path) as holder:
        memory = Memory.load(tmp_path / "servers.json")
        running = pids(tmp_path)
        query(f"postgresql://saas_owner:{memory.owner_password}@127.0.0.1:{memory.postgres_port}/postgres", "CREATE DATABASE kept")
        for pid in (holder.pid, *running.values()):
            os.kill(pid, signal.SIGKILL)
    with LocalServers(tmp_path, durable=True) as servers:
        assert query(servers.owner_url, "SELECT 1 FROM pg_database WHERE datname = 'kept'") == [(1,)]


def test_servers_that_outlived_their_supervisor_are_replaced(tmp_path: Path) -> None:
    with LocalServers(tmp_path, durable=True) as left:
        old = pids(tmp_path)
        with LocalServers(tmp_path, durable=True) as servers:
            assert all(is_gone(pid) for pid in old.values())
            assert query(servers.owner_url, "SELECT 1") == [(1,)]
        assert left.postgres.child
        assert left.postgres.child.exit_code == 0, "it was stopped in order"


def test_a_pid_file_that_points_to_another_process_hurts_nobody(tmp_path: Path) -> None:
    user = server_user(tmp_path / "none")  # of the servers' own user: what belongs to others, PostgreSQL passes over by itself
    bystander = subprocess.Popen(["sleep", "600"], user=user.uid if user else None)
    try:
        with LocalServers(tmp_path, durable=True):
            pass
        (tmp_path / "run" / "postgres.pid").write_text(json.dumps({"pid": bystander.pid, "argv": ["postgres"]}))
        (tmp_path / "postgres" / "postmaster.pid").write_text(f"{bystander.pid}\n{tmp_path / 'postgres'}\n1\n5432\n\n127.0.0.1\n")
        with LocalServers(tmp_path, durable=True) as servers:
            assert query(servers.owner_url, "SELECT 1") == [(1,)]
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_an_interrupted_first_start_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "postgres.new").mkdir()
    (tmp_path / "postgres.new" / "PG_VERSION").write_text("18\n")
    with LocalServers(tmp_path, durable=True) as servers:
        assert query(servers.owner_url, "SELECT 1") == [(1,)]


def test_passwords_that_were_lost_are_one_sentence(tmp_path: Path) -> None:
    with LocalServers(tmp_path, durable=True):
        pass
    (tmp_path / "servers.json").unlink()
    with pytest.raises(LocalError, match="make clean"), LocalServers(tmp_path, durable=True):
        pass
    assert not pids(tmp_path)


def test_a_damaged_memory_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "servers.json").write_text("{")
    with pytest.raises(LocalError, match="is damaged"), LocalServers(tmp_path, durable=True):
        pass


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(tmp_path)], capture_output=True, check=False) if os.geteuid() == 0 else None
    if mounted is None or mounted.returncode:
        pytest.skip("only root can make a small disk")
    try:
        with pytest.raises(DiskFull, match="is full"), LocalServers(tmp_path / "servers", durable=True):
            pass
        assert not pids(tmp_path / "servers")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_throwaway_servers_leave_nothing(tmp_path: Path) -> None:
    with LocalServers(tmp_path / "servers", durable=False):
        assert (tmp_path / "servers" / "postgres").exists()
    assert not list(tmp_path.iterdir())
