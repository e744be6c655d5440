//! iceoryx2, as its examples use it, both sides polling.
//!
//! Both ways of exchanging: its request-response, and two services of
//! publish-subscribe played against each other, which is quicker. Every message
//! is written once by its sender into memory on loan, and read where it lies.

use std::hint;
use std::process;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use iceoryx2::port::{publisher::Publisher, subscriber::Subscriber};
use iceoryx2::prelude::*;

use crate::child::Announce;
use crate::load::{Counter, Meter, SAMPLED};
use crate::plan::Load;

/// Its own errors are not `Send` everywhere.
fn told<T, E: std::fmt::Debug>(result: Result<T, E>) -> Result<T> {
    result.map_err(|error| anyhow!("{error:?}"))
}

fn quiet_node() -> Result<Node<ipc::Service>> {
    set_log_level(LogLevel::Fatal);
    told(NodeBuilder::new().create::<ipc::Service>())
}

fn name() -> String {
    format!("rsocket-bench-{}", process::id())
}

/// Echoes requests.
///
/// # Errors
///
/// What iceoryx2 reports.
pub fn serve(load: Load, announce: Announce) -> Result<()> {
    let node = quiet_node()?;
    let name = name();
    let service = told(
        node.service_builder(&told(name.as_str().try_into())?)
            .request_response::<[u8], [u8]>()
            .max_active_requests_per_client(active(load)?)
            .max_loaned_requests(2)
            .max_servers(1)
            .max_clients(1)
            .open_or_create(),
    )?;
    let server = told(
        service
            .server_builder()
            .initial_max_slice_len(load.bytes())
            .create(),
    )?;
    announce(&name);
    loop {
        let Some(request) = told(server.receive())? else {
            hint::spin_loop();
            continue;
        };
        let response = told(request.loan_slice_uninit(request.payload().len()))?;
        told(response.write_from_slice(request.payload()).send())?;
    }
}

/// Requests are active until the server has let go of them too.
fn active(load: Load) -> Result<usize> {
    Ok(2 * in_flight(load)? + 2)
}

fn in_flight(load: Load) -> Result<usize> {
    match load {
        Load::Tasks { in_flight, .. }
        | Load::Window { in_flight, .. }
        | Load::InOrder { in_flight, .. } => Ok(in_flight),
        Load::Stream { .. } | Load::Bulk { .. } | Load::InProcess { .. } => {
            bail!("no {load:?} for iceoryx2's request-response")
        }
    }
}

/// Asks, until something fails.
///
/// # Errors
///
/// What iceoryx2 reports.
pub fn drive(name: &str, load: Load, meter: Arc<Meter>) -> Result<()> {
    let node = quiet_node()?;
    let in_flight = in_flight(load)?;
    let service = told(
        node.service_builder(&told(name.try_into())?)
            .request_response::<[u8], [u8]>()
            .max_active_requests_per_client(active(load)?)
            .open(),
    )?;
    let body = vec![b'q'; load.bytes()];
    let client = told(
        service
            .client_builder()
            .initial_max_slice_len(body.len())
            .create(),
    )?;
    let sampled = if in_flight == 1 { 1 } else { SAMPLED };
    let mut counter = Counter::new(meter, 0);
    let mut sent = 0_u64;
    let mut call = || {
        sent += 1;
        let from = sent.is_multiple_of(sampled).then(Instant::now);
        let request = told(client.loan_slice_uninit(body.len()))?;
        let pending = told(request.write_from_slice(&body).send())?;
        Ok::<_, anyhow::Error>((pending, from))
    };
    let mut calls = Vec::new();
    for _ in 0..in_flight {
        calls.push(Some(call()?));
    }
    loop {
        for place in &mut calls {
            let (pending, from) = place.take().context("each place is in use")?;
            let length = loop {
                if let Some(response) = told(pending.receive())? {
                    break response.payload().len();
                }
                hint::spin_loop();
            };
            ensure!(length == body.len(), "got {length} bytes back");
            if let Some(from) = from {
                counter.time(from.elapsed(), 1);
            }
            counter.add(1, length as u64);
            // Before the next: it counts among those in flight.
            drop(pending);
            *place = Some(call()?);
        }
    }
}

type Half<T> = (Publisher<ipc::Service, [u8], ()>, T);

fn halves(
    name: &str,
    server: bool,
    bytes: usize,
) -> Result<Half<Subscriber<ipc::Service, [u8], ()>>> {
    let node = quiet_node()?;
    let [mine, theirs] = if server {
        ["answers", "requests"]
    } else {
        ["requests", "answers"]
    };
    let service = |way: &str| {
        told(
            node.service_builder(&told(format!("{name}/{way}").as_str().try_into())?)
                .publish_subscribe::<[u8]>()
                .enable_safe_overflow(false)
                .subscriber_max_buffer_size(512)
                .open_or_create(),
        )
    };
    let publisher = told(
        service(mine)?
            .publisher_builder()
            .initial_max_slice_len(bytes)
            .create(),
    )?;
    let subscriber = told(service(theirs)?.subscriber_builder().create())?;
    Ok((publisher, subscriber))
}

fn publish(publisher: &Publisher<ipc::Service, [u8], ()>, message: &[u8]) -> Result<()> {
    let sample = told(publisher.loan_slice_uninit(message.len()))?;
    told(sample.write_from_slice(message).send())?;
    Ok(())
}

/// Publishes what it gets, or without end if `load` is a stream.
///
/// # Errors
///
/// What iceoryx2 reports.
pub fn serve_published(load: Load, announce: Announce) -> Result<()> {
    let name = name();
    let (publisher, subscriber) = halves(&name, true, load.bytes())?;
    announce(&name);
    if matches!(load, Load::Stream { .. }) {
        let message = vec![b'x'; load.bytes()];
        // The first to be heard says that somebody listens.
        while told(subscriber.receive())?.is_none() {
            hint::spin_loop();
        }
        loop {
            publish(&publisher, &message)?;
        }
    }
    loop {
        match told(subscriber.receive())? {
            Some(sample) => publish(&publisher, sample.payload())?,
            None => hint::spin_loop(),
        }
    }
}

/// Publishes and waits for what comes back, until something fails.
///
/// # Errors
///
/// What iceoryx2 reports.
pub fn drive_published(name: &str, load: Load, meter: Arc<Meter>) -> Result<()> {
    let body = vec![b'q'; load.bytes()];
    let (publisher, subscriber) = halves(name, false, body.len())?;
    let mut counter = Counter::new(meter, 0);
    let take = || loop {
        if let Some(sample) = told(subscriber.receive())? {
            return Ok::<_, anyhow::Error>(sample.payload().len());
        }
        hint::spin_loop();
    };
    match load {
        Load::Tasks { in_flight: 1, .. } => loop {
            let sent = Instant::now();
            publish(&publisher, &body)?;
            let length = take()?;
            counter.time(sent.elapsed(), 1);
            ensure!(length == body.len(), "got {length} bytes back");
            counter.add(1, length as u64);
        },
        Load::Stream { .. } => {
            publish(&publisher, &body)?;
            loop {
                let length = take()?;
                counter.add(1, length as u64);
            }
        }
        _ => None.with_context(|| format!("no {load:?} for iceoryx2's publish-subscribe")),
    }
}
