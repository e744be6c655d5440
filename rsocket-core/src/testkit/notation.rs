//! Frames as text, so that tests can be read and can write what no frame of
//! ours could be.
//!
//! ```text
//! REQUEST_STREAM 5 F n=16 m=meta d=data to the end of the line
//! ```
//!
//! The type; the stream id if it is not 0; flags by their letters, of which M
//! follows from `m=`; fields. What may stand for bytes: text, `*70` for 70
//! bytes, `#00ff` for hex.

use std::fmt::Write as _;

use crate::frame::{ErrorCode, Flags, Frame, FrameType, PayloadRef};

const TYPES: [FrameType; 15] = [
    FrameType::Setup,
    FrameType::Lease,
    FrameType::Keepalive,
    FrameType::RequestResponse,
    FrameType::RequestFnf,
    FrameType::RequestStream,
    FrameType::RequestChannel,
    FrameType::RequestN,
    FrameType::Cancel,
    FrameType::Payload,
    FrameType::Error,
    FrameType::MetadataPush,
    FrameType::Resume,
    FrameType::ResumeOk,
    FrameType::Ext,
];

const CODES: [ErrorCode; 10] = [
    ErrorCode::INVALID_SETUP,
    ErrorCode::UNSUPPORTED_SETUP,
    ErrorCode::REJECTED_SETUP,
    ErrorCode::REJECTED_RESUME,
    ErrorCode::CONNECTION_ERROR,
    ErrorCode::CONNECTION_CLOSE,
    ErrorCode::APPLICATION_ERROR,
    ErrorCode::REJECTED,
    ErrorCode::CANCELED,
    ErrorCode::INVALID,
];

/// Longer parts are written as their length.
const SHOWN: usize = 64;

/// The frame that `text` describes, sense or not: fields may hold what the
/// spec rules out, and stand on any stream.
///
/// | frame | fields, with what they are if they are missing |
/// |---|---|
/// | SETUP | `v=1.0 ka=20000 life=90000 token=` (sets R) `mime=a/b,c/d m= d=` |
/// | LEASE | `ttl=0 n=0 m=` |
/// | KEEPALIVE | `p=0 d=` |
/// | REQUEST_STREAM, REQUEST_CHANNEL | `n=1 m= d=` |
/// | REQUEST_RESPONSE, REQUEST_FNF, PAYLOAD | `m= d=` |
/// | REQUEST_N | `n=1` |
/// | ERROR | the code's name, or `code=0x301`; `d=` |
/// | METADATA_PUSH | `m=` |
/// | RESUME | `v=1.0 token=t p=0 q=0`: last server, first client position |
/// | RESUME_OK | `p=0` |
/// | EXT | `type=1 d=` |
/// | `TYPE=0x1E` | any type by its number, `d=` |
///
/// # Panics
///
/// When the text is no frame.
pub fn frame(text: &str) -> Vec<u8> {
    Parser::new(text).encode()
}

