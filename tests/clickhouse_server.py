#!/usr/bin/env python3
"""ClickHouse's HTTP protocol in front of the ClickHouse engine, for tests on a machine without Docker.

The engine is the real one: PyPI `chdb-core` is ClickHouse as a Python library, with the same SQL, MergeTree, formats,
deduplication and error codes. Only what a network client sees is written here: HTTP, compression, log-in, status codes.

    tests/clickhouse_server.py --port 8123 --data FOLDER [--user NAME --password SECRET]

It prints one line when it listens. Everything lives in FOLDER: a killed server starts again on it with its data.
Each request has an engine session of its own (0.2 ms), so its database and settings cannot reach another request, and
requests run side by side.

Where it differs from a real server:
- A result is complete before the first byte of the answer, so an error never follows a 200.
- The rows of an insert are complete before the engine sees the first.
- `async_insert` is accepted and has no effect: every insert is written before it is answered.
- `session_id`, roles and quotas are accepted and ignored; there is one user.
- Answers are compressed with LZ4 only, requests are read with LZ4 or no compression: a ZSTD block is refused.
- There is no `system.query_log`, and a client that hangs up does not stop its query.
"""

import argparse
import base64
import binascii
import fcntl
import json
import os
import re
import signal
import struct
import sys
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import lz4.block
import lz4.frame
from chdb.session import Session
from clickhouse_cityhash.cityhash import CityHash128

READ_BYTES = 1 << 20
# The engine's own limit for one compressed block.
BLOCK_BYTES_MAX = 1 << 30
# How long a stop waits for requests that are being answered.
STOP_S = 10

# Parameters of the HTTP interface that are no settings of the engine.
NOT_SETTINGS = set(
    """query database default_format user password quota_key role query_id session_id session_timeout session_check
    stacktrace buffer_size wait_end_of_query compress decompress client_protocol_version""".split()
)

# The library has the defaults of the command-line tool; here a server has others.
SERVER_SETTINGS = "SET implicit_select = 0, allow_introspection_functions = 0"

# What a real server answers, by the error's name; every other error is a 500.
STATUS_BY_ERROR = {
    **dict.fromkeys(
        """BAD_ARGUMENTS CANNOT_COMPILE_REGEXP CANNOT_PARSE_TEXT CANNOT_PARSE_ESCAPE_SEQUENCE CANNOT_PARSE_QUOTED_STRING
        CANNOT_PARSE_DATE CANNOT_PARSE_DATETIME CANNOT_PARSE_NUMBER CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING
        CANNOT_PARSE_IPV4 CANNOT_PARSE_IPV6 CANNOT_PARSE_UUID CANNOT_PARSE_INPUT_ASSERTION_FAILED DUPLICATE_COLUMN
        ILLEGAL_COLUMN THERE_IS_NO_COLUMN UNKNOWN_ELEMENT_IN_AST UNKNOWN_TYPE_OF_AST_NODE TOO_DEEP_AST TOO_BIG_AST
        UNEXPECTED_AST_STRUCTURE SYNTAX_ERROR INCORRECT_DATA TYPE_MISMATCH VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE""".split(),
        400,
    ),
    "REQUIRED_PASSWORD": 401,
    **dict.fromkeys("UNKNOWN_USER WRONG_PASSWORD AUTHENTICATION_FAILED ACCESS_DENIED".split(), 403),
    **dict.fromkeys(
        """UNKNOWN_TABLE UNKNOWN_FUNCTION UNKNOWN_IDENTIFIER UNKNOWN_TYPE UNKNOWN_STORAGE UNKNOWN_DATABASE
        UNKNOWN_SETTING UNKNOWN_DIRECTION_OF_SORTING UNKNOWN_AGGREGATE_FUNCTION UNKNOWN_FORMAT UNKNOWN_DATABASE_ENGINE
        UNKNOWN_TYPE_OF_QUERY UNKNOWN_ROLE""".split(),
        404,
    ),
    "TIMEOUT_EXCEEDED": 408,
    "QUERY_IS_TOO_LARGE": 413,
    "NOT_IMPLEMENTED": 501,
    **dict.fromkeys("SOCKET_TIMEOUT CANNOT_OPEN_FILE CANNOT_SCHEDULE_TASK".split(), 503),
}

