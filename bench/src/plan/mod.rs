//! What is measured for which goal, and what each row must reach.

use std::collections::BTreeMap;
use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

mod memory;
mod shm;
mod tcp;
mod ws;

pub use tcp::IN_FLIGHT;

/// A goal that this program can judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[value(rename_all = "UPPER")]
pub enum Goal {
    /// The codec alone; measured by a bench of the core crate.
    P1,
    /// Both state machines over the in-memory transport, one thread.
    P2,
    /// Shared memory, 32 B, one request in flight, both sides awake.
    P3,
    /// Likewise, both sides asleep between messages.
    P4,
    /// Shared memory, 32 B, 64 requests in flight.
    P5,
    /// Shared memory, a stream of 1 KiB payloads.
    P6,
    /// Shared memory, large request-response.
    P7,
    /// TCP, 32 B, one request in flight.
    P8,
    /// TCP, 32 B, 16, 64 and 256 requests in flight.
    P9,
    /// TCP, a stream of 1 KiB payloads.
    P10,
    /// TCP, 64 KiB and 1 MiB request-response.
    P11,
    /// WebSocket beside our TCP.
    P12,
}

impl Goal {
    /// All of them, in the order in which they are measured.
    pub const ALL: [Self; 12] = [
        Self::P1,
        Self::P2,
        Self::P3,
        Self::P4,
        Self::P5,
        Self::P6,
        Self::P7,
        Self::P8,
        Self::P9,
        Self::P10,
        Self::P11,
        Self::P12,
    ];

    /// What is measured, in a few words.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::P1 => "codec",
            Self::P2 => "request-response in memory, one thread",
            Self::P3 => "shared memory, one in flight, awake",
            Self::P4 => "shared memory, 32 B, one in flight, asleep",
            Self::P5 => "shared memory, 32 B, 64 in flight",
            Self::P6 => "shared memory, stream of 1 KiB payloads, server to client",
            Self::P7 => "shared memory, large request-response",
            Self::P8 => "TCP, 32 B, one in flight",
            Self::P9 => "TCP, 32 B, pipelined on one connection",
            Self::P10 => "TCP, stream of 1 KiB payloads, server to client",
            Self::P11 => "TCP, large request-response",
            Self::P12 => "WebSocket beside our TCP",
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Who carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stack {
    /// Bare tokio TCP: the limit of what goes over it.
    Tcp,
    /// A task that answers over channels: what a request costs in one thread
    /// without any protocol.
    Actor,
    /// A bare ring in shared memory that both sides poll: the limit there.
    Ring,
    /// Two event descriptors rung in turn: the limit for sides that sleep.
    Eventfd,
    /// Likewise, by tasks that tokio wakes.
    EventfdAwaited,
    /// This library, over TCP.
    Ours,
    /// This library, over WebSocket.
    OursWs,
    /// This library, over shared memory.
    OursShm,
    /// Likewise, and each side trusts the other: large payloads are read where
    /// they lie.
    OursShmTrusted,
    /// Likewise, and never asleep, as iceoryx2 here.
    OursShmPolling,
    /// This library, over shared memory, asleep whenever there is nothing to do.
    OursShmAsleep,
    /// iceoryx2 0.10, request-response.
    Iceoryx,
    /// iceoryx2 0.10, publish-subscribe both ways.
    IceoryxPublished,
    /// `rsocket_rust` 0.7.
    RsocketRust,
    /// `tonic` 0.14 (gRPC).
    Tonic,
}

impl Stack {
    /// Whether this build contains it.
    #[must_use]
    pub const fn is_built(self) -> bool {
        match self {
            Self::Tcp | Self::Actor | Self::Ring | Self::Eventfd | Self::EventfdAwaited => true,
            Self::Ours
            | Self::OursWs
            | Self::OursShm
            | Self::OursShmTrusted
            | Self::OursShmPolling
            | Self::OursShmAsleep => cfg!(feature = "ours"),
            Self::Iceoryx | Self::IceoryxPublished | Self::RsocketRust | Self::Tonic => {
                cfg!(feature = "peers")
            }
        }
    }

    /// Whether it is a baseline: no library, but what one could reach at most.
    #[must_use]
    pub const fn is_limit(self) -> bool {
        matches!(
            self,
            Self::Tcp | Self::Actor | Self::Ring | Self::Eventfd | Self::EventfdAwaited
        )
    }

    /// Whether it is this library.
    #[must_use]
    pub const fn is_ours(self) -> bool {
        !self.is_limit() && !self.is_peer()
    }