/// The text of a frame; bytes that are no frame say why.
///
/// The message of an ERROR, which is for people, is left out.
pub fn text(bytes: &[u8]) -> String {
    let frame = match Frame::decode(bytes) {
        Ok(frame) => frame,
        Err(error) => return format!("MALFORMED {error}"),
    };
    let mut out = frame.frame_type().to_string();
    if let Some(id) = frame.stream_id() {
        let _ = write!(out, " {id}");
    }
    let flags = |set: &[(bool, char)]| -> String {
        let letters: String = set
            .iter()
            .filter(|flag| flag.0)
            .map(|flag| flag.1)
            .collect();
        match letters.as_str() {
            "" => letters,
            _ => format!(" {letters}"),
        }
    };
    out += &match frame {
        Frame::Setup(setup) => {
            let mut fields = format!(
                "{} v={}.{} ka={} life={}",
                flags(&[(setup.lease, 'L')]),
                setup.major,
                setup.minor,
                setup.keepalive.get(),
                setup.max_lifetime.get()
            );
            if let Some(token) = setup.resume_token {
                fields += &format!(" token={}", blob(token));
            }
            fields += &format!(
                " mime={},{}",
                String::from_utf8_lossy(setup.metadata_mime),
                String::from_utf8_lossy(setup.data_mime)
            );
            fields + &payload(&setup.payload)
        }
        Frame::Lease(lease) => {
            let metadata = lease.metadata.map(|m| format!(" m={}", blob(m)));
            let metadata = metadata.unwrap_or_default();
            format!(" ttl={} n={}{metadata}", lease.ttl_ms, lease.requests)
        }
        Frame::Keepalive(keepalive) => {
            let mut fields = flags(&[(keepalive.respond, 'R')]);
            if keepalive.last_received.get() != 0 {
                fields += &format!(" p={}", keepalive.last_received);
            }
            fields + &data(keepalive.data)
        }
        Frame::Request(request) => {
            let flags = flags(&[(request.follows, 'F'), (request.complete, 'C')]);
            let n = request.initial_n.map(|n| format!(" n={n}"));
            flags + &n.unwrap_or_default() + &payload(&request.payload)
        }
        Frame::RequestN(request_n) => format!(" n={}", request_n.n),
        Frame::Cancel(_) => String::new(),
        Frame::Payload(frame) => {
            let flags = flags(&[
                (frame.follows, 'F'),
                (frame.next, 'N'),
                (frame.complete, 'C'),
            ]);
            flags + &payload(&frame.payload)
        }
        Frame::Error(error) => format!(" {}", error.code),
        Frame::MetadataPush(push) => format!(" m={}", blob(push.metadata)),
        Frame::Resume(resume) => format!(
            " v={}.{} token={} p={} q={}",
            resume.major,
            resume.minor,
            blob(resume.token),
            resume.last_received_server,
            resume.first_available_client
        ),
        Frame::ResumeOk(resume_ok) => format!(" p={}", resume_ok.last_received_client),
        Frame::Ext(ext) => {
            let flags = flags(&[(ext.ignore, 'I'), (ext.metadata_flag, 'M')]);
            format!("{flags} type={}{}", ext.extended_type, data(ext.body))
        }
    };
    out
}

/// Metadata and data as in the notation: ` m=x d=y`.
pub(super) fn payload(payload: &PayloadRef<'_>) -> String {
    let metadata = payload.metadata.map(|m| format!(" m={}", blob(m)));
    metadata.unwrap_or_default() + &data(payload.data)
}

fn data(data: &[u8]) -> String {
    match data {
        [] => String::new(),
        _ => format!(" d={}", blob(data)),
    }
}

fn blob(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        _ if bytes.len() > SHOWN => format!("*{}", bytes.len()),
        Ok(text) if text.chars().all(|c| c.is_ascii_graphic() || c == ' ') => text.to_owned(),
        _ => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("#{hex}")
        }
    }
}

struct Parser<'t> {
    text: &'t str,
    words: Vec<&'t str>,
    data: Option<&'t str>,
}

impl<'t> Parser<'t> {
    fn new(text: &'t str) -> Self {
        let (head, data) = match text.split_once(" d=") {
            Some((head, data)) => (head, Some(data)),
            None => (text, None),
        };
        Self {
            text,
            words: head.split_whitespace().collect(),
            data,
        }
    }

