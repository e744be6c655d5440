//! Frames back into a payload.

use bytes::BytesMut;

use crate::{Payload, error::Misbehavior, frame::PayloadRef, proto::Limits};

/// The fragments of one payload that have arrived.
#[derive(Debug, Default)]
pub(crate) struct Join {
    metadata: Option<BytesMut>,
    data: BytesMut,
    /// Fragments so far.
    count: usize,
}

impl Join {
    /// Bytes held.
    pub(crate) fn len(&self) -> usize {
        self.data.len() + self.metadata.as_ref().map_or(0, BytesMut::len)
    }

    /// How much metadata and data has arrived; no metadata is not the same as
    /// metadata without bytes.
    pub(crate) fn lens(&self) -> (Option<usize>, usize) {
        (self.metadata.as_ref().map(BytesMut::len), self.data.len())
    }

    /// What arrived after those lengths were right.
    pub(crate) fn since(&self, metadata: usize, data: usize) -> (Option<&[u8]>, &[u8]) {
        let rest = |bytes: &'_ BytesMut, from| -> std::ops::Range<usize> { from..bytes.len() };
        let metadata = self
            .metadata
            .as_ref()
            .map(|bytes| bytes.get(rest(bytes, metadata)).unwrap_or_default());
        let data = self.data.get(rest(&self.data, data)).unwrap_or_default();
        (metadata, data)
    }

    /// Adds a fragment.
    ///
    /// # Errors
    ///
    /// When the payload would be longer than `max_payload_len` bytes, or in more
    /// than `max_fragments`, or the fragment is empty although others follow it:
    /// a peer could send those for ever.
    pub(crate) fn push(
        &mut self,
        fragment: PayloadRef<'_>,
        follows: bool,
        limits: &Limits,
    ) -> Result<(), Misbehavior> {
        let limit = limits.max_payload_len;
        let added = fragment.content_len();
        if added == 0 && follows && self.count > 0 {
            return Err(Misbehavior::EmptyFragment);
        }
        if added > limit.saturating_sub(self.len()) {
            return Err(Misbehavior::PayloadTooLong { limit });
        }
        if self.count >= limits.max_fragments {
            let limit = limits.max_fragments;
            return Err(Misbehavior::TooManyFragments { limit });
        }
        self.count += 1;
        if let Some(metadata) = fragment.metadata {
            self.metadata
                .get_or_insert_with(BytesMut::new)
                .extend_from_slice(metadata);
        }
        self.data.extend_from_slice(fragment.data);
        Ok(())
    }

    /// The payload, once its last fragment is in.
    pub(crate) fn finish(self) -> Payload {
        let payload = Payload::new(self.data.freeze());
        match self.metadata {
            Some(metadata) => payload.with_metadata(metadata.freeze()),
            None => payload,
        }
    }
}