    /// Whether it is a library that somebody could use in place of ours.
    #[must_use]
    pub const fn is_peer(self) -> bool {
        matches!(
            self,
            Self::Iceoryx | Self::IceoryxPublished | Self::RsocketRust | Self::Tonic
        )
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tokio TCP",
            Self::Actor => "tokio channels",
            Self::Ring => "bare ring",
            Self::Eventfd => "eventfd",
            Self::EventfdAwaited => "eventfd, tokio",
            Self::Ours => "ours",
            Self::OursWs => "ours, WebSocket",
            Self::OursShm => "ours, shm",
            Self::OursShmTrusted => "ours, shm, trusted",
            Self::OursShmPolling => "ours, shm, trusted, polling",
            Self::OursShmAsleep => "ours, shm, sleeping",
            Self::Iceoryx => "iceoryx2",
            Self::IceoryxPublished => "iceoryx2, published",
            Self::RsocketRust => "rsocket_rust",
            Self::Tonic => "tonic",
        })
    }
}

/// How both processes run their tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runtime {
    /// tokio's multi-thread runtime with one worker.
    MultiThread,
    /// tokio's current-thread runtime.
    CurrentThread,
    /// Current-thread and a task that only yields, so that the runtime polls
    /// the kernel instead of sleeping in it. The event interval stays at its
    /// default: at 1 there would be an `epoll_wait` for each poll of a task.
    BusyPolled,
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MultiThread => "multi-thread",
            Self::CurrentThread => "current-thread",
            Self::BusyPolled => "busy-polled",
        })
    }
}

/// What the client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Load {
    /// Echoes, from as many tasks as requests are in flight, on one connection.
    /// Bare TCP has no tasks to speak of: it writes back as many as it read.
    Tasks {
        /// Requests in flight.
        in_flight: usize,
        /// Payload of each, in bytes.
        bytes: usize,
    },
    /// Echoes, from one task that keeps that many in flight and takes each
    /// answer as it comes.
    Window {
        /// Requests in flight.
        in_flight: usize,
        /// Payload of each, in bytes.
        bytes: usize,
    },
    /// Likewise, but the task awaits the answers in the order of the requests.
    InOrder {
        /// Requests in flight.
        in_flight: usize,
        /// Payload of each, in bytes.
        bytes: usize,
    },
    /// Payloads from the server, streams back to back.
    Stream {
        /// Each payload, in bytes.
        bytes: usize,
        /// How many payloads our client asks ahead; `None` is its default.
        /// The peers know no such thing.
        prefetch: Option<u32>,
    },
    /// Bytes from the server, without any message in them.
    Bulk {
        /// What the server hands to each `write`, in bytes.
        write: usize,
    },
    /// Echoes between tasks of one thread, without a socket.
    InProcess {
        /// Requests in flight, each of a task of its own.
        in_flight: usize,
        /// Payload of each, in bytes.
        bytes: usize,
    },
}

impl Load {
    /// Payload of each message, in bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Tasks { bytes, .. }
            | Self::Window { bytes, .. }
            | Self::InOrder { bytes, .. }
            | Self::Stream { bytes, .. }
            | Self::InProcess { bytes, .. } => bytes,
            Self::Bulk { write } => write,
        }
    }
}

/// One thing to run: everything that server and client must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Who carries the bytes.
    pub stack: Stack,
    /// How both sides run.
    pub runtime: Runtime,
    /// What is asked for.
    pub load: Load,
    /// Whether both sides share the server's core.
    #[serde(default)]
    pub on_one_core: bool,
}

/// A figure that a window yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Median latency, in nanoseconds.
    P50,
    /// 99th percentile of the latency, in nanoseconds.
    P99,
    /// Requests, or payloads of a stream, a second.
    Rate,
    /// Payload bytes a second, one way.
    Bytes,
    /// CPU seconds of both processes for a million requests.
    Cpu,
    /// Resident memory of the server at the window's end, in bytes.
    Rss,
    /// CPU nanoseconds a request, both sides together.
    CpuNanos,
    /// Allocations a request, both sides together.
    Allocs,
}

impl Metric {
    /// Whether more is better.
    #[must_use]
    pub const fn rises(self) -> bool {
        matches!(self, Self::Rate | Self::Bytes)
    }

    /// A short name for table heads.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::Rate => "rate",
            Self::Bytes => "bytes/s",
            Self::Cpu => "CPU s/M",
            Self::Rss => "server RSS",
            Self::CpuNanos => "CPU ns",
            Self::Allocs => "allocations",
        }
    }
}

/// What one window yields. Not every load yields every figure.
pub type Figures = BTreeMap<Metric, f64>;

/// What a figure is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reference {
    /// The best of the baselines.
    Limit,
    /// The best row of one peer, or of ours over TCP.
    Peer(Stack),
    /// The best row of any peer.
    BestPeer,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit => f.write_str("baseline"),
            Self::Peer(stack) => write!(f, "{stack}"),
            Self::BestPeer => f.write_str("best peer"),
        }
    }
}

/// Which way a rule bounds its figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// The figure, or the ratio, has to reach this.
    AtLeast(f64),
    /// The figure, or the ratio, may not pass this.
    AtMost(f64),
}

