//! Over a Unix socket: messages as they are, and a region as a descriptor of
//! sealed memory beside the first byte of one. Who is there, the kernel says
//! (SO_PEERCRED).

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, OwnedFd},
};

use rsocket_core::transport::PeerProcess;
use rustix::{
    cmsg_space,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt::socket_peercred,
    },
};
use tokio::{io::Interest, net::UnixStream};

use super::{Medium, RendezvousError, message::MESSAGE_LEN};
use crate::{
    layout::Geometry,
    line::{self, Line},
    mem::MappedPeer,
    region::{OwnRegion, map_sealed},
};

/// Descriptors that are taken with one message; the kernel closes others. More
/// than the one that is right, so that two are noticed.
const MOST_DESCRIPTORS: usize = 2;

/// Either side's end.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: UnixStream,
    /// What came with the last message.
    descriptors: Vec<OwnedFd>,
}

impl Socket {
    /// Of a stream that was just connected or accepted.
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            descriptors: Vec::new(),
        }
    }
}

impl Medium for Socket {
    const SCHEME: &'static str = "shm";

    fn peer_process(&self) -> io::Result<PeerProcess> {
        let peer = socket_peercred(self.stream.as_fd())?;
        let pid = peer.pid.as_raw_nonzero().get();
        Ok(PeerProcess::new(
            peer.uid.as_raw(),
            peer.gid.as_raw(),
            Some(pid),
        ))
    }

    fn make_region(&mut self, geometry: &Geometry) -> io::Result<OwnRegion> {
        OwnRegion::sealed(geometry)
    }

    async fn send(
        &mut self,
        message: &[u8; MESSAGE_LEN],
        region: Option<&OwnRegion>,
    ) -> io::Result<()> {
        send(&self.stream, message, region.map(|region| &region.file)).await
    }

    async fn recv(&mut self) -> io::Result<[u8; MESSAGE_LEN]> {
        let (message, descriptors) = recv(&self.stream).await?;
        self.descriptors = descriptors;
        Ok(message)
    }

    fn map_region(&mut self, len: usize) -> Result<MappedPeer, RendezvousError> {
        let (Some(descriptor), true) = (self.descriptors.pop(), self.descriptors.is_empty()) else {
            return Err(RendezvousError::Descriptors);
        };
        Ok(map_sealed(descriptor, len)?)
    }

    /// Descriptors have no names, so nothing is there.
    async fn settle(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn into_line(self) -> io::Result<Line> {
        Ok(Line::Socket(line::Socket::new(self.stream)?))
    }

    fn error(error: io::Error) -> RendezvousError {
        RendezvousError::Socket(error)
    }
}

/// Sends `message`, and `file` with its first byte.
async fn send(
    stream: &UnixStream,
    message: &[u8; MESSAGE_LEN],
    file: Option<&File>,
) -> io::Result<()> {
    let mut rest = &message[..];
    let mut file = file;
    while !rest.is_empty() {
        let sent = stream
            .async_io(Interest::WRITABLE, || send_some(stream, rest, file))
            .await?;
        rest = rest.get(sent..).unwrap_or_default();
        file = None;
    }
    Ok(())
}

fn send_some(stream: &UnixStream, bytes: &[u8], file: Option<&File>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = file.map(|file| [file.as_fd()]);
    if let Some(descriptors) = &descriptors {
        let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
        debug_assert!(fits, "there is space for one");
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    Ok(sendmsg(
        stream,
        &[IoSlice::new(bytes)],
        &mut control,
        flags,
    )?)
}

/// A message and the descriptors that came with it.
///
/// It takes no byte that follows.
async fn recv(stream: &UnixStream) -> io::Result<([u8; MESSAGE_LEN], Vec<OwnedFd>)> {
    let mut message = [0; MESSAGE_LEN];
    let mut descriptors = Vec::new();
    let mut rest = &mut message[..];
    while !rest.is_empty() {
        let received = stream
            .async_io(Interest::READABLE, || {
                recv_some(stream, rest, &mut descriptors)
            })
            .await?;
        if received == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        rest = rest.get_mut(received..).unwrap_or_default();
        // So a peer cannot have us hold more than a few, byte by byte.
        if descriptors.len() > MOST_DESCRIPTORS {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok((message, descriptors))
}

fn recv_some(
    stream: &UnixStream,
    bytes: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    Ok(received.bytes)
}
