//! Which id the next stream gets.
//!
//! Spec: "Stream Identifiers" \[C042-C051].

use crate::frame::StreamId;

/// Hands out this side's stream ids: odd for a client, even for a server, in
/// steps of two, and from the start again after 2^31-1.
#[derive(Debug)]
pub struct StreamIds {
    next: u32,
    first: u32,
}

impl StreamIds {
    /// 1, 3, 5, ... \[C042]
    pub const fn client() -> Self {
        Self { next: 1, first: 1 }
    }

    /// 2, 4, 6, ... \[C043]
    pub const fn server() -> Self {
        Self { next: 2, first: 2 }
    }

    /// The next id that is not `in_use`; `None` when `live` streams hold all
    /// \[C049, C051].
    pub fn next(&mut self, mut in_use: impl FnMut(StreamId) -> bool) -> Option<StreamId> {
        // Live streams are few (their number is limited), so a free id turns up
        // soon; the bound only guards against a caller whose `in_use` lies.
        for _ in 0..=StreamId::MAX.get() / 2 {
            let id = StreamId::new(self.next)?;
            self.next = match self.next + 2 {
                next if next <= StreamId::MAX.get() => next,
                _ => self.first,
            };
            if !in_use(id) {
                return Some(id);
            }
        }
        None
    }

    /// Which id is next, unless it is in use.
    pub(super) fn peek(&self) -> u32 {
        self.next
    }

    pub(super) fn skip_to(&mut self, next: u32) {
        self.next = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(ids: &mut StreamIds, n: usize) -> Vec<u32> {
        (0..n).map(|_| ids.next(|_| false).unwrap().get()).collect()
    }

    // [C042, C043, C044]
    #[test]
    fn clients_count_odd_and_servers_even() {
        assert_eq!(take(&mut StreamIds::client(), 3), [1, 3, 5]);
        assert_eq!(take(&mut StreamIds::server(), 3), [2, 4, 6]);
    }

    // [C046, C047, C048]
    #[test]
    fn ids_start_again_after_the_last() {
        let mut client = StreamIds::client();
        client.skip_to(StreamId::MAX.get());
        assert_eq!(take(&mut client, 2), [StreamId::MAX.get(), 1]);
        let mut server = StreamIds::server();
        server.skip_to(StreamId::MAX.get() - 1);
        assert_eq!(take(&mut server, 2), [StreamId::MAX.get() - 1, 2]);
    }

    // [C049]
    #[test]
    fn ids_in_use_are_skipped() {
        let mut ids = StreamIds::client();
        let next = ids.next(|id| id.get() < 7).unwrap();
        assert_eq!(next.get(), 7);
    }
}
