#!/usr/bin/env python3
"""Runs every server against every driver and prints who understood whom.

See README.md beside this file. Exit status: 0 if every failure is a known bug of a peer and every
known bug that was due showed up; 1 otherwise; 2 if the command line is wrong.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import textwrap
import time
import traceback

import known_bugs
from checks import CHECKS, Session
from harness import (
    CheckFailed,
    Crashed,
    Driver,
    Program,
    Server,
    Unsupported,
    end_children_on_signals,
)

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
NAMES = ("ours", "py", "js0", "js1", "rust")
PEER_TRANSPORTS = ("tcp", "ws")
OUR_TRANSPORTS = ("unix", "shm", "udp")

# How long a check may take that is known to fail: a failure that shows as silence costs all of it.
KNOWN_FAILURE_SECONDS = 3.0
# How long a driver may take to close before it is killed from then on.
CLOSE_SECONDS = 3.0

PASSED, FAILED, KNOWN, FIXED, UNSUPPORTED = "passed", "failed", "known", "fixed", "unsupported"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interop", type=pathlib.Path, help="our program (built with --release)")
    parser.add_argument("--peers", type=pathlib.Path, help="where setup.sh installed the peers")
    parser.add_argument("--python", type=pathlib.Path, help="interpreter that has rsocket-py")
    parser.add_argument(
        "--transport",
        action="append",
        choices=PEER_TRANSPORTS + OUR_TRANSPORTS,
        help="default tcp; may be given several times; unix, shm and udp are ours alone",
    )
    parser.add_argument(
        "--only", action="append", metavar="SERVER:DRIVER", help="only this pair; may be repeated"
    )
    parser.add_argument("--check", action="append", metavar="ID", help="only this check")
    parser.add_argument("--all", action="store_true", help="also pairs of peers without ours")
    parser.add_argument("--list", action="store_true", help="list pairs and checks, run nothing")
    parser.add_argument(
        "--keep-going", action="store_true", help="go on after an unexplained failure of a pair"
    )
    parser.add_argument("--verbose", action="store_true", help="a line for every check")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write all results")
    parser.add_argument(
        "--allow-missing",
        action="append",
        default=[],
        choices=NAMES,
        metavar="NAME",
        help="a peer that may be absent",
    )
    options = parser.parse_args()
    options.transport = list(dict.fromkeys(options.transport or ["tcp"]))
    known_ids = {check.id for check in CHECKS}
    for wanted in options.check or ():
        if wanted not in known_ids:
            parser.error(f"there is no check {wanted}; --list names them")
    for pair in options.only or ():
        if len(pair.split(":")) != 2 or not set(pair.split(":")) <= set(NAMES):
            parser.error(f"--only takes SERVER:DRIVER of {', '.join(NAMES)}, not {pair}")
    return options


# Which programs there are


def first_existing(candidates):
    return next((path for path in candidates if path.exists()), None)


def find_programs(options):
    """Returns the programs by name, and for those that are absent the reason."""
    installed = options.peers or REPOSITORY / "target" / "interop-peers"
    programs, absent = {}, {}

    target = os.environ.get("CARGO_TARGET_DIR")
    builds = [pathlib.Path(target)] if target else []
    builds.append(REPOSITORY / "target")
    ours = options.interop or first_existing(build / "release" / "interop" for build in builds)
    if ours and ours.exists():
        programs["ours"] = Program("ours", [str(ours.resolve())])
    else:
        absent["ours"] = "not built: cargo build --release -p examples --bin interop"

    python = options.python or first_existing([installed / "py" / "bin" / "python"])
    if not python:
        absent["py"] = "not installed: setup.sh"
    elif not imports(python, "rsocket, aiohttp"):
        absent["py"] = f"{python} has no rsocket or no aiohttp"
    else:
        programs["py"] = Program("py", [str(python), str(HERE / "peers" / "py" / "peer.py")])

    for name in ("js0", "js1"):
        source = HERE / "peers" / name / "peer.js"
        modules = first_existing(
            [installed / name / "node_modules", source.parent / "node_modules"]
        )
        if not source.exists():
            absent[name] = f"{source.relative_to(REPOSITORY)} is absent"
        elif not modules:
            absent[name] = "not installed: setup.sh"
        else:
            programs[name] = Program(name, ["node", str(source)], {"NODE_PATH": str(modules)})

    rust = first_existing(
        [
            installed / "rust" / "release" / "peer",
            HERE / "peers" / "rust" / "target" / "release" / "peer",
        ]
    )
    if rust:
        programs["rust"] = Program("rust", [str(rust)])
    else:
        absent["rust"] = "not installed: setup.sh"

    for name in list(programs):
        try:
            driver = Driver(programs[name])
            try:
                programs[name].caps = driver.ask_caps()
            finally:
                driver.kill()
        except CheckFailed as failure:
            del programs[name]
            absent[name] = f"its driver does not tell its capabilities: {failure}"
    return programs, absent


def imports(python, modules):
    try:
        return (
            subprocess.run(
                [python, "-c", f"import {modules}"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=60,
                check=False,
            ).returncode
            == 0
        )
    except OSError:
        return False


def pairs(options):
    if options.only:
        return [tuple(pair.split(":")) for pair in options.only]
    return [
        (server, driver)
        for server in NAMES
        for driver in NAMES
        if options.all or "ours" in (server, driver)
    ]


# Running one pair


class Result:
    def __init__(self, check, outcome, message="", bugs=(), seconds=0.0):
        self.check = check
        self.outcome = outcome
        self.message = message
        self.bugs = list(bugs)
        self.seconds = seconds

    def as_json(self):
        return {
            "check": self.check.id,
            "name": self.check.name,
            "covers": self.check.covers,
            "outcome": self.outcome,
            "message": self.message,
            "explained_by": [bug.what for bug in self.bugs],
            "seconds": round(self.seconds, 3),
        }


class Pair:
    """Runs checks between one server program and one driver program on one transport.

    Servers are kept by their options and the driver is kept as well; after a failure all are
    started afresh, as nothing is known about the state they are in.
    """

    def __init__(self, server, driver, transport, options):
        self.server_program = server
        self.driver_program = driver
        self.transport = transport
        self.options = options
        self._servers = {}
        self._driver = None
        self._close_hangs = False

    @property
    def roles(self):
        return {
            known_bugs.SERVER: self.server_program,
            known_bugs.DRIVER: self.driver_program,
        }

    def run(self, checks):
        results = []
        try:
            for check in checks:
                result = self._run_one(check)
                results.append(result)
                if self.options.verbose:
                    print_result(result)
                if result.outcome in (FAILED, FIXED) and not self.options.keep_going:
                    break
        finally:
            self._start_afresh()
        return results

    def _lacks(self, check):
        if check.transports and self.transport not in check.transports:
            return f"not for {self.transport}"
        for key in check.needs:
            if not self.driver_program.caps.get(key):
                return f"driver {self.driver_program.name} has no {key}"
        for key in check.server_needs:
            if not self.server_program.caps.get(key):
                return f"server {self.server_program.name} has no {key}"
        return None

    def _run_one(self, check):
        lack = self._lacks(check)
        if lack:
            return Result(check, UNSUPPORTED, lack)
        bugs = known_bugs.find(self.roles, self.transport, check.id)
        begin = time.monotonic()
        try:
            seconds = check.timeout
            if any(bug.always for bug in bugs):
                seconds = min(seconds, KNOWN_FAILURE_SECONDS)
            self._attempt(check, seconds)
        except Unsupported as lack:
            self._start_afresh()
            return Result(check, UNSUPPORTED, str(lack))
        except CheckFailed as failure:
            message = str(failure) + self._post_mortem()
            self._start_afresh()
            outcome = KNOWN if bugs else FAILED
            return Result(check, outcome, message, bugs, time.monotonic() - begin)
        except Exception:
            # A mistake of the matrix explains nothing about a peer.
            self._start_afresh()
            message = "the check itself failed: " + traceback.format_exc(limit=-3)
            return Result(check, FAILED, message, (), time.monotonic() - begin)
        due = [bug for bug in bugs if bug.always]
        if due:
            message = "passed, though a known bug says that it fails"
            return Result(check, FIXED, message, due, time.monotonic() - begin)
        return Result(check, PASSED, seconds=time.monotonic() - begin)

    def _attempt(self, check, seconds):
        server = self._server(check.server)
        driver = self._driver
        if driver is None or not driver.alive():
            driver = self._driver = Driver(self.driver_program)
        driver.deadline = time.monotonic() + seconds
        session = Session(
            server,
            driver,
            lambda: Driver(self.driver_program),
            lambda options: Server(self.server_program, self.transport, options),
        )
        try:
            if check.connect is not None:
                driver.connect(server.url, **check.connect)
            check.run(session)
            if not server.alive():
                raise Crashed(f"server {self.server_program.name} ended: {server.stderr_tail()}")
            if not session.broken:
                session.broken = not self._closes(driver)
        finally:
            session.end()
        if session.broken:
            driver.kill()
            self._driver = None

    def _closes(self, driver):
        """Whether `close` is answered. Checks of their own demand it; here it only saves time."""
        if self._close_hangs:
            return False
        driver.deadline = time.monotonic() + CLOSE_SECONDS
        try:
            driver.close()
        except CheckFailed:
            self._close_hangs = True
        return not self._close_hangs

    def _server(self, options):
        server = self._servers.get(options)
        if server is None or not server.alive():
            server = self._servers[options] = Server(self.server_program, self.transport, options)
        return server

    def _post_mortem(self):
        for server in self._servers.values():
            if not server.alive():
                return f"; server {self.server_program.name} ended: {server.stderr_tail(300)}"
        if self._driver is not None and not self._driver.alive():
            return f"; driver ended: {self._driver.stderr_tail(300)}"
        return ""

    def _start_afresh(self):
        for server in self._servers.values():
            server.kill()
        self._servers.clear()
        if self._driver is not None:
            self._driver.kill()
            self._driver = None


# Telling the result


MARKS = {PASSED: "ok", FAILED: "FAILED", KNOWN: "known bug", FIXED: "FIXED?", UNSUPPORTED: "--"}


def print_result(result):
    line = f"  {MARKS[result.outcome]:9} {result.check.id:34} {result.seconds:6.2f} s"
    if result.message:
        line += "  " + result.message
    print(line, flush=True)


def count(results, *outcomes):
    return sum(result.outcome in outcomes for result in results)


HEADER = (
    f"{'transport':9}  {'server':6}  {'driver':6}  {'passed':>7}  {'n/a':>3}  failures explained by"
)


def summary(rows):
    lines = []
    for transport, server, driver, results in rows:
        head = f"{transport:9}  {server:6}  {driver:6}"
        if isinstance(results, str):
            lines.append(f"{head}  {results}")
            continue
        applicable = len(results) - count(results, UNSUPPORTED)
        head += f"  {count(results, PASSED):>3}/{applicable:<3}  {count(results, UNSUPPORTED):>3}"
        reasons = {}
        for result in results:
            if result.outcome in (FAILED, FIXED):
                key = f"{MARKS[result.outcome]} {result.check.name}: {result.message}"
                if result.outcome == FIXED:
                    key += f" ({result.bugs[0].what})"
                reasons[key] = None
            for bug in result.bugs if result.outcome == KNOWN else ():
                reasons.setdefault(f"{bug.peer}: {bug.what}", []).append(result.check.id)
        blocks = [
            reason if ids is None else f"{reason} [{', '.join(ids)}]"
            for reason, ids in reasons.items()
        ] or [""]
        indent = " " * (len(head) + 2)
        text = [
            wrapped
            for block in blocks
            for wrapped in textwrap.wrap(block, 110, subsequent_indent="  ") or [""]
        ]
        lines.append(f"{head}  {text[0]}".rstrip())
        lines.extend(indent + more for more in text[1:])
    return "\n".join(lines)


def list_all(options, programs, absent, checks):
    for name in NAMES:
        if name in programs:
            print(f"{name:6} {programs[name].impl or 'installed'}")
        else:
            print(f"{name:6} absent: {absent[name]}")
    print("\npairs (server:driver)")
    for server, driver in pairs(options):
        print(f"  {server}:{driver}")
    print("\nchecks")
    for check in checks:
        needs = ", ".join([*check.needs, *(f"server: {key}" for key in check.server_needs)])
        print(f"  {check.id:34} {check.name}" + (f" ({needs})" if needs else ""))


def main():
    options = arguments()
    end_children_on_signals()
    programs, absent = find_programs(options)
    checks = [check for check in CHECKS if not options.check or check.id in options.check]
    if options.list:
        list_all(options, programs, absent, checks)
        return 0

    begin = time.monotonic()
    failed = False
    rows, report = [], []
    if not options.verbose:
        print(f"{HEADER}\n{'-' * len(HEADER)}")
    for transport in options.transport:
        for server, driver in pairs(options):
            if transport in OUR_TRANSPORTS and (server, driver) != ("ours", "ours"):
                continue
            missing = [name for name in dict.fromkeys((server, driver)) if name in absent]
            if missing:
                allowed = all(name in options.allow_missing for name in missing)
                failed |= not allowed
                why = "; ".join(f"{name} {absent[name]}" for name in missing)
                note = f"{'missing' if allowed else 'MISSING'}: {why}"
                rows.append((transport, server, driver, note))
                if not options.verbose:
                    print(summary(rows[-1:]), flush=True)
                continue
            mute = [
                name
                for name in dict.fromkeys((server, driver))
                if transport in PEER_TRANSPORTS and not programs[name].caps.get(transport)
            ]
            if mute:
                rows.append(
                    (transport, server, driver, f"n/a: {', '.join(mute)} has no {transport}")
                )
                if not options.verbose:
                    print(summary(rows[-1:]), flush=True)
                continue
            if options.verbose:
                print(f"{transport}: {driver} calls {server}", flush=True)
            results = Pair(programs[server], programs[driver], transport, options).run(checks)
            rows.append((transport, server, driver, results))
            failed |= bool(count(results, FAILED, FIXED))
            report.append(
                {
                    "transport": transport,
                    "server": {"name": server, "impl": programs[server].impl},
                    "driver": {"name": driver, "impl": programs[driver].impl},
                    "passed": count(results, PASSED),
                    "known": count(results, KNOWN),
                    "failed": count(results, FAILED, FIXED),
                    "unsupported": count(results, UNSUPPORTED),
                    "results": [result.as_json() for result in results],
                }
            )
            if not options.verbose:
                print(summary(rows[-1:]), flush=True)
    if options.verbose:
        print(f"\n{HEADER}\n{'-' * len(HEADER)}\n{summary(rows)}")
    print(f"{time.monotonic() - begin:.0f} s")
    if options.json:
        options.json.write_text(
            json.dumps({"ok": not failed, "absent": absent, "pairs": report}, indent=1) + "\n",
            encoding="utf-8",
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
