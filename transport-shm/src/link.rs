//! A link from what the rendezvous brought.

use std::sync::{Arc, LazyLock};

use rsocket_core::transport::{Limits, Link, LinkInfo};

use crate::{
    bell::Bell,
    options::ShmOptions,
    rendezvous::Met,
    ring::{Consumer, Producer},
    rx::Rx,
    spin::Spinner,
    tx::Tx,
};

/// Processors that this process may use, quotas included. Looked up once, since
/// that means reading some files.
static CORES: LazyLock<usize> =
    LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));

pub(crate) fn link(met: Met, options: &ShmOptions) -> Link {
    let mut info = LinkInfo::new("shm");
    info.peer_process = Some(met.peer_process);
    let limits = Limits {
        max_frame_len: met.own_geometry.max_frame_len(),
    };
    let spinner = Spinner::new(options.spin, *CORES);
    // The descriptor of this side's region is closed here: the mappings stay.
    let words = met.own.words;
    let producer = Producer::new(
        words.clone(),
        met.own.data,
        met.peer.clone(),
        &met.own_geometry,
    );
    let consumer = Consumer::new(words, met.peer, &met.peer_geometry);
    let bell = Arc::new(Bell::new(met.stream));
    let tx = Tx::new(producer, Arc::clone(&bell));
    let rx = Rx::new(consumer, bell, spinner);
    Link::new(tx, rx, info).with_limits(limits)
}