_COMMENT = r"(?:\s|--[^\n]*\n|/\*.*?\*/)*"
INSERT = re.compile(_COMMENT + r"INSERT\b", re.I | re.S)
# An insert whose rows come in the body: its format is the last word, and settings may stand in front of it.
INSERT_WITH_DATA = re.compile(r"(.*?)(\sSETTINGS\s.*)?\s(?:FORMAT\s+(\w+)|(VALUES))\s*;?\s*", re.I | re.S)
# A quoted piece, a comment, or the end of a statement.
SQL_TOKEN = re.compile(
    r"""--[^\n]* | /\*.*?\*/ | '(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*" | `(?:\\.|[^`\\])*` | (;)""", re.S | re.X
)


class DbError(Exception):
    """An error of this server, told as the engine tells its own."""

    def __init__(self, code, name, text):
        super().__init__(f"Code: {code}. DB::Exception: {text}. ({name})")


class ClientGone(Exception):
    """The connection ended inside a request."""


def quoted(text):
    """A string literal of ClickHouse's SQL."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def check_one_statement(sql):
    """The engine as a library runs several statements in one text; a real server refuses them."""
    for token in SQL_TOKEN.finditer(sql):
        if token.group(1) and SQL_TOKEN.sub(lambda t: t.group(1) or "", sql[token.end() :]).strip():
            raise DbError(62, "SYNTAX_ERROR", f"Multi-statements are not allowed: position {token.start()}")


def multipart_fields(body, content_type):
    """The fields of a form, in which clients send `query` and `param_x`."""
    boundary = re.search(r'boundary="?([^";]+)', content_type)
    if not boundary:
        raise DbError(36, "BAD_ARGUMENTS", "multipart/form-data without a boundary")
    for part in body.split(b"--" + boundary.group(1).encode())[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]*)"', head)
        if name:
            yield name.group(1).decode(), value[:-2].decode()


def decompressed(chunks):
    """The content of ClickHouse's compressed blocks.

    One block: checksum (16 bytes: CityHash128 of the rest) | method u8 | size of the block from method on u32 |
    size of the content u32 | data
    """
    held = bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) >= 25:
            method, size, content_size = struct.unpack_from("<BII", held, 16)
            if not 9 <= size <= BLOCK_BYTES_MAX or content_size > BLOCK_BYTES_MAX:
                raise DbError(271, "CANNOT_DECOMPRESS", f"Block sizes {size} and {content_size} are out of bounds")
            if len(held) < 16 + size:
                break
            block = bytes(held[: 16 + size])
            del held[: 16 + size]
            if checksum(block[16:]) != block[:16]:
                raise DbError(40, "CHECKSUM_DOESNT_MATCH", "Checksum doesn't match: corrupted data")
            if method == 0x82:
                try:
                    content = lz4.block.decompress(block[25:], uncompressed_size=content_size)
                except lz4.block.LZ4BlockError as error:
                    raise DbError(271, "CANNOT_DECOMPRESS", f"Cannot decompress LZ4: {error}") from None
            elif method == 0x02:
                content = block[25:]
            else:
                raise DbError(89, "UNKNOWN_COMPRESSION_METHOD", f"Method {method:#x}: this server reads LZ4 only")
            if len(content) != content_size:
                raise DbError(271, "CANNOT_DECOMPRESS", f"{len(content)} bytes of content, {content_size} announced")
            yield content
    if held:
        raise DbError(33, "CANNOT_READ_ALL_DATA", f"The last compressed block is cut off after {len(held)} bytes")


def compressed(content):
    """`content` as ClickHouse's compressed blocks."""
    for at in range(0, len(content), READ_BYTES):
        piece = content[at : at + READ_BYTES]
        data = lz4.block.compress(piece, store_size=False)
        block = struct.pack("<BII", 0x82, len(data) + 9, len(piece)) + data
        yield checksum(block) + block


