//! The driver's lines: commands in, events out.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD as BASE64, Engine as _};
use bytes::Bytes;
use rsocket_core::{Backoff, Demand, FixedRate, LeaseOptions, Payload, resume::Resume};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::service::pattern;

/// What the driver is asked to do.
#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Op {
    Caps,
    Connect(Box<Connect>),
    Close,
    Quit,

    Rr(Content),
    Fnf(Content),
    Push(Content),
    Stream(Request),
    Channel(Request),

    // With the id of a running request.
    RequestN {
        #[serde(deserialize_with = "demand")]
        n: Demand,
    },
    Cancel,
    Send(Content),
    SendComplete,
    SendError {
        #[serde(default)]
        message: String,
    },
}

/// A command as it stands in a line, or what is wrong with the line.
pub(crate) fn parse(line: &[u8]) -> Result<(u64, Op), (u64, String)> {
    let wrong = |id, error: serde_json::Error| (id, error.to_string());
    let line: serde_json::Value = serde_json::from_slice(line).map_err(|error| wrong(0, error))?;
    // Read on its own, so that a command that makes no sense is answered under
    // its id.
    let id = line.get("id").and_then(serde_json::Value::as_u64);
    let id = id.unwrap_or(0);
    match Op::deserialize(line) {
        Ok(op) => Ok((id, op)),
        Err(error) => Err(wrong(id, error)),
    }
}

#[derive(Deserialize)]
pub(crate) struct Connect {
    pub(crate) url: String,
    pub(crate) keepalive_ms: Option<u64>,
    pub(crate) lifetime_ms: Option<u64>,
    pub(crate) mtu: Option<usize>,
    setup_data: Option<Base64>,
    setup_metadata: Option<Base64>,

    /// Whether to ask for leases.
    lease: Option<bool>,
    /// What to grant the server: requests, and for how many milliseconds.
    grant: Option<(u32, u64)>,
    /// Whether the session is to outlive its links.
    resume: Option<bool>,
    /// Its resume token; a random one if there is none.
    token: Option<String>,
}

impl Connect {
    pub(crate) fn setup(&self) -> Payload {
        let data = self
            .setup_data
            .clone()
            .map_or_else(Bytes::new, |data| data.0);
        let metadata = self.setup_metadata.clone().map(|metadata| metadata.0);
        payload(data, metadata)
    }

    /// How the session is resumed, if it is to be: every 200 ms, as all drivers
    /// do.
    pub(crate) fn resume(&self) -> Option<Resume> {
        const AGAIN: Duration = Duration::from_millis(200);
        if self.resume != Some(true) {
            return None;
        }
        let resume = Resume::new().backoff(Backoff::new(AGAIN, AGAIN).without_jitter());
        Some(match &self.token {
            Some(token) => resume.token(token.clone()),
            None => resume,
        })
    }

    /// `None` unless leases are asked for. Without `grant` the server may ask
    /// for as much as it likes.
    pub(crate) fn lease(&self) -> Option<LeaseOptions> {
        let options = LeaseOptions::new();
        (self.lease == Some(true)).then(|| match self.grant {
            Some((requests, ttl_ms)) => {
                let rate = FixedRate::new(requests, Duration::from_millis(ttl_ms));
                options.policy(move || rate)
            }
            None => options,
        })
    }
}

/// The payload of a request, or of a channel's `send`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Content {
    data: Option<Base64>,
    metadata: Option<Base64>,
    /// Pattern bytes to append to data.
    #[serde(rename = "gen")]
    data_pattern: u64,
    /// Pattern bytes to append to metadata.
    #[serde(rename = "mgen")]
    metadata_pattern: u64,
}

impl Content {
    pub(crate) fn into_payload(self) -> Result<Payload, String> {
        let data = appended(self.data, self.data_pattern)?.unwrap_or_default();
        let metadata = appended(self.metadata, self.metadata_pattern)?;
        Ok(payload(data, metadata))
    }