    fn field(&self, name: &str) -> Option<&'t str> {
        self.words.iter().find_map(|word| {
            let (key, value) = word.split_once('=')?;
            (key == name).then_some(value)
        })
    }

    fn number(&self, name: &str, default: u64) -> u64 {
        self.field(name).map_or(default, |value| {
            let parsed = match value.strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16),
                None => value.parse(),
            };
            parsed.unwrap_or_else(|_| panic!("`{value}` is no number: {}", self.text))
        })
    }

    /// The low 32 bits of a number.
    fn u32(&self, name: &str, default: u64) -> [u8; 4] {
        let [_, _, _, _, low @ ..] = self.number(name, default).to_be_bytes();
        low
    }

    fn u64(&self, name: &str) -> [u8; 8] {
        self.number(name, 0).to_be_bytes()
    }

    fn bytes(&self, text: &str) -> Vec<u8> {
        let parsed = Self::parse(text);
        parsed.unwrap_or_else(|| panic!("`{text}` are no bytes: {}", self.text))
    }

    fn parse(text: &str) -> Option<Vec<u8>> {
        if let Some(len) = text.strip_prefix('*') {
            return Some(vec![b'x'; len.parse().ok()?]);
        }
        let Some(hex) = text.strip_prefix('#') else {
            return Some(text.as_bytes().to_vec());
        };
        let digits = |pair: &[u8]| {
            let pair = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(pair, 16).ok()
        };
        hex.as_bytes().chunks(2).map(digits).collect()
    }

    fn data(&self) -> Vec<u8> {
        self.data.map(|data| self.bytes(data)).unwrap_or_default()
    }

    fn metadata(&self) -> Option<Vec<u8>> {
        self.field("m").map(|metadata| self.bytes(metadata))
    }

    fn payload(&self) -> Vec<u8> {
        let metadata = self.metadata().map(|metadata| {
            let length = u32::try_from(metadata.len()).unwrap_or(u32::MAX);
            let [_, length @ ..] = length.to_be_bytes();
            [&length[..], &metadata].concat()
        });
        [metadata.unwrap_or_default(), self.data()].concat()
    }

    fn version(&self) -> [u8; 4] {
        let version = self.field("v").unwrap_or("1.0");
        let parsed = version.split_once('.').and_then(|(major, minor)| {
            let [a, b] = major.parse::<u16>().ok()?.to_be_bytes();
            let [c, d] = minor.parse::<u16>().ok()?.to_be_bytes();
            Some([a, b, c, d])
        });
        parsed.unwrap_or_else(|| panic!("`{version}` is no version: {}", self.text))
    }

    fn token(&self) -> Option<Vec<u8>> {
        self.field("token").map(|token| {
            let token = self.bytes(token);
            let length = u16::try_from(token.len()).unwrap_or(u16::MAX);
            [&length.to_be_bytes()[..], &token].concat()
        })
    }

    fn setup(&self) -> Vec<u8> {
        let (metadata, data) = self
            .field("mime")
            .unwrap_or("a/b,c/d")
            .split_once(',')
            .unwrap_or_else(|| panic!("mime= takes two: {}", self.text));
        let short = |text: &str| {
            let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
            [&[length], text.as_bytes()].concat()
        };
        [
            self.version().to_vec(),
            self.u32("ka", 20_000).to_vec(),
            self.u32("life", 90_000).to_vec(),
            self.token().unwrap_or_default(),
            short(metadata),
            short(data),
            self.payload(),
        ]
        .concat()
    }

    fn code(&self) -> [u8; 4] {
        let named = CODES
            .iter()
            .find(|code| self.words.contains(&code.to_string().as_str()));
        match named {
            Some(code) => code.get().to_be_bytes(),
            None => self.u32("code", 0),
        }
    }

    fn flags(&self) -> u16 {
        let mut flags = 0;
        for word in &self.words {
            let letters = word.chars().all(|c| "IMFCNRL".contains(c));
            for letter in word.chars().filter(|_| letters) {
                flags |= match letter {
                    'I' => Flags::IGNORE,
                    'M' => Flags::METADATA,
                    'C' | 'L' => Flags::COMPLETE,
                    'N' => Flags::NEXT,
                    _ => Flags::FOLLOWS,
                }
                .bits();
            }
        }
        if self.field("m").is_some() {
            flags |= Flags::METADATA.bits();
        }
        flags
    }

    fn encode(&self) -> Vec<u8> {
        let name = self.words.first().copied().unwrap_or_default();
        let frame_type = TYPES.iter().find(|known| known.to_string() == name);
        let id = self.words.get(1).and_then(|word| word.parse::<u32>().ok());
        let mut flags = self.flags();
        let body = match frame_type {
            Some(FrameType::Setup) => {
                if self.field("token").is_some() {
                    flags |= Flags::RESUME.bits();
                }
                self.setup()
            }
            Some(FrameType::Lease) => [
                self.u32("ttl", 0).to_vec(),
                self.u32("n", 0).to_vec(),
                self.metadata().unwrap_or_default(),
            ]
            .concat(),
            Some(FrameType::Keepalive) => [self.u64("p").to_vec(), self.data()].concat(),
            Some(FrameType::RequestStream | FrameType::RequestChannel) => {
                [self.u32("n", 1).to_vec(), self.payload()].concat()
            }
            Some(FrameType::RequestResponse | FrameType::RequestFnf | FrameType::Payload) => {
                self.payload()
            }
            Some(FrameType::RequestN) => self.u32("n", 1).to_vec(),
            Some(FrameType::Cancel) => self.data(),
            Some(FrameType::Error) => [self.code().to_vec(), self.data()].concat(),
            Some(FrameType::MetadataPush) => self.metadata().unwrap_or_default(),
            Some(FrameType::Resume) => [
                self.version().to_vec(),
                self.token().unwrap_or_else(|| b"\0\x01t".to_vec()),
                self.u64("p").to_vec(),
                self.u64("q").to_vec(),
            ]
            .concat(),
            Some(FrameType::ResumeOk) => self.u64("p").to_vec(),
            Some(FrameType::Ext) => [self.u32("type", 1).to_vec(), self.data()].concat(),
            None => self.data(),
        };
        let bits = match frame_type {
            Some(known) => *known as u16,
            None => {
                let [.., high, low] = self.u32("TYPE", u64::MAX);
                let bits = u16::from_be_bytes([high, low]);
                assert!(bits < 0x40, "no frame type: {}", self.text);
                bits
            }
        };
        let word = bits << 10 | flags;
        [
            &id.unwrap_or(0).to_be_bytes(),
            &word.to_be_bytes()[..],
            &body,
        ]
        .concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for line in [
            "SETUP v=1.0 ka=1 life=2 mime=a/b,c/d m=x d=y z",
            "SETUP L v=2.7 ka=1 life=2 token=tok mime=,",
            "LEASE ttl=5 n=6 m=#ff",
            "KEEPALIVE R p=7 d=beat",
            "REQUEST_RESPONSE 1 F d=ping",
            "REQUEST_FNF 3 m= d=#00",
            "REQUEST_STREAM 5 n=16 d=*70",
            "REQUEST_CHANNEL 7 C n=2147483647",
            "REQUEST_N 5 n=8",
            "CANCEL 5",
            "PAYLOAD 5 FN d=x",
            "PAYLOAD 5 NC m=meta",
            "ERROR 5 APPLICATION_ERROR",
            "ERROR CONNECTION_CLOSE",
            "METADATA_PUSH m=meta",
            "RESUME v=1.0 token=t p=1 q=2",
            "RESUME_OK p=3",
            "EXT 5 I type=9 d=z",
        ] {
            assert_eq!(text(&frame(line)), line);
        }
    }

    #[test]
    fn nonsense_can_be_written_too() {
        assert_eq!(frame("REQUEST_N 0 n=0"), b"\0\0\0\0\x20\0\0\0\0\0");
        assert_eq!(frame("TYPE=0x1E 1 I d=#ff"), b"\0\0\0\x01\x7A\0\xFF");
        assert!(text(&frame("REQUEST_N 1 n=0")).starts_with("MALFORMED"));
    }
}
