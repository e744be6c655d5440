//! A batch of quotes: as a message, and as a view.

use std::iter;

use prost::Message as _;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian::U64};

/// Where the quotes come from: the feed of an exchange, if this were real.
pub(crate) struct Feed {
    pub(crate) batch: u64,
    pub(crate) quotes: u64,
}

impl Feed {
    /// Instrument, price, quantity and time of each.
    fn quotes(&self) -> impl Iterator<Item = [u64; 4]> {
        let (batch, quotes) = (self.batch, self.quotes);
        (0..quotes).map(move |n| [n % 500, 10_000 + (n ^ batch) % 256, 1 + n % 90, batch + n])
    }

    /// What the server should find.
    pub(crate) fn value(&self) -> u64 {
        self.quotes()
            .map(|[_, price, quantity, _]| price * quantity)
            .sum()
    }
}

/// What a `.proto` would say, in Rust. Numbers of fixed length, which are the
/// fastest that there are.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct BatchMessage {
    #[prost(fixed64, tag = "1")]
    number: u64,
    #[prost(message, repeated, tag = "2")]
    quotes: Vec<QuoteMessage>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct QuoteMessage {
    #[prost(fixed64, tag = "1")]
    instrument: u64,
    #[prost(fixed64, tag = "2")]
    price: u64,
    #[prost(fixed64, tag = "3")]
    quantity: u64,
    #[prost(fixed64, tag = "4")]
    time: u64,
}

impl BatchMessage {
    pub(crate) fn new(feed: &Feed) -> Self {
        let quotes = feed
            .quotes()
            .map(|[instrument, price, quantity, time]| QuoteMessage {
                instrument,
                price,
                quantity,
                time,
            });
        Self {
            number: feed.batch,
            quotes: quotes.collect(),
        }
    }

    /// What the quotes in these bytes are worth.
    pub(crate) fn value_of(bytes: &[u8]) -> Result<u64, prost::DecodeError> {
        let message = Self::decode(bytes)?;
        Ok(message
            .quotes
            .iter()
            .map(|quote| quote.price * quote.quantity)
            .sum())
    }
}

/// The same as bytes that need no decoding: `U64` says their order, and that
/// they may lie at any address.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct BatchView {
    number: U64,
    reserved: [U64; 3],
    quotes: [QuoteView],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct QuoteView {
    instrument: U64,
    price: U64,
    quantity: U64,
    time: U64,
}

impl BatchView {
    /// Bytes of a batch with so many quotes.
    pub(crate) fn len(quotes: u64) -> usize {
        let quotes = usize::try_from(quotes).expect("it is to be in memory");
        size_of::<[U64; 4]>() + quotes * size_of::<QuoteView>()
    }

    /// Writes a batch to where it will be read.
    ///
    /// # Panics
    ///
    /// When `bytes` is no batch's length.
    pub(crate) fn write(feed: &Feed, bytes: &mut [u8]) {
        let batch = Self::mut_from_bytes(bytes).expect("the length of a batch");
        batch.number = feed.batch.into();
        batch.reserved = Default::default();
        for (view, [instrument, price, quantity, time]) in
            iter::zip(&mut batch.quotes, feed.quotes())
        {
            *view = QuoteView {
                instrument: instrument.into(),
                price: price.into(),
                quantity: quantity.into(),
                time: time.into(),
            };
        }
    }

    /// What the quotes in these bytes are worth; `None` if they are no batch.
    pub(crate) fn value_of(bytes: &[u8]) -> Option<u64> {
        let batch = Self::ref_from_bytes(bytes).ok()?;
        let values = batch
            .quotes
            .iter()
            .map(|quote| quote.price.get() * quote.quantity.get());
        Some(values.sum())
    }
}
