//! Requests between two tasks of one thread: what a request costs in CPU time
//! and in allocations when no kernel is in between.
//!
//! `bench` takes the time and `bench-allocs` counts the allocations, each in a
//! process of its own, over the same code.

use std::process;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::load::{Ask, Caller};
use crate::plan::{Load, Stack, Work};

/// Requests before anything is measured: pools and tables have then grown.
const WARM_UP: u64 = 20_000;

/// Requests that are measured at the least.
pub const REQUESTS: u64 = 400_000;

/// After this time a run is hung; it takes about half a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `work` in this thread: calls `probe` once warm and once after at least
/// [`REQUESTS`] more requests. Yields the two values and the number of requests.
///
/// For a process that does nothing else: it is ended when the work hangs.
///
/// # Errors
///
/// When a request fails, or the work is none of this module.
pub fn between<P>(work: Work, mut probe: impl FnMut() -> Result<P>) -> Result<(P, P, u64)> {
    let Load::InProcess { in_flight, bytes } = work.load else {
        bail!("not within one process: {:?}", work.load);
    };
    // Outside the runtime: whatever hangs may hang the runtime's timers too.
    thread::spawn(|| {
        thread::sleep(PATIENCE);
        eprintln!("no end within {PATIENCE:?}: hung");
        process::exit(1);
    });
    let body = Bytes::from(vec![b'q'; bytes]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match work.stack {
        Stack::Actor => {
            let caller = {
                let _entered = runtime.enter();
                Actor::spawn(in_flight)
            };
            measure(&runtime, &caller, &body, in_flight, &mut probe)
        }
        #[cfg(feature = "ours")]
        Stack::Ours => {
            let caller = runtime.block_on(crate::ours::in_memory())?;
            measure(&runtime, &caller, &body, in_flight, &mut probe)
        }
        other => bail!("{other} does not run within one process"),
    }
}

fn measure<C: Caller, P>(
    runtime: &tokio::runtime::Runtime,
    caller: &C,
    body: &Bytes,
    in_flight: usize,
    probe: &mut dyn FnMut() -> Result<P>,
) -> Result<(P, P, u64)> {
    runtime.block_on(each(caller, body, in_flight, WARM_UP))?;
    let before = probe()?;
    let requests = runtime.block_on(each(caller, body, in_flight, REQUESTS))?;
    let after = probe()?;
    Ok((before, after, requests))
}

/// At least `requests` requests, by `in_flight` tasks one after the other.
/// Yields how many there were.
async fn each<C: Caller>(caller: &C, body: &Bytes, in_flight: usize, requests: u64) -> Result<u64> {
    let share = requests.div_ceil(in_flight as u64);
    let tasks: Vec<_> = (0..in_flight)
        .map(|_| {
            let (caller, body) = (caller.clone(), body.clone());
            tokio::spawn(async move {
                for _ in 0..share {
                    let answer = caller.call(body.clone()).await?;
                    ensure!(answer == body.len(), "{answer} bytes came back");
                }
                Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(share * in_flight as u64)
}

/// A task that answers what comes through a channel: no protocol at all.
#[derive(Clone, Debug)]
struct Actor(mpsc::Sender<(Bytes, oneshot::Sender<Bytes>)>);

impl Actor {
    fn spawn(in_flight: usize) -> Self {
        let (requests, mut inbox) = mpsc::channel::<(Bytes, oneshot::Sender<Bytes>)>(in_flight);
        tokio::spawn(async move {
            while let Some((request, answer)) = inbox.recv().await {
                // Whoever no longer waits needs no answer.
                let _sent = answer.send(request);
            }
        });
        Self(requests)
    }
}

impl Caller for Actor {
    async fn call(&self, request: Bytes) -> Result<usize> {
        let (answer, answered) = oneshot::channel();
        self.0
            .send((request, answer))
            .await
            .ok()
            .context("the actor ended")?;
        Ok(answered.await?.len())
    }

    async fn stream(&self, _: Ask, _: impl FnMut(usize) + Send) -> Result<()> {
        bail!("the actor only echoes")
    }
}
