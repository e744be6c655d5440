//! A link from what the rendezvous brought.

use std::sync::Arc;

use rsocket_core::transport::{Link, LinkInfo};

use crate::{
    bell::Bell,
    mem::MappedPeer,
    options::ShmOptions,
    rendezvous::Met,
    ring::{Consumer, Producer},
    rx::Rx,
    spin::Spinner,
    tx::Tx,
};

pub(crate) fn link(met: Met, options: &ShmOptions) -> Link {
    let mut info = LinkInfo::new(met.scheme);
    info.peer_process = Some(met.peer_process);
    let spinner = Spinner::new(options.spin);
    // The descriptor of this side's region is closed here: the mappings stay.
    let words = met.own.words;
    let producer = Producer::new(
        words.clone(),
        met.own.data,
        met.peer.clone(),
        &met.own_geometry,
    );
    let bell = Arc::new(Bell::new(met.line));
    let consumer = if options.trusts_peer {
        // Whoever holds a payload does not hold the link.
        let weak = Arc::downgrade(&bell);
        let ring = move || {
            if let Some(bell) = weak.upgrade() {
                bell.ring();
            }
        };
        Consumer::new(words, trusted(met.peer), &met.peer_geometry).lending(Arc::new(ring))
    } else {
        Consumer::new(words, met.peer, &met.peer_geometry)
    };
    let tx = Tx::new(producer, Arc::clone(&bell));
    let rx = Rx::new(consumer, bell, spinner);
    Link::new(tx, rx, info)
}

#[expect(unsafe_code, reason = "the user vouched for the peer")]
fn trusted(peer: MappedPeer) -> MappedPeer {
    // SAFETY: options that trust the peer are made by `ShmOptions::trust_peer`
    // only, whose caller promised what is asked for here.
    unsafe { peer.trusted() }
}
