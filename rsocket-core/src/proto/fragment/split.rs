//! A payload into frames.

use crate::Payload;

/// How much of a payload was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    metadata: usize,
    data: usize,
    started: bool,
}

/// What goes into one frame.
pub(crate) struct Fragment<'p> {
    pub(crate) metadata: Option<&'p [u8]>,
    pub(crate) data: &'p [u8],
    /// Whether more fragments follow.
    pub(crate) follows: bool,
}

impl Cursor {
    /// Bytes of the metadata length field.
    const METADATA_LENGTH: usize = 3;

    /// Whether some fragments were sent and others not yet.
    pub(crate) fn is_started(self) -> bool {
        self.started
    }

    /// The next fragment, for a frame of at most `max_len` bytes of which
    /// `fixed` come before the metadata; and the cursor behind it.
    ///
    /// Fragments are filled: metadata first, then data behind it \[C212, C218].
    #[inline]
    pub(crate) fn next(
        self,
        payload: &Payload,
        fixed: usize,
        max_len: usize,
    ) -> (Fragment<'_>, Self) {
        let (metadata, data) = (payload.metadata(), payload.data());
        let metadata_len = metadata.map_or(0, |metadata| Self::METADATA_LENGTH + metadata.len());
        if !self.started && fixed + metadata_len + data.len() <= max_len {
            let whole = Fragment {
                metadata,
                data,
                follows: false,
            };
            return (whole, self);
        }
        self.next_of_many(payload, fixed, max_len)
    }

    fn next_of_many(self, payload: &Payload, fixed: usize, max_len: usize) -> (Fragment<'_>, Self) {
        let mut room = max_len.saturating_sub(fixed);
        let mut next = Self {
            started: true,
            ..self
        };

        // Metadata that is present but empty still takes a fragment [C035].
        let metadata = match payload.metadata() {
            Some(metadata) if !self.started || self.metadata < metadata.len() => {
                room = room.saturating_sub(Self::METADATA_LENGTH);
                let part = window(metadata, self.metadata, room);
                next.metadata += part.len();
                room -= part.len();
                Some(part)
            }
            _ => None,
        };
        let metadata_left = payload.metadata().map_or(0, <[u8]>::len) - next.metadata;

        let data = match metadata_left {
            0 => window(payload.data(), self.data, room),
            _ => &[],
        };
        next.data += data.len();

        let fragment = Fragment {
            metadata,
            data,
            follows: metadata_left > 0 || next.data < payload.data().len(),
        };
        (fragment, next)
    }
}

/// At most `room` bytes of `bytes` from `start` on.
fn window(bytes: &[u8], start: usize, room: usize) -> &[u8] {
    let rest = bytes.get(start..).unwrap_or_default();
    rest.get(..room).unwrap_or(rest)
}
