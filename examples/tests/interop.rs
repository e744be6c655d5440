//! The interop program, as others use it: its server and its driver as
//! processes, one row of the service's table after the other.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that panics fails, as it should"
)]

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use base64::prelude::{BASE64_STANDARD as BASE64, Engine as _};
use serde_json::{Value, json};

/// How long anything may take before the test counts as failed.
const PATIENCE: Duration = Duration::from_secs(20);

const APPLICATION_ERROR: u32 = 0x201;

fn interop() -> Command {
    Command::new(env!("CARGO_BIN_EXE_interop"))
}

/// Runs the program to its end.
fn output_of(args: &[&str]) -> Output {
    interop().args(args).output().unwrap()
}

/// Ends the process with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An empty directory of this test's own. Sockets in it are named by relative
/// paths, since a long path fits no socket address.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!(
            "interop-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Server {
    process: Process,
    urls: Vec<String>,
}

impl Server {
    fn start(directory: &Directory, args: &[&str], transports: usize) -> Self {
        let mut child = interop()
            .arg("server")
            .args(args)
            .current_dir(&directory.0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let urls = out
            .lines()
            .take(transports)
            .map(|line| line.unwrap().strip_prefix("listening ").unwrap().to_owned())
            .collect();
        Self {
            process: Process(child),
            urls,
        }
    }

    fn tcp(directory: &Directory) -> Self {
        Self::start(directory, &["--tcp", "0"], 1)
    }

    fn url(&self) -> &str {
        &self.urls[0]
    }
}

struct Driver {
    process: Process,
    input: ChildStdin,
    output: mpsc::Receiver<Value>,
    /// Events of other requests than the one that was waited for.
    seen: VecDeque<Value>,
    next_id: u64,
}

/// What a request came to, but for the credit of a channel.
#[derive(Debug, PartialEq)]
enum Seen {
    Next(Vec<u8>, Option<Vec<u8>>),
    Complete,
    Error(i64, String),
    Cancelled,
}

fn next(data: impl AsRef<[u8]>) -> Seen {
    Seen::Next(data.as_ref().to_vec(), None)
}

fn failed(message: &str) -> Seen {
    Seen::Error(APPLICATION_ERROR.into(), message.to_owned())
}

fn pattern(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

impl Driver {
    fn start(directory: &Directory) -> Self {
        let mut child = interop()
            .arg("driver")
            .current_dir(&directory.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, output) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap();
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Self {
            process: Process(child),
            input,
            output,
            seen: VecDeque::new(),
            next_id: 1,
        }
    }

    /// A driver connected to `url`.
    fn connected(directory: &Directory, url: &str) -> Self {
        let mut driver = Self::start(directory);
        driver.connect(json!({"url": url}));
        driver
    }

    fn connect(&mut self, options: Value) {
        let id = self.op("connect", options);
        assert_eq!(self.event(id)["ev"], "ok");
    }

    fn send_line(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    fn tell(&mut self, id: u64, op: &str, mut fields: Value) {
        fields["id"] = id.into();
        fields["op"] = op.into();
        self.send_line(&fields.to_string());
    }

    fn op(&mut self, op: &str, fields: Value) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.tell(id, op, fields);
        id
    }

    fn request(&mut self, op: &str, data: &str) -> u64 {
        self.op(op, json!({"data": BASE64.encode(data)}))
    }

    fn on_credit(&mut self, op: &str, data: &str, n: u32) -> u64 {
        self.op(op, json!({"data": BASE64.encode(data), "n": n}))
    }

    fn send(&mut self, id: u64, data: &str) {
        self.tell(id, "send", json!({"data": BASE64.encode(data)}));
    }

    /// The next event of request `id`.
    fn event(&mut self, id: u64) -> Value {
        let is_its = |event: &Value| event["id"] == id;
        if let Some(at) = self.seen.iter().position(is_its) {
            return self.seen.remove(at).unwrap();
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.output.recv_timeout(left);
            let event = event.unwrap_or_else(|_| panic!("no event of {id}; seen: {:?}", self.seen));
            if is_its(&event) {
                return event;
            }
            self.seen.push_back(event);
        }
    }

    /// The same, past news of credit.
    fn seen(&mut self, id: u64) -> Seen {
        loop {
            let event = self.event(id);
            let bytes = |name: &str| {
                event[name]
                    .as_str()
                    .map(|text| BASE64.decode(text).unwrap())
            };
            return match event["ev"].as_str().unwrap() {
                "demand" => continue,
                "next" => Seen::Next(bytes("data").unwrap(), bytes("metadata")),
                "complete" => Seen::Complete,
                "error" => Seen::Error(
                    event["code"].as_i64().unwrap(),
                    event["message"].as_str().unwrap().to_owned(),
                ),
                "cancelled" => Seen::Cancelled,
                other => panic!("unexpected: {other}"),
            };
        }
    }

    /// Demands that nothing more came of request `id` than was waited for: what
    /// the server sent before it answered this echo would be here.
    fn is_silent(&mut self, id: u64) {
        self.answers("echo:silence?", &[next("echo:silence?"), Seen::Complete]);
        let mut seen = self.seen.iter();
        let more = seen.find(|event| event["id"] == id && event["ev"] != "demand");
        assert_eq!(more, None);
    }

    fn ends(&mut self, id: u64, wanted: &[Seen]) {
        for wanted in wanted {
            assert_eq!(self.seen(id), *wanted);
        }
    }

    /// A request-response that ends as `wanted`.
    fn answers(&mut self, data: &str, wanted: &[Seen]) {
        let id = self.request("rr", data);
        self.ends(id, wanted);
    }

    /// A request-stream, with all the credit there is, that ends as `wanted`.
    fn streams(&mut self, data: &str, wanted: &[Seen]) {
        let id = self.request("stream", data);
        self.ends(id, wanted);
    }

    fn items(&mut self, id: u64, numbers: std::ops::Range<u32>) {
        for n in numbers {
            assert_eq!(self.seen(id), next(n.to_string()));
        }
    }

    fn stats(&mut self) -> Stats {
        let id = self.request("rr", "stats");
        let Seen::Next(text, None) = self.seen(id) else {
            panic!("stats were not answered");
        };
        let text = String::from_utf8(text).unwrap();
        let names = ["fnf=", "cancel=", "push=", "maxout=", "active="];
        let mut numbers = text.split(' ').zip(names).map(|(field, name)| {
            let number = field.strip_prefix(name);
            number.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
        });
        let mut number = || numbers.next().unwrap();
        Stats {
            fnf: number(),
            cancel: number(),
            push: number(),
            maxout: number(),
            active: number(),
        }
    }

    /// Asks for the stats until they are as `wanted`.
    fn wait_for_stats(&mut self, wanted: impl Fn(&Stats) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let stats = self.stats();
            if wanted(&stats) {
                return;
            }
            assert!(Instant::now() < deadline, "last seen: {stats:?}");
        }
    }
}

#[derive(Debug, PartialEq)]
struct Stats {
    fnf: u64,
    cancel: u64,
    push: u64,
    maxout: u64,
    active: u64,
}

/// A connected driver, its server and their directory.
fn pair() -> (Driver, Server, Directory) {
    let directory = Directory::new();
    let server = Server::tcp(&directory);
    let driver = Driver::connected(&directory, server.url());
    (driver, server, directory)
}

// [C230, C035, C080]
#[test]
fn request_responses_are_answered_by_the_table() {
    let (mut driver, _server, _directory) = pair();
    driver.answers("echo:hello", &[next("echo:hello"), Seen::Complete]);
    driver.answers("error:no such thing", &[failed("no such thing")]);
    driver.answers("big:0", &[next(""), Seen::Complete]);
    driver.answers("big:100000", &[next(pattern(100_000)), Seen::Complete]);
    driver.answers(
        "big:99999999999999",
        &[failed("more than 67108864 bytes are not to be had")],
    );
    driver.answers("big:+1", &[failed("unknown")]);
    driver.answers("len:four", &[next("8"), Seen::Complete]);
    driver.answers("callme:back", &[next("echo:back"), Seen::Complete]);
    driver.answers("what?", &[failed("unknown")]);
    driver.answers("", &[failed("unknown")]);
}

// [C035]
#[test]
fn metadata_comes_back_as_it_was_some_empty_or_absent() {
    let (mut driver, _server, _directory) = pair();
    let data = BASE64.encode("echo:");
    for metadata in [None, Some(&b""[..]), Some(&b"\0\xff"[..])] {
        let field = metadata.map(|metadata| BASE64.encode(metadata));
        let id = driver.op("rr", json!({"data": data, "metadata": field}));
        let wanted = Seen::Next(b"echo:".to_vec(), metadata.map(<[u8]>::to_vec));
        driver.ends(id, &[wanted, Seen::Complete]);
    }
}

#[test]
fn patterns_are_appended_to_data_and_metadata() {
    let (mut driver, _server, _directory) = pair();
    let fields = json!({
        "data": BASE64.encode("echo:"), "gen": 70_000,
        "metadata": BASE64.encode("m"), "mgen": 300,
    });
    let id = driver.op("rr", fields);
    let data = [b"echo:".to_vec(), pattern(70_000)].concat();
    let metadata = [b"m".to_vec(), pattern(300)].concat();
    driver.ends(id, &[Seen::Next(data, Some(metadata)), Seen::Complete]);
}

// [C140, C232]
#[test]
fn a_request_that_is_never_answered_is_active_until_it_is_cancelled() {
    let (mut driver, _server, _directory) = pair();
    let idle = driver.stats();
    assert_eq!(idle.active, 0);
    let ids = [driver.request("rr", "never"), driver.request("rr", "never")];
    driver.wait_for_stats(|stats| stats.active == 2 && stats.maxout == 2);
    for id in ids {
        driver.tell(id, "cancel", json!({}));
    }
    driver.wait_for_stats(|stats| stats.active == 0 && stats.cancel == 2);
    driver.is_silent(ids[0]);
}

// [C160, C234]
#[test]
fn one_way_messages_are_counted() {
    let (mut driver, _server, _directory) = pair();
    for n in 1..=10 {
        let fnf = driver.op("fnf", json!({"gen": n}));
        driver.ends(fnf, &[Seen::Complete]);
        let push = driver.op("push", json!({"mgen": n}));
        driver.ends(push, &[Seen::Complete]);
    }
    driver.wait_for_stats(|stats| stats.fnf == 10 && stats.push == 10);
}

// [C131, C150, C235, C250]
#[test]
fn items_come_within_credit_and_ends_without() {
    let (mut driver, _server, _directory) = pair();
    let id = driver.on_credit("stream", "range:6", 3);
    driver.items(id, 0..3);
    driver.is_silent(id);
    driver.tell(id, "request_n", json!({"n": 2}));
    driver.items(id, 3..5);
    driver.is_silent(id);
    driver.tell(id, "request_n", json!({"n": 1}));
    driver.items(id, 5..6);
    driver.ends(id, &[Seen::Complete]);

    let id = driver.on_credit("stream", "fail:2", 2);
    driver.items(id, 0..2);
    driver.ends(id, &[failed("boom")]);
}

// [C235]
#[test]
fn request_streams_are_answered_by_the_table() {
    let (mut driver, _server, _directory) = pair();
    driver.streams("range:2", &[next("0"), next("1"), Seen::Complete]);
    driver.streams("range:0", &[Seen::Complete]);
    driver.streams("fail:1", &[next("0"), failed("boom")]);
    driver.streams("fail:0", &[failed("boom")]);
    driver.streams("empty", &[Seen::Complete]);
    let item = || next(pattern(5000));
    driver.streams("bigitems:3:5000", &[item(), item(), item(), Seen::Complete]);
    driver.streams("bigitems:3", &[failed("unknown")]);
    driver.streams("what?", &[failed("unknown")]);
    // None of them was cancelled.
    assert_eq!(driver.stats().cancel, 0);
}

// [C109, C133, C256]
#[test]
fn an_endless_stream_with_endless_credit_starves_nobody() {
    let (mut driver, _server, _directory) = pair();
    let flood = driver.request("stream", "infinite");
    driver.items(flood, 0..1000);
    driver.answers(
        "echo:still here",
        &[next("echo:still here"), Seen::Complete],
    );
    driver.tell(flood, "cancel", json!({}));
    driver.wait_for_stats(|stats| stats.active == 0 && stats.cancel == 1);
}

// [C122, C126, C237, C241]
#[test]
fn channels_are_answered_by_the_table() {
    let (mut driver, _server, _directory) = pair();

    let echo = driver.request("channel", "echo");
    driver.send(echo, "one");
    driver.tell(echo, "send", json!({"metadata": ""}));
    driver.tell(echo, "send_complete", json!({}));
    let empty = Seen::Next(Vec::new(), Some(Vec::new()));
    driver.ends(echo, &[next("echo"), next("one"), empty, Seen::Complete]);

    let sum = driver.request("channel", "sum");
    for number in ["1", "40", "-3"] {
        driver.send(sum, number);
    }
    driver.tell(sum, "send_complete", json!({}));
    driver.ends(sum, &[next("1"), next("41"), next("38"), Seen::Complete]);

    let no_sum = driver.request("channel", "sum");
    driver.send(no_sum, "much");
    driver.ends(no_sum, &[failed("not a number")]);

    let unknown = driver.request("channel", "what?");
    driver.ends(unknown, &[failed("unknown")]);
    // None of them was cancelled.
    driver.wait_for_stats(|stats| stats.active == 0);
    assert_eq!(driver.stats().cancel, 0);
}

// [C240]
#[test]
fn a_channel_that_stops_completes_and_cancels_its_inbound() {
    let (mut driver, _server, _directory) = pair();
    let id = driver.request("channel", "stop:2");
    driver.send(id, "second");
    driver.send(id, "third");
    driver.ends(
        id,
        &[
            next("stop:2"),
            next("second"),
            Seen::Complete,
            Seen::Cancelled,
        ],
    );
    assert_eq!(driver.stats().cancel, 0);
}

// [C131, C250]
#[test]
fn a_channel_reports_the_credit_it_gets_and_keeps_to_it_both_ways() {
    let (mut driver, _server, _directory) = pair();
    let id = driver.on_credit("channel", "echo", 1);
    let mut granted = 0;
    while granted < 100 {
        // Sent as credit comes; echoes come as `request_n` asks for them.
        driver.send(id, "more");
        driver.tell(id, "request_n", json!({"n": 1}));
        let event = driver.event(id);
        if event["ev"] == "demand" {
            granted += event["n"].as_u64().unwrap();
        }
    }
    driver.tell(id, "cancel", json!({}));
    driver.wait_for_stats(|stats| stats.active == 0 && stats.cancel == 1);
}

// [C238]
#[test]
fn a_channel_ended_by_its_requesters_error_was_not_cancelled() {
    let (mut driver, _server, _directory) = pair();
    let id = driver.request("channel", "echo");
    driver.ends(id, &[next("echo")]);
    driver.tell(id, "send_error", json!({"message": "enough"}));
    driver.wait_for_stats(|stats| stats.active == 0);
    assert_eq!(driver.stats().cancel, 0);
    driver.is_silent(id);
}

// [C211, C219]
#[test]
fn both_sides_fragment_as_they_are_told() {
    let directory = Directory::new();
    let server = Server::start(&directory, &["--tcp", "0", "--mtu", "64"], 1);
    let mut driver = Driver::start(&directory);
    driver.connect(json!({"url": server.url(), "mtu": 256}));
    let id = driver.op("rr", json!({"data": BASE64.encode("echo:"), "gen": 10_000}));
    let echo = [b"echo:".to_vec(), pattern(10_000)].concat();
    driver.ends(id, &[next(echo), Seen::Complete]);
}

#[test]
fn one_server_serves_all_transports_it_is_given_with_one_set_of_counters() {
    let directory = Directory::new();
    let args = [
        "--tcp", "0", "--unix", "a.sock", "--tcp", "0", "--unix", "b.sock", "--ws", "0", "--shm",
        "c.sock",
    ];
    let server = Server::start(&directory, &args, 6);
    let schemes: Vec<_> = server
        .urls
        .iter()
        .map(|url| url.split_once(':').unwrap().0)
        .collect();
    assert_eq!(schemes, ["tcp", "tcp", "ws", "unix", "unix", "shm"]);
    let mut drivers: Vec<_> = server
        .urls
        .iter()
        .map(|url| Driver::connected(&directory, url))
        .collect();
    for driver in &mut drivers {
        let id = driver.op("fnf", json!({}));
        driver.ends(id, &[Seen::Complete]);
    }
    drivers[0].wait_for_stats(|stats| stats.fnf == 6);
}

// [C040, C054]
#[test]
fn what_a_killed_client_asked_for_is_released_and_others_do_not_notice() {
    let (mut driver, server, directory) = pair();
    let mine = driver.on_credit("stream", "range:100", 50);
    driver.items(mine, 0..50);

    let mut other = Driver::connected(&directory, server.url());
    let flood = other.on_credit("stream", "infinite", 5);
    other.items(flood, 0..5);
    let channel = other.request("channel", "echo");
    other.ends(channel, &[next("echo")]);
    other.request("rr", "never");
    driver.wait_for_stats(|stats| stats.active == 4);
    drop(other);

    driver.wait_for_stats(|stats| stats.active == 1 && stats.cancel == 3);
    driver.tell(mine, "request_n", json!({"n": 50}));
    driver.items(mine, 50..100);
    driver.ends(mine, &[Seen::Complete]);
}

#[test]
fn a_driver_closes_and_connects_again() {
    let (mut driver, server, _directory) = pair();
    for _ in 0..3 {
        let never = driver.request("rr", "never");
        driver.wait_for_stats(|stats| stats.active == 1);
        let close = driver.op("close", json!({}));
        assert_eq!(driver.event(close)["ev"], "ok");
        // Told before `ok`; what was pending ends without a word, as cancelled.
        let of_old: Vec<_> = driver.seen.drain(..).collect();
        assert!(
            of_old
                .iter()
                .any(|event| event["id"] == 0 && event["ev"] == "closed")
        );
        assert!(of_old.iter().all(|event| event["id"] != never));

        let id = driver.request("rr", "echo:nobody");
        assert_eq!(driver.seen(id), Seen::Error(-1, "not connected".to_owned()));
        driver.connect(json!({
            "url": server.url(), "keepalive_ms": 1000, "lifetime_ms": 5000,
            "setup_data": BASE64.encode("who"), "setup_metadata": "",
            "lease": false, "resume": null,
        }));
        driver.wait_for_stats(|stats| stats.active == 0);
    }
    assert_eq!(driver.stats().cancel, 3);
}

// [C054]
#[test]
fn when_the_server_dies_every_request_fails_and_the_end_is_reported() {
    let (mut driver, server, _directory) = pair();
    let never = driver.request("rr", "never");
    let flood = driver.on_credit("stream", "infinite", 3);
    let channel = driver.request("channel", "echo");
    driver.items(flood, 0..3);
    driver.ends(channel, &[next("echo")]);
    drop(server.process);
    for id in [never, flood, channel] {
        let end = driver.seen(id);
        assert!(matches!(end, Seen::Error(-1, _)), "{end:?}");
    }
    assert_eq!(driver.event(0)["ev"], "closed");
    let late = driver.request("rr", "echo:late");
    assert!(matches!(driver.seen(late), Seen::Error(-1, _)));
}

/// A server that takes one connection, says `bytes`, and listens until the
/// client leaves. Returns its URL.
fn rude_server(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _): (TcpStream, _) = listener.accept().unwrap();
        stream.write_all(bytes).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    url
}