impl Bound {
    /// Whether `value` keeps to it.
    #[must_use]
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

/// What a row must reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// The figure that is judged.
    pub metric: Metric,
    /// With what it is compared; `None` judges the figure itself.
    pub reference: Option<Reference>,
    /// What it may be.
    pub bound: Bound,
}

impl Rule {
    const fn ratio(metric: Metric, reference: Reference, bound: Bound) -> Self {
        Self {
            metric,
            reference: Some(reference),
            bound,
        }
    }

    const fn figure(metric: Metric, bound: Bound) -> Self {
        Self {
            metric,
            reference: None,
            bound,
        }
    }
}

/// One line of a table.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name in the table.
    pub label: String,
    /// What is run for it.
    pub work: Work,
    /// What it must reach; empty for baselines and peers.
    pub rules: Vec<Rule>,
}

/// Rows that are measured in turn, so that they can be compared.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The goal it belongs to.
    pub goal: Goal,
    /// What sets it apart from the other scenarios of that goal.
    pub title: String,
    /// The ratios that the table shows for each row.
    pub ratios: Vec<(Metric, Reference)>,
    /// Limits first, then ours, so that each pair is measured back to back;
    /// then the peers.
    pub rows: Vec<Row>,
}

/// Payload of the small echoes, in bytes.
const SMALL: usize = 32;

/// The scenarios of `goals`, without what this build or the user leaves out.
#[must_use]
pub fn scenarios(goals: &[Goal], with_peers: bool) -> Vec<Scenario> {
    let mut all = Vec::new();
    if goals.contains(&Goal::P2) {
        all.extend(memory::p2());
    }
    if goals.contains(&Goal::P3) {
        all.extend(shm::p3());
    }
    if goals.contains(&Goal::P4) {
        all.extend(shm::p4());
    }
    if goals.contains(&Goal::P5) {
        all.extend(shm::p5());
    }
    if goals.contains(&Goal::P6) {
        all.extend(shm::p6());
    }
    if goals.contains(&Goal::P7) {
        all.extend(shm::p7());
    }
    if goals.contains(&Goal::P8) {
        all.extend(tcp::p8());
    }
    if goals.contains(&Goal::P9) {
        all.extend(tcp::p9());
    }
    if goals.contains(&Goal::P10) {
        all.extend(tcp::p10());
    }
    if goals.contains(&Goal::P11) {
        all.extend(tcp::p11());
    }
    if goals.contains(&Goal::P12) {
        all.extend(ws::p12());
    }
    for scenario in &mut all {
        scenario
            .rows
            .retain(|row| row.work.stack.is_built() && (with_peers || !row.work.stack.is_peer()));
    }
    all.retain(|scenario| !scenario.rows.is_empty());
    all
}

const RUNTIMES: [Runtime; 2] = [Runtime::MultiThread, Runtime::CurrentThread];

fn judged(rules: Vec<Rule>, row: Row) -> Row {
    Row { rules, ..row }
}

fn on_one_core(mut row: Row) -> Row {
    row.work.on_one_core = true;
    row
}

fn row(detail: &str, stack: Stack, runtime: Runtime, load: Load) -> Row {
    let label = if detail.is_empty() {
        stack.to_string()
    } else {
        format!("{stack}, {detail}")
    };
    Row {
        label,
        work: Work {
            stack,
            runtime,
            load,
            on_one_core: false,
        },
        rules: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_that_compares_has_a_row_to_compare_with() {
        for scenario in scenarios(&Goal::ALL, true) {
            let has = |wanted: &dyn Fn(Stack) -> bool| {
                scenario.rows.iter().any(|row| wanted(row.work.stack))
            };
            for rule in scenario.rows.iter().flat_map(|row| &row.rules) {
                let found = match rule.reference {
                    None => true,
                    Some(Reference::Limit) => has(&Stack::is_limit),
                    Some(Reference::Peer(peer)) => has(&|stack| stack == peer),
                    Some(Reference::BestPeer) => has(&Stack::is_peer),
                };
                assert!(found, "{} {}: {rule:?}", scenario.goal, scenario.title);
            }
        }
    }

    #[test]
    fn nothing_but_ours_is_judged() {
        for scenario in scenarios(&Goal::ALL, true) {
            for row in scenario.rows.iter().filter(|row| !row.work.stack.is_ours()) {
                assert!(row.rules.is_empty(), "{}: {}", scenario.title, row.label);
            }
        }
    }

    #[test]
    fn without_peers_no_peer_is_run() {
        let scenarios = scenarios(&Goal::ALL, false);

        assert!(!scenarios.is_empty());
        assert!(
            scenarios
                .iter()
                .flat_map(|s| &s.rows)
                .all(|row| !row.work.stack.is_peer())
        );
    }
}
