//! The bytes in front of a WebSocket frame, and the mask over what follows them.
//!
//! Spec: RFC 6455, sections 5.2 and 5.3.

use super::{Fault, Role};

/// Bytes of the longest header: two, eight of length, four of mask.
pub(super) const LONGEST_HEADER: usize = 14;

/// The longest payload that a control frame may have.
pub(super) const LONGEST_CONTROL: usize = 125;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpCode {
    Continuation = 0x0,
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xA,
}

impl OpCode {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }

    pub(super) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A frame's header as it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) opcode: OpCode,
    pub(super) is_final: bool,
    pub(super) mask: Option<Mask>,
    /// Bytes of payload.
    pub(super) len: u64,
    /// Bytes of the header itself.
    pub(super) own_len: usize,
}

impl Header {
    /// Reads a header from the front of `bytes`, which came to `role`.
    ///
    /// `None` if more bytes are needed to say.
    #[inline]
    pub(super) fn parse(bytes: &[u8], role: Role) -> Result<Option<Self>, Fault> {
        let Some(([first, second], rest)) = bytes.split_first_chunk::<2>() else {
            return Ok(None);
        };
        if first & RESERVED != 0 {
            return Err(Fault::Protocol("reserved bits are set"));
        }
        let opcode = OpCode::from_bits(first & 0x0F).ok_or(Fault::Protocol("unknown opcode"))?;
        let is_final = first & FIN != 0;
        let is_masked = second & MASKED != 0;
        if is_masked != (role == Role::Server) {
            return Err(Fault::Protocol(match role {
                Role::Server => "a client's frame without a mask",
                Role::Client => "a server's frame with a mask",
            }));
        }
        let short = second & !MASKED;
        if opcode.is_control() && (short > 125 || !is_final) {
            return Err(Fault::Protocol("a control frame that is long or in parts"));
        }
        let (len, shortest, rest) = match short {
            126 => match rest.split_first_chunk::<2>() {
                Some((len, rest)) => (u64::from(u16::from_be_bytes(*len)), 126, rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk::<8>() {
                Some((len, rest)) => (u64::from_be_bytes(*len), 1 << 16, rest),
                None => return Ok(None),
            },
            len => (u64::from(len), 0, rest),
        };
        if len < shortest || len > i64::MAX as u64 {
            return Err(Fault::Protocol("a length in more bytes than it needs"));
        }
        let (mask, rest) = if is_masked {
            match rest.split_first_chunk::<4>() {
                Some((key, rest)) => (Some(Mask(*key)), rest),
                None => return Ok(None),
            }
        } else {
            (None, rest)
        };
        Ok(Some(Self {
            opcode,
            is_final,
            mask,
            len,
            own_len: bytes.len() - rest.len(),
        }))
    }

    /// Appends the header of a whole message of `len` bytes.
    #[inline]
    pub(super) fn put(opcode: OpCode, mask: Option<Mask>, len: usize, out: &mut Vec<u8>) {
        let masked = if mask.is_some() { MASKED } else { 0 };
        let first = FIN | opcode as u8;
        if let Ok(len @ ..=125) = u8::try_from(len) {
            out.extend_from_slice(&[first, masked | len]);
        } else if let Ok(len) = u16::try_from(len) {
            let [high, low] = len.to_be_bytes();
            out.extend_from_slice(&[first, masked | 126, high, low]);
        } else {
            out.extend_from_slice(&[first, masked | 127]);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
        if let Some(Mask(key)) = mask {
            out.extend_from_slice(&key);
        }
    }
}

/// Four bytes that are laid over a client's payload again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mask([u8; 4]);

impl Mask {
    /// One that nobody can foresee: what a script makes a browser send must not
    /// look to a proxy like anything that the script chose.
    ///
    /// Spec: RFC 6455, section 10.3.
    #[inline]
    pub(super) fn random() -> Self {
        Self(rand::random())
    }

    /// Masks `bytes`, or takes the mask off.
    #[inline]
    pub(super) fn apply(self, bytes: &mut [u8]) {
        let Self([a, b, c, d]) = self;
        let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
        let (chunks, rest) = bytes.as_chunks_mut::<8>();
        for chunk in chunks {
            *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
        }
        for (byte, key) in rest.iter_mut().zip([a, b, c, d, a, b, c]) {
            *byte ^= key;
        }
    }

    /// The mask as it lies over what follows `n` bytes.
    pub(super) fn after(self, n: usize) -> Self {
        let mut key = self.0;
        key.rotate_left(n % 4);
        Self(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(opcode: OpCode, mask: Option<Mask>, len: usize) -> Vec<u8> {
        let mut out = Vec::new();
        Header::put(opcode, mask, len, &mut out);
        out
    }

    #[test]
    fn headers_are_read_as_they_were_written_and_not_before_they_are_whole() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536, 16_777_215] {
            for (mask, reader) in [
                (None, Role::Client),
                (Some(Mask([1, 2, 3, 4])), Role::Server),
            ] {
                let bytes = header(OpCode::Binary, mask, len);
                for cut in 0..bytes.len() {
                    assert_eq!(
                        Header::parse(&bytes[..cut], reader),
                        Ok(None),
                        "{len}, {cut}"
                    );
                }
                let parsed = Header::parse(&bytes, reader).unwrap().unwrap();
                assert_eq!((parsed.len, parsed.mask), (len as u64, mask));
                assert_eq!(parsed.own_len, bytes.len());
                assert!(parsed.is_final && parsed.own_len <= LONGEST_HEADER);
            }
        }
    }

    #[test]
    fn what_the_rfc_forbids_is_refused() {
        let cases: [(&[u8], Role, &str); 9] = [
            (&[0xC2, 0x80], Role::Server, "reserved"),
            (&[0x83, 0x80], Role::Server, "opcode"),
            (&[0x8F, 0x80], Role::Server, "opcode"),
            (&[0x82, 0x01], Role::Server, "without a mask"),
            (&[0x82, 0x81], Role::Client, "with a mask"),
            (&[0x89, 0x7E], Role::Client, "control"),
            (&[0x08, 0x00], Role::Client, "control"),
            (&[0x82, 0x7E, 0, 125], Role::Client, "more bytes"),
            (
                &[0x82, 0x7F, 0, 0, 0, 0, 0, 0, 255, 255],
                Role::Client,
                "more bytes",
            ),
        ];
        for (bytes, role, reason) in cases {
            let fault = Header::parse(bytes, role).unwrap_err().to_string();
            assert!(fault.contains(reason), "{bytes:?}: {fault}");
        }
        let endless = [0x82, 0x7F, 0x80, 0, 0, 0, 0, 0, 0, 0];
        assert!(Header::parse(&endless, Role::Client).is_err());
    }

    #[test]
    fn a_mask_lies_over_every_byte_and_may_be_taken_off_in_pieces() {
        let key = [0x11, 0x22, 0x44, 0x88];
        for len in 0..40 {
            let mut bytes = vec![0; len];
            Mask(key).apply(&mut bytes);
            for (i, byte) in bytes.iter().enumerate() {
                assert_eq!(*byte, key[i % 4]);
            }
            for cut in 0..=len {
                let mut bytes = bytes.clone();
                let (front, back) = bytes.split_at_mut(cut);
                Mask(key).apply(front);
                Mask(key).after(cut).apply(back);
                assert_eq!(bytes, vec![0; len], "cut at {cut} of {len}");
            }
        }
    }
}