// [C183, C190]
#[test]
fn a_refused_connection_is_a_connection_error_with_the_servers_code() {
    let directory = Directory::new();
    let mut driver = Driver::start(&directory);
    // ERROR[REJECTED_SETUP] "no" on stream 0.
    let url = rude_server(b"\0\0\x0c\0\0\0\0\x2c\0\0\0\0\x03no");
    driver.connect(json!({"url": url}));
    let wanted = json!({"id": 0, "ev": "conn_error", "code": 3, "message": "no"});
    assert_eq!(driver.event(0), wanted);
}

// [C105]
#[test]
fn a_silent_server_is_a_keepalive_timeout() {
    let directory = Directory::new();
    let mut driver = Driver::start(&directory);
    let url = rude_server(b"");
    driver.connect(json!({"url": url, "keepalive_ms": 20, "lifetime_ms": 100}));
    assert_eq!(driver.event(0)["ev"], "keepalive_timeout");
}

// [C034]
#[test]
fn a_server_that_speaks_no_rsocket_is_a_crash_of_the_connection() {
    let directory = Directory::new();
    let mut driver = Driver::start(&directory);
    let url = rude_server(b"\0\0\x06\0\0\0\0\x50\0");
    driver.connect(json!({"url": url}));
    assert_eq!(driver.event(0)["ev"], "crash");
}

