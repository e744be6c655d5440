//! The three messages of the rendezvous, each 64 bytes, little endian.
//!
//! ```text
//!  0  8  "RSOCKSHM"
//!  8  2  major version      10  2  minor version
//! 12  4  kind: 1 hello, 2 accept, 3 refuse
//! 16  8  length of the region that comes along; 0 with a refusal
//! 24  8  the longest region that the sender maps
//! 32  4  why it refuses; 0 else
//! 36 28  zero; later minor versions may use it
//! ```

/// Bytes of any message.
pub(crate) const MESSAGE_LEN: usize = 64;

const MAGIC: [u8; 8] = *b"RSOCKSHM";

/// What this crate speaks. Peers of another major version cannot talk; of minor
/// versions, the lower one counts.
pub(crate) const VERSION: Version = Version { major: 1, minor: 0 };

/// Version of the rendezvous and of the layout of regions, together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) major: u16,
    pub(crate) minor: u16,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) version: Version,
    pub(crate) body: Body,
    /// The longest region that the sender maps.
    pub(crate) longest_region: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// The client's region comes along.
    Hello { region_len: u64 },
    /// The server's region comes along.
    Accept { region_len: u64 },
    /// There will be no link.
    Refuse { why: Refusal },
}

/// Why a server makes no link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("it does not speak this version")]
    Version,
    #[error("it does not serve this user")]
    User,
    #[error("this side's region is longer than it maps")]
    TooLong,
    #[error("its own region would be longer than this side maps")]
    TooShort,
    #[error("it found this side's region to be unusable")]
    BadRegion,
    #[error("it has no memory for another link")]
    NoRoom,
    #[error("for a reason of a later version, number {0}")]
    Unknown(u32),
}

impl Refusal {
    fn code(self) -> u32 {
        match self {
            Self::Version => 1,
            Self::User => 2,
            Self::TooLong => 3,
            Self::TooShort => 4,
            Self::BadRegion => 5,
            Self::NoRoom => 6,
            Self::Unknown(code) => code,
        }
    }

    fn from_code(code: u32) -> Self {
        match code {
            1 => Self::Version,
            2 => Self::User,
            3 => Self::TooLong,
            4 => Self::TooShort,
            5 => Self::BadRegion,
            6 => Self::NoRoom,
            _ => Self::Unknown(code),
        }
    }
}

/// It is no message of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Garbage {
    #[error("it does not begin like a message of this protocol")]
    Magic,
    #[error("there is no message of kind {0}")]
    Kind(u32),
}

impl Message {
    pub(crate) fn encode(&self) -> [u8; MESSAGE_LEN] {
        let (kind, region_len, why) = match self.body {
            Body::Hello { region_len } => (1_u32, region_len, 0),
            Body::Accept { region_len } => (2, region_len, 0),
            Body::Refuse { why } => (3, 0, why.code()),
        };
        let mut out = [0; MESSAGE_LEN];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out.iter_mut()
                .skip(at)
                .zip(bytes)
                .for_each(|(out, byte)| *out = *byte);
            at += bytes.len();
        };
        put(&MAGIC);
        put(&self.version.major.to_le_bytes());
        put(&self.version.minor.to_le_bytes());
        put(&kind.to_le_bytes());
        put(&region_len.to_le_bytes());
        put(&self.longest_region.to_le_bytes());
        put(&why.to_le_bytes());
        out
    }

    /// Of another major version, only the version is to be relied on: whoever
    /// decodes has to look at that first.
    pub(crate) fn decode(bytes: &[u8; MESSAGE_LEN]) -> Result<Self, Garbage> {
        let mut rest = &bytes[..];
        if take(&mut rest) != MAGIC {
            return Err(Garbage::Magic);
        }
        let version = Version {
            major: u16::from_le_bytes(take(&mut rest)),
            minor: u16::from_le_bytes(take(&mut rest)),
        };
        let kind = u32::from_le_bytes(take(&mut rest));
        let region_len = u64::from_le_bytes(take(&mut rest));
        let longest_region = u64::from_le_bytes(take(&mut rest));
        let why = Refusal::from_code(u32::from_le_bytes(take(&mut rest)));
        let body = match kind {
            1 => Body::Hello { region_len },
            2 => Body::Accept { region_len },
            3 => Body::Refuse { why },
            _ => return Err(Garbage::Kind(kind)),
        };
        Ok(Self {
            version,
            body,
            longest_region,
        })
    }
}

/// The next `N` bytes of a message, which is longer than all that is taken.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (taken, left) = rest.split_first_chunk().expect("a message is 64 bytes");
    *rest = left;
    *taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: Body) -> Message {
        Message {
            version: VERSION,
            body,
            longest_region: 0x0102_0304_0506_0708,
        }
    }

    #[test]
    fn each_message_comes_back_as_it_was() {
        let whys = (1..=7).map(Refusal::from_code);
        let bodies = whys.map(|why| Body::Refuse { why }).chain([
            Body::Hello { region_len: 5 },
            Body::Accept {
                region_len: u64::MAX,
            },
        ]);
        for body in bodies {
            let message = message(body);
            assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn the_bytes_are_where_the_documentation_says() {
        let bytes = message(Body::Hello {
            region_len: 0x1122_3344,
        })
        .encode();
        assert_eq!(&bytes[..8], b"RSOCKSHM");
        assert_eq!(bytes[8..12], [1, 0, 0, 0]);
        assert_eq!(bytes[12..16], [1, 0, 0, 0]);
        assert_eq!(bytes[16..24], [0x44, 0x33, 0x22, 0x11, 0, 0, 0, 0]);
        assert_eq!(bytes[24..32], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(bytes[32..], [0; 32]);
    }

    #[test]
    fn what_is_no_message_is_told() {
        let good = message(Body::Hello { region_len: 1 }).encode();
        let mut bad = good;
        bad[0] ^= 1;
        assert_eq!(Message::decode(&bad), Err(Garbage::Magic));
        let mut bad = good;
        bad[12] = 9;
        assert_eq!(Message::decode(&bad), Err(Garbage::Kind(9)));
    }
}
