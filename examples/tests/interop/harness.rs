//! The program's two modes as processes that tests talk to.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use base64::prelude::{BASE64_STANDARD as BASE64, Engine as _};
use serde_json::{Value, json};

/// How long anything may take before the test counts as failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const APPLICATION_ERROR: u32 = 0x201;

pub(crate) fn interop() -> Command {
    Command::new(env!("CARGO_BIN_EXE_interop"))
}

/// Runs the program to its end.
pub(crate) fn output_of(args: &[&str]) -> Output {
    interop().args(args).output().unwrap()
}

/// Ends the process with the test.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An empty directory of this test's own. Sockets in it are named by relative
/// paths, since a long path fits no socket address.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
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

pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) urls: Vec<String>,
}

impl Server {
    pub(crate) fn start(directory: &Directory, args: &[&str], transports: usize) -> Self {
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

    pub(crate) fn tcp(directory: &Directory) -> Self {
        Self::start(directory, &["--tcp", "0"], 1)
    }

    pub(crate) fn url(&self) -> &str {
        &self.urls[0]
    }
}

pub(crate) struct Driver {
    pub(crate) process: Process,
    pub(crate) input: ChildStdin,
    pub(crate) output: mpsc::Receiver<Value>,
    /// Events of other requests than the one that was waited for.
    pub(crate) seen: VecDeque<Value>,
    pub(crate) next_id: u64,
}

/// What a request came to, but for the credit of a channel.
#[derive(Debug, PartialEq)]
pub(crate) enum Seen {
    Next(Vec<u8>, Option<Vec<u8>>),
    Complete,
    Error(i64, String),
    Cancelled,
}

pub(crate) fn next(data: impl AsRef<[u8]>) -> Seen {
    Seen::Next(data.as_ref().to_vec(), None)
}

pub(crate) fn failed(message: &str) -> Seen {
    Seen::Error(APPLICATION_ERROR.into(), message.to_owned())
}

pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

impl Driver {
    pub(crate) fn start(directory: &Directory) -> Self {
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
    pub(crate) fn connected(directory: &Directory, url: &str) -> Self {
        let mut driver = Self::start(directory);
        driver.connect(json!({"url": url}));
        driver
    }

    pub(crate) fn connect(&mut self, options: Value) {
        let id = self.op("connect", options);
        assert_eq!(self.event(id)["ev"], "ok");
    }

    pub(crate) fn send_line(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    pub(crate) fn tell(&mut self, id: u64, op: &str, mut fields: Value) {
        fields["id"] = id.into();
        fields["op"] = op.into();
        self.send_line(&fields.to_string());
    }

    pub(crate) fn op(&mut self, op: &str, fields: Value) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.tell(id, op, fields);
        id
    }

    pub(crate) fn request(&mut self, op: &str, data: &str) -> u64 {
        self.op(op, json!({"data": BASE64.encode(data)}))
    }

    pub(crate) fn on_credit(&mut self, op: &str, data: &str, n: u32) -> u64 {
        self.op(op, json!({"data": BASE64.encode(data), "n": n}))
    }

    pub(crate) fn send(&mut self, id: u64, data: &str) {
        self.tell(id, "send", json!({"data": BASE64.encode(data)}));
    }

    /// The next event of request `id`.
    pub(crate) fn event(&mut self, id: u64) -> Value {
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
    pub(crate) fn seen(&mut self, id: u64) -> Seen {
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
    pub(crate) fn is_silent(&mut self, id: u64) {
        self.answers("echo:silence?", &[next("echo:silence?"), Seen::Complete]);
        let mut seen = self.seen.iter();
        let more = seen.find(|event| event["id"] == id && event["ev"] != "demand");
        assert_eq!(more, None);
    }

    pub(crate) fn ends(&mut self, id: u64, wanted: &[Seen]) {
        for wanted in wanted {
            assert_eq!(self.seen(id), *wanted);
        }
    }

    /// A request-response that ends as `wanted`.
    pub(crate) fn answers(&mut self, data: &str, wanted: &[Seen]) {
        let id = self.request("rr", data);
        self.ends(id, wanted);
    }

    /// A request-stream, with all the credit there is, that ends as `wanted`.
    pub(crate) fn streams(&mut self, data: &str, wanted: &[Seen]) {
        let id = self.request("stream", data);
        self.ends(id, wanted);
    }

    pub(crate) fn items(&mut self, id: u64, numbers: std::ops::Range<u32>) {
        for n in numbers {
            assert_eq!(self.seen(id), next(n.to_string()));
        }
    }

    pub(crate) fn stats(&mut self) -> Stats {
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
    pub(crate) fn wait_for_stats(&mut self, wanted: impl Fn(&Stats) -> bool) {
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
pub(crate) struct Stats {
    pub(crate) fnf: u64,
    pub(crate) cancel: u64,
    pub(crate) push: u64,
    pub(crate) maxout: u64,
    pub(crate) active: u64,
}

/// A connected driver, its server and their directory.
pub(crate) fn pair() -> (Driver, Server, Directory) {
    let directory = Directory::new();
    let server = Server::tcp(&directory);
    let driver = Driver::connected(&directory, server.url());
    (driver, server, directory)
}

// [C230, C035, C080]