#[test]
fn a_driver_says_what_it_can_do_and_survives_what_it_cannot() {
    let (mut driver, _server, _directory) = pair();
    let id = driver.op("caps", json!({}));
    let caps = driver.event(id);
    for (name, can) in [
        ("tcp", true),
        ("ws", true),
        ("channel_demand", true),
        ("lease", true),
        ("resume", true),
    ] {
        assert_eq!(caps[name], can, "{name}");
    }
    let error_of = |driver: &mut Driver, op: &str, fields: Value| {
        let id = driver.op(op, fields);
        match driver.seen(id) {
            Seen::Error(-1, message) => message,
            other => panic!("{op} came to {other:?}"),
        }
    };
    let message = error_of(&mut driver, "connect", json!({"url": "pigeon://coop"}));
    assert!(message.starts_with("not supported: "), "{message}");
    error_of(&mut driver, "connect", json!({"url": "tcp://nonsense"}));
    error_of(&mut driver, "dance", json!({}));
    error_of(&mut driver, "rr", json!({"data": "not base64!"}));
    error_of(&mut driver, "stream", json!({"n": 0}));
    driver.send_line("neither is this JSON");
    assert_eq!(driver.event(0)["ev"], "error");

    // Told to requests that are not there.
    driver.tell(99, "cancel", json!({}));
    driver.tell(99, "send_complete", json!({}));
    // None of this cost the connection.
    driver.answers("echo:alive", &[next("echo:alive"), Seen::Complete]);

    driver.op("quit", json!({}));
    assert!(driver.process.0.wait().unwrap().success());
}

