//! What a request costs through the whole library, over shared memory, Unix
//! sockets and TCP, in one run: `cargo bench -p rsocket-transport-shm --bench
//! latency`.
//!
//! One server process for each transport, and one client. They have short turns,
//! one after the other, in which all other servers are stopped, so that what
//! else the machine does hits them alike.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a bench that fails has nobody to report to"
)]

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rsocket_core::{Handlers, Payload, Requester, transport::Transports};
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::{Builder, Runtime};

const SERVE: &str = "RSOCKET_BENCH_SERVE";

const TURNS: usize = 40;
const TURN: Duration = Duration::from_millis(20);
/// Between two requests, so that both sides fall asleep.
const REST: Duration = Duration::from_millis(1);
const IN_FLIGHT: usize = 64;

fn main() {
    if let Ok(url) = std::env::var(SERVE) {
        serve(&url);
        return;
    }
    let name = |spin| {
        format!(
            "shm:@rsocket-bench-{}-{spin}?spin={spin}",
            std::process::id()
        )
    };
    // Where there is one, in memory.
    let memory = PathBuf::from("/dev/shm");
    let memory = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    let directory = |spin| {
        let path = memory.join(format!("rsocket-bench-{}-{spin}", std::process::id()));
        format!("shm+dir:{}?spin={spin}", path.display())
    };
    let socket = std::env::temp_dir().join(format!("rsocket-bench-{}", std::process::id()));
    let urls = [
        ("tcp", "tcp://127.0.0.1:0".to_owned()),
        ("unix", format!("unix:{}", socket.display())),
        ("shm, sleep", name("sleep")),
        ("shm, adaptive", name("adaptive")),
        ("shm, poll", name("poll")),
        ("dir, sleep", directory("sleep")),
        ("dir, adaptive", directory("adaptive")),
    ];
    let mut sides: Vec<_> = urls
        .iter()
        .map(|(label, url)| Side::new(label, url))
        .collect();
    println!("32 B request-response, {TURNS} turns of {TURN:?} each");
    println!(
        "{:14} {:>18} {:>18} {:>18}   {:>24}",
        "", "asleep p10/p50", "awake p10/p50", "64 in flight", "to tcp (p50, p50, best)"
    );
    println!(
        "{:14} {:>18} {:>18} {:>18}",
        "", "us", "us", "M/s median/best"
    );
    for _ in 0..TURNS {
        for side in &mut sides {
            side.turn();
        }
    }
    let _ = std::fs::remove_file(socket);
    for spin in ["sleep", "adaptive"] {
        let url = directory(spin);
        let path = url.trim_start_matches("shm+dir:").split('?').next();
        let _ = std::fs::remove_dir_all(path.unwrap());
    }
    let rows: Vec<_> = sides.iter_mut().map(Side::figures).collect();
    for (side, row) in sides.iter().zip(&rows) {
        let [asleep, awake, rate] = row;
        let tcp = &rows[0];
        println!(
            "{:14} {:>9.1} {:>8.1} {:>9.2} {:>8.2} {:>9.3} {:>8.3}   {:>7.2} {:>7.2} {:>7.2}",
            side.label,
            asleep[0],
            asleep[1],
            awake[0],
            awake[1],
            rate[0],
            rate[1],
            asleep[1] / tcp[0][1],
            awake[1] / tcp[1][1],
            rate[1] / tcp[2][1],
        );
    }
}

fn transports() -> Transports {
    let mut transports = Transports::new();
    rsocket_transport_tcp::register(&mut transports);
    rsocket_transport_shm::register(&mut transports);
    transports
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn serve(url: &str) {
    runtime().block_on(async {
        let listener = transports().listener(url).await.unwrap();
        println!("{}", listener.url());
        let served = rsocket_core::serve(listener, |_, _| async {
            Ok(Handlers::new().on_request_response(|request| async { Ok(request) }))
        });
        served.await.unwrap();
    });
}

/// A server, its client, and what was measured.
struct Side {
    label: &'static str,
    server: Child,
    runtime: Runtime,
    client: Requester,
    asleep: Vec<f64>,
    awake: Vec<f64>,
    rates: Vec<f64>,
}

impl Side {
    fn new(label: &'static str, url: &str) -> Self {
        let mut server = Command::new(std::env::current_exe().unwrap())
            .env(SERVE, url)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut served = String::new();
        let mut lines = BufReader::new(server.stdout.take().unwrap());
        lines.read_line(&mut served).unwrap();
        // The settings of a listener's URL are its own.
        let query = url.split_once('?').map(|(_, query)| format!("?{query}"));
        let url = format!("{}{}", served.trim_end(), query.unwrap_or_default());
        let runtime = runtime();
        let connector = transports().connector(&url).unwrap();
        let client = runtime.block_on(rsocket_core::connect(connector)).unwrap();
        let side = Self {
            label,
            server,
            runtime,
            client,
            asleep: Vec::new(),
            awake: Vec::new(),
            rates: Vec::new(),
        };
        side.signal(Signal::STOP);
        side
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.server), signal).unwrap();
    }

    fn turn(&mut self) {
        self.signal(Signal::CONT);
        let request = || Payload::new(vec![7; 32]);
        let client = self.client.clone();
        // A task, as requests of servers are: the future that `block_on` is given
        // has its turn only after 61 of others, spinning ones included.
        let measured = self.runtime.spawn(async move {
            let ask = async || {
                let begin = Instant::now();
                client.request_response(request()).await.unwrap();
                begin.elapsed().as_secs_f64() * 1e6
            };
            // What adapts has to find its feet again.
            let begin = Instant::now();
            while begin.elapsed() < TURN / 4 {
                ask().await;
            }
            let mut awake = Vec::new();
            let begin = Instant::now();
            while begin.elapsed() < TURN {
                awake.push(ask().await);
            }
            let tasks: Vec<_> = (0..IN_FLIGHT)
                .map(|_| {
                    let client = client.clone();
                    tokio::spawn(async move {
                        let begin = Instant::now();
                        let mut count = 0;
                        while begin.elapsed() < TURN {
                            client.request_response(request()).await.unwrap();
                            count += 1;
                        }
                        count
                    })
                })
                .collect();
            let begin = Instant::now();
            let mut count = 0;
            for task in tasks {
                count += task.await.unwrap();
            }
            let rate = f64::from(count) / begin.elapsed().as_secs_f64() / 1e6;
            let mut asleep = Vec::new();
            for _ in 0..10 {
                tokio::time::sleep(REST).await;
                asleep.push(ask().await);
            }
            (asleep, awake, rate)
        });
        let (asleep, awake, rate) = self.runtime.block_on(measured).unwrap();
        self.asleep.extend(asleep);
        self.awake.extend(awake);
        self.rates.push(rate);
        self.signal(Signal::STOP);
    }

    fn figures(&mut self) -> [[f64; 2]; 3] {
        [
            [at(&mut self.asleep, 0.1), at(&mut self.asleep, 0.5)],
            [at(&mut self.awake, 0.1), at(&mut self.awake, 0.5)],
            [at(&mut self.rates, 0.5), at(&mut self.rates, 0.99)],
        ]
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn at(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(share * (values.len() - 1) as f64) as usize]
}