    pub(crate) fn into_metadata(self) -> Result<Bytes, String> {
        let metadata = appended(self.metadata, self.metadata_pattern)?;
        Ok(metadata.unwrap_or_default())
    }
}

/// Nothing stays nothing, so that absent metadata stays absent.
fn appended(given: Option<Base64>, len: u64) -> Result<Option<Bytes>, String> {
    let given = given.map(|given| given.0);
    if len == 0 {
        return Ok(given);
    }
    let more = pattern(len).map_err(|failure| failure.message().to_owned())?;
    Ok(Some(match given {
        Some(given) => [given, more].concat().into(),
        None => more,
    }))
}

fn payload(data: Bytes, metadata: Option<Bytes>) -> Payload {
    let payload = Payload::new(data);
    match metadata {
        Some(metadata) => payload.with_metadata(metadata),
        None => payload,
    }
}

/// A request with answers on credit.
#[derive(Deserialize)]
pub(crate) struct Request {
    #[serde(flatten)]
    pub(crate) content: Content,
    /// The initial request-n.
    #[serde(default = "all", deserialize_with = "demand")]
    pub(crate) n: Demand,
}

fn all() -> Demand {
    Demand::MAX
}

fn demand<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Demand, D::Error> {
    let n = u32::deserialize(deserializer)?;
    Demand::new(n).ok_or_else(|| D::Error::custom("n must be 1 ..= 2^31-1"))
}

/// What the driver reports.
#[derive(Serialize)]
#[serde(tag = "ev", rename_all = "snake_case")]
pub(crate) enum Event {
    Caps(Box<Caps>),
    Ok,

    Next {
        data: Base64,
        metadata: Option<Base64>,
    },
    Complete,
    Error {
        code: i64,
        message: String,
    },
    /// Credit for a channel's sending half.
    Demand {
        n: u64,
    },
    /// The responder wants no more of a channel's sending half.
    Cancelled,

    // Of the connection, id 0.
    Closed {
        message: String,
    },
    ConnError {
        code: u32,
        message: String,
    },
    KeepaliveTimeout,
    Crash {
        message: String,
    },
}

impl Event {
    /// The code of what did not come from the peer.
    const LOCAL: i64 = -1;

    pub(crate) fn next(payload: Payload) -> Self {
        let (data, metadata) = payload.into_parts();
        Self::Next {
            data: Base64(data),
            metadata: metadata.map(Base64),
        }
    }

    pub(crate) fn error(message: impl Into<String>) -> Self {
        Self::Error {
            code: Self::LOCAL,
            message: message.into(),
        }
    }

    /// The line, with its end.
    pub(crate) fn to_line(&self, id: u64) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            id: u64,
            #[serde(flatten)]
            event: &'a Event,
        }
        let line = Line { id, event: self };
        let mut line = serde_json::to_string(&line).expect("strings and numbers have a JSON form");
        line.push('\n');
        line
    }
}

/// What works, by name; see the interop README.
#[derive(Serialize)]
pub(crate) struct Caps {
    #[serde(rename = "impl")]
    pub(crate) implementation: &'static str,
    pub(crate) tcp: bool,
    pub(crate) ws: bool,
    pub(crate) request_n: bool,
    pub(crate) initial_n: bool,
    pub(crate) cancel_rr: bool,
    pub(crate) cancel_stream: bool,
    pub(crate) lease: bool,
    pub(crate) resume: bool,
    pub(crate) mtu: bool,
    pub(crate) channel: bool,
    pub(crate) channel_demand: bool,
    pub(crate) channel_error: bool,
    pub(crate) push: bool,
    pub(crate) fnf: bool,
    pub(crate) responder: bool,
    pub(crate) errorcodes: bool,
}

/// Bytes, in base64 when they are JSON.
#[derive(Clone)]
pub(crate) struct Base64(Bytes);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64.decode(text).map_err(D::Error::custom)?;
        Ok(Self(bytes.into()))
    }
}