#[test]
fn a_driver_ends_with_its_input() {
    let mut child = interop()
        .arg("driver")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_server_refuses_what_it_cannot_do_with_status_2() {
    let output = output_of(&["server", "--tcp", "0", "--udp", "0"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("not supported: --udp"), "{said}");
    assert_eq!(output_of(&["server"]).status.code(), Some(2));
    assert_eq!(
        output_of(&["server", "--tcp", "0", "--mtu", "63"])
            .status
            .code(),
        Some(2)
    );
}

#[test]
fn a_server_wants_to_know_how_much_to_grant() {
    for lease in ["5", "5:", ":1500", "5:0", "a:b"] {
        let output = output_of(&["server", "--tcp", "0", "--lease", lease]);
        assert_eq!(output.status.code(), Some(2), "{lease}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("REQUESTS:TTL_MS"), "{said}");
    }
}

// [C186] [C201] [C207]
#[test]
fn requests_beyond_a_lease_wait_for_the_next() {
    let directory = Directory::new();
    let server = Server::start(&directory, &["--tcp", "0", "--lease", "2:300"], 1);
    let mut driver = Driver::start(&directory);
    driver.connect(json!({"url": server.url(), "lease": true}));
    let begin = Instant::now();
    let calls = [0, 1, 2, 3, 4].map(|n| driver.request("rr", &format!("echo:{n}")));
    for (n, id) in calls.into_iter().enumerate() {
        driver.ends(id, &[next(format!("echo:{n}")), Seen::Complete]);
    }
    // Two leases had to end, and leases end on time or later.
    assert!(begin.elapsed() >= Duration::from_millis(550));
}

// [C073] [A22]
#[test]
fn a_server_that_was_not_told_to_grant_refuses_leases() {
    let (mut driver, server, _directory) = pair();
    driver.connect(json!({"url": server.url(), "lease": true}));
    let event = loop {
        let event = driver.event(0);
        if event["ev"] != "closed" {
            break event;
        }
    };
    assert_eq!(event["ev"], "conn_error");
    assert_eq!(event["code"], 2);
}

#[test]
fn a_server_says_why_it_cannot_listen() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = output_of(&["server", "--tcp", &port]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&port) && said.contains("in use"), "{said}");
}

#[test]
fn a_session_goes_on_when_the_server_may_resume_it_and_its_link_is_cut() {
    let directory = Directory::new();
    let server = Server::start(&directory, &["--tcp", "0", "--resume", "20"], 1);
    let between = Between::new(server.url());
    let mut driver = Driver::start(&directory);
    driver.connect(json!({"url": between.url(), "resume": true, "token": "t-1"}));
    let id = driver.on_credit("stream", "range:20", 10);
    for n in 0..10 {
        assert_eq!(driver.seen(id), next(n.to_string()));
    }
    between.cut();
    driver.tell(id, "request_n", json!({"n": 10}));
    for n in 10..20 {
        assert_eq!(driver.seen(id), next(n.to_string()));
    }
    assert_eq!(driver.seen(id), Seen::Complete);
    assert_eq!(between.accepted(), 2);
}

#[test]
fn a_server_that_was_not_told_to_resume_refuses_it() {
    let directory = Directory::new();
    let server = Server::tcp(&directory);
    let mut driver = Driver::start(&directory);
    driver.connect(json!({"url": server.url(), "resume": true}));
    let event = driver.event(0);
    assert_eq!(
        (&event["ev"], &event["code"]),
        (&json!("conn_error"), &json!(3))
    );
}

/// A way to a server that can be cut.
struct Between {
    address: SocketAddr,
    links: Arc<Mutex<Vec<TcpStream>>>,
    accepted: Arc<AtomicUsize>,
}

impl Between {
    fn new(url: &str) -> Self {
        let server: SocketAddr = url.strip_prefix("tcp://").unwrap().parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let between = Self {
            address: listener.local_addr().unwrap(),
            links: Arc::default(),
            accepted: Arc::default(),
        };
        let (links, accepted) = (Arc::clone(&between.links), Arc::clone(&between.accepted));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                accepted.fetch_add(1, Ordering::SeqCst);
                let server = TcpStream::connect(server).unwrap();
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                links.lock().unwrap().extend([client, server]);
            }
        });
        between
    }

    fn url(&self) -> String {
        format!("tcp://{}", self.address)
    }

    fn cut(&self) {
        for link in self.links.lock().unwrap().drain(..) {
            let _ = link.shutdown(Shutdown::Both);
        }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}
