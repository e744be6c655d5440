//! Which type of frame the bytes are.

use super::Frame;
use super::error::{DecodeError, ErrorFrame};
use super::ext::Ext;
use super::flow::{Cancel, RequestN};
use super::header::{FrameType, Header};
use super::keepalive::Keepalive;
use super::lease::Lease;
use super::metadata_push::MetadataPush;
use super::payload::PayloadFrame;
use super::read::Reader;
use super::request::{Interaction, Request};
use super::resume::{Resume, ResumeOk};
use super::setup::Setup;

impl<'a> Frame<'a> {
    /// Reads one frame, which is all of `bytes`: no length prefix in front,
    /// no other frame behind.
    ///
    /// Flags that the spec does not define for the type are ignored.
    ///
    /// # Errors
    ///
    /// [`DecodeError`], for any bytes that are not a frame. Ask
    /// [`Header::decode`] whether the peer wanted such a frame ignored.
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (header, body) = Header::split(bytes)?;
        let body = Reader::new(body);
        let interaction = match header.frame_type {
            bits::REQUEST_RESPONSE => Interaction::RequestResponse,
            bits::REQUEST_FNF => Interaction::FireAndForget,
            bits::REQUEST_STREAM => Interaction::RequestStream,
            bits::REQUEST_CHANNEL => Interaction::RequestChannel,
            bits::REQUEST_N => return RequestN::decode(header, body).map(Self::RequestN),
            bits::CANCEL => return Cancel::decode(header).map(Self::Cancel),
            bits::PAYLOAD => return PayloadFrame::decode(header, body).map(Self::Payload),
            bits::ERROR => return ErrorFrame::decode(header, body).map(Self::Error),
            _ => return Rare::decode(header, body).map(Self::from),
        };
        Request::decode(interaction, header, body).map(Self::Request)
    }
}

/// The types to tell apart with every request.
mod bits {
    use super::FrameType;

    pub(super) const REQUEST_RESPONSE: u8 = FrameType::RequestResponse as u8;
    pub(super) const REQUEST_FNF: u8 = FrameType::RequestFnf as u8;
    pub(super) const REQUEST_STREAM: u8 = FrameType::RequestStream as u8;
    pub(super) const REQUEST_CHANNEL: u8 = FrameType::RequestChannel as u8;
    pub(super) const REQUEST_N: u8 = FrameType::RequestN as u8;
    pub(super) const CANCEL: u8 = FrameType::Cancel as u8;
    pub(super) const PAYLOAD: u8 = FrameType::Payload as u8;
    pub(super) const ERROR: u8 = FrameType::Error as u8;
}

/// The frames that come a few times in a connection's life.
///
/// A type of its own keeps [`Frame::decode`] fast: the compiler takes a frame
/// apart into registers only as long as no call writes it to memory.
enum Rare<'a> {
    Setup(Setup<'a>),
    Lease(Lease<'a>),
    Keepalive(Keepalive<'a>),
    MetadataPush(MetadataPush<'a>),
    Resume(Resume<'a>),
    ResumeOk(ResumeOk),
    Ext(Ext<'a>),
}

impl<'a> Rare<'a> {
    #[inline(never)]
    fn decode(header: Header, body: Reader<'a>) -> Result<Self, DecodeError> {
        match FrameType::from_bits(header.frame_type) {
            Some(FrameType::Setup) => Setup::decode(header, body).map(Self::Setup),
            Some(FrameType::Lease) => Lease::decode(header, body).map(Self::Lease),
            Some(FrameType::Keepalive) => Keepalive::decode(header, body).map(Self::Keepalive),
            Some(FrameType::MetadataPush) => {
                MetadataPush::decode(header, body).map(Self::MetadataPush)
            }
            Some(FrameType::Resume) => Resume::decode(header, body).map(Self::Resume),
            Some(FrameType::ResumeOk) => ResumeOk::decode(header, body).map(Self::ResumeOk),
            Some(FrameType::Ext) => Ext::decode(header, body).map(Self::Ext),
            _ => Err(DecodeError::UnknownType {
                frame_type: header.frame_type,
            }),
        }
    }
}

impl<'a> From<Rare<'a>> for Frame<'a> {
    #[inline]
    fn from(rare: Rare<'a>) -> Self {
        match rare {
            Rare::Setup(frame) => Self::Setup(frame),
            Rare::Lease(frame) => Self::Lease(frame),
            Rare::Keepalive(frame) => Self::Keepalive(frame),
            Rare::MetadataPush(frame) => Self::MetadataPush(frame),
            Rare::Resume(frame) => Self::Resume(frame),
            Rare::ResumeOk(frame) => Self::ResumeOk(frame),
            Rare::Ext(frame) => Self::Ext(frame),
        }
    }
}