def checksum(block):
    value = CityHash128(block)
    return struct.pack("<QQ", value >> 64, value & (1 << 64) - 1)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    # A connection waits in the backlog rather than being refused.
    request_queue_size = 1024

    def __init__(self, port, folder, user, password):
        self.folder = folder
        self.login = (user, password)
        self.in_flight = 0
        self.changed = threading.Condition()
        # Keeps the engine open between requests.
        self.root = Session(folder)
        self.version = self.root.query("SELECT version()", "TabSeparated").bytes().decode().strip()
        super().__init__(("127.0.0.1", port), Handler)

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], (ConnectionError, ClientGone)):
            super().handle_error(request, client_address)

    def drain(self):
        """Waits until no request is being answered; the engine must not be closed under one."""
        with self.changed:
            return self.changed.wait_for(lambda: self.in_flight == 0, timeout=STOP_S)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        if self.path in ("/", "/ping"):
            self.reply(200, b"Ok.\n")
        else:
            self.answer()

    def do_POST(self):
        self.answer()

    def log_message(self, *_):
        """Errors are told to the client; a line per request would only fill the log."""

    def answer(self):
        server = self.server
        with server.changed:
            server.in_flight += 1
        self.raw_body = self.read_body()
        try:
            try:
                if urlsplit(self.path).path == "/":
                    status, (body, headers) = 200, self.run()
                else:
                    status, body, headers = 404, b"There is no handle for this path\n", {}
            except ClientGone:
                raise
            except Exception as error:
                status, body, headers = self.error_answer(error)
            # What is left of the request must not be read as the next one.
            for _ in self.raw_body:
                pass
            self.reply(status, body, headers)
        except (ClientGone, ConnectionError):
            self.close_connection = True
        finally:
            with server.changed:
                server.in_flight -= 1
                server.changed.notify_all()

    def reply(self, status, body, headers=None):
        self.send_response(status)
        for name, value in {"Content-Type": "text/plain; charset=UTF-8", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        # The head is still in the buffer: one write for head and body.
        self._headers_buffer.append(b"\r\n" + body)
        self.flush_headers()

    def error_answer(self, error):
        text = str(error)
        code = re.search(r"Code: (\d+)\. ", text)
        if not code:
            # Not the engine's: a mistake in this file, which must be seen.
            print(f"{self.command} {self.path[:200]}: {error!r}", file=sys.stderr, flush=True)
            text, number, name = f"Code: 1002. DB::Exception: {error!r}. (UNKNOWN_EXCEPTION)", "1002", ""
        else:
            # The library puts its own words in front of the engine's text.
            text, number = text[code.start() :].strip(), code.group(1)
            name = (re.findall(r"\(([A-Z][A-Z0-9_]+)\)", text) or [""])[-1]
        if "(version " not in text:
            text += f" (version {self.server.version})"
        status = STATUS_BY_ERROR.get(name, 500)
        return status, text.encode() + b"\n", {"X-ClickHouse-Exception-Code": number}

    def read_body(self):
        """The body as it comes, at most READ_BYTES at a time."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            while True:
                line = self.rfile.readline(1024)
                try:
                    left = int(line.split(b";")[0], 16)
                except ValueError:
                    raise ClientGone from None
                if left == 0:
                    break
                yield from self.read_exactly(left)
                if self.rfile.readline(3) != b"\r\n":
                    raise ClientGone
            while self.rfile.readline(65536).strip():
                pass
        else:
            yield from self.read_exactly(int(self.headers.get("Content-Length") or 0))

    def read_exactly(self, left):
        while left:
            data = self.rfile.read(min(left, READ_BYTES))
            if not data:
                raise ClientGone
            left -= len(data)
            yield data

    def check_login(self, params):
        user, password = self.server.login
        if user is None:
            return
        given = (
            self.headers.get("X-ClickHouse-User") or params.get("user"),
            self.headers.get("X-ClickHouse-Key") or params.get("password"),
        )
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                name, _, key = base64.b64decode(token, validate=True).decode().partition(":")
                given = (name, key)
            except (binascii.Error, UnicodeDecodeError):
                pass
        if (given[0] or "default", given[1] or "") != (user, password):
            text = "Authentication failed: password is incorrect, or there is no user with such name"
            raise DbError(516, "AUTHENTICATION_FAILED", f"{given[0] or 'default'}: {text}")

    def run(self):
        """Runs the query of this request: (body, headers) of a 200."""
        params = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        self.check_login(params)

        chunks = decompressed(self.raw_body) if params.get("decompress") == "1" else self.raw_body
        content_type = self.headers.get("Content-Type", "")
        if content_type.startswith("multipart/form-data"):
            params.update(multipart_fields(b"".join(chunks), content_type))
            chunks = iter(())

        session = Session(self.server.folder)
        try:
            self.prepare(session, params)
            sql = params.get("query", "")
            rows_follow = INSERT_WITH_DATA.fullmatch(sql) if INSERT.match(sql) else None
            if rows_follow:
                body, stats = b"", insert(session, rows_follow, chunks)
            else:
                try:
                    sql = "\n".join(filter(None, (sql, b"".join(chunks).decode())))
                except UnicodeDecodeError:
                    raise DbError(62, "SYNTAX_ERROR", "The query is not UTF-8: binary rows need ?query=") from None
                if not INSERT.match(sql):
                    check_one_statement(sql)
                if not SQL_TOKEN.sub("", sql).strip():
                    raise DbError(62, "SYNTAX_ERROR", "Syntax error: failed at position 1 (end of query): Empty query")
                default_format = params.get("default_format") or self.headers.get("X-ClickHouse-Format")
                result = session.query(sql, default_format or "TabSeparated")
                body = result.bytes()
                stats = {
                    "read_rows": result.rows_read(),
                    "read_bytes": result.bytes_read(),
                    "written_rows": result.rows_written(),
                    "written_bytes": result.bytes_written(),
                }
            headers = {
                "X-ClickHouse-Query-Id": params.get("query_id") or str(uuid.uuid4()),
                "X-ClickHouse-Summary": json.dumps({name: str(value) for name, value in stats.items()}),
            }
            if params.get("compress") == "1":
                body = b"".join(compressed(body))
            elif body and self.wants_lz4(params):
                body = lz4.frame.compress(body)
                headers["Content-Encoding"] = "lz4"
            return body, headers
        finally:
            session.close()

    def prepare(self, session, params):
        """Gives the session the request's database, settings and query parameters."""
        session.query(SERVER_SETTINGS)
        if params.get("database"):
            session.query("USE `" + params["database"].replace("`", "\\`") + "`")
        settings = {name: value for name, value in params.items() if name not in NOT_SETTINGS}
        for name in settings:
            if not re.fullmatch(r"\w+", name):
                raise DbError(115, "UNKNOWN_SETTING", f"Unknown setting '{name}'")
        # One statement each, so that the engine names the one that it refuses.
        for name, value in settings.items():
            session.query(f"SET {name} = {quoted(value)}")
        if self.command == "GET" and "readonly" not in settings:
            session.query("SET readonly = 2")

    def wants_lz4(self, params):
        # On unless the request turns it off, as in this version of the engine.
        if params.get("enable_http_compression", "1") in ("0", "false"):
            return False
        return "lz4" in [part.split(";")[0].strip() for part in self.headers.get("Accept-Encoding", "").split(",")]


def insert(session, statement, chunks):
    """Runs an insert when all its rows are here; nothing is inserted when the client goes away before.

    Not with the library's `send_insert`: it says "done" to an insert that the engine refuses at its end (a constraint,
    too many partitions), and its rows are gone.
    """
    head, settings, data_format, values = statement.groups(default="")
    # A file in memory, which is gone with this process, however that ends.
    with open(os.memfd_create("rows"), "wb") as rows:
        for chunk in chunks:
            rows.write(chunk)
        rows.flush()
        source = f"/proc/self/fd/{rows.fileno()}"
        result = session.query(
            f"{head} FROM INFILE '{source}' COMPRESSION 'none'{settings} FORMAT {data_format or values}"
        )
    return {"written_rows": result.rows_written(), "written_bytes": result.bytes_written()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog=__doc__.split("\n", 2)[2],
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--data", required=True, help="folder of the data, made when missing")
    parser.add_argument("--user", help="refuse every other user (default: all may enter)")
    parser.add_argument("--password", default="", help="password of --user")
    args = parser.parse_args()

    folder = os.path.abspath(args.data)
    os.makedirs(folder, exist_ok=True)
    # Two engines on one folder would destroy it. The lock ends with the process, however it ends.
    lock = open(os.path.join(folder, "trellis.lock"), "w", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"{folder}: another server uses this folder")

    server = Server(args.port, folder, args.user, args.password)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    print(f"ClickHouse engine {server.version} listens on http://127.0.0.1:{server.server_address[1]}", flush=True)
    stop.wait()
    server.shutdown()
    server.server_close()
    if server.drain():
        server.root.close()
    # Idle connections have threads that wait for their next request: do not wait for them.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
