//! What goes over a connection: a value as JSON, bytes as they are, and open files.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most files that go at once, by the kernel (SCM_MAX_FD).
pub const MAX_FILES: usize = 253;

/// The longest value, as text: thousands of plugins' names and cgroups.
const MAX_TEXT_BYTES: usize = 64 << 20;

/// The most bytes that go at once: the machine code of a large plugin.
const MAX_BYTES: usize = 576 << 20;

/// The lengths of text and bytes, before both.
const HEAD_BYTES: usize = 16;

/// What has come.
pub struct Frame {
    text: Vec<u8>,
    /// Bytes as they were sent.
    pub bytes: Vec<u8>,
    /// Files that were open at the other end, and are open here now.
    pub files: Vec<OwnedFd>,
}

impl Frame {
    /// The value.
    pub fn value<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_slice(&self.text)
    }
}

/// Sends all of it.
pub fn send(mut stream: &UnixStream, value: &impl Serialize, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = serde_json::to_vec(value)?;
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(&(text.len() as u64).to_ne_bytes());
    head[8..].copy_from_slice(&(bytes.len() as u64).to_ne_bytes());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::new(ErrorKind::InvalidInput, "more files than can be sent at once"));
    }
    let sent = sendmsg(stream, &[IoSlice::new(&head)], &mut ancillary, SendFlags::NOSIGNAL)?;
    stream.write_all(&head[sent..])?;
    stream.write_all(&text)?;
    stream.write_all(bytes)
}

/// Waits for what comes next; none where the other end is closed. `EMFILE` where its files cannot be opened here: what comes after
/// it can still be received.
pub fn receive(mut stream: &UnixStream) -> io::Result<Option<Frame>> {
    let mut head = [0; HEAD_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(stream, &mut [IoSliceMut::new(&mut head)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    if received.bytes == 0 {
        return Ok(None);
    }
    let files: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        })
        .flatten()
        .collect();
    stream.read_exact(&mut head[received.bytes..])?;
    let length = |bytes: &[u8], most: usize| {
        let length = bytes.try_into().map(u64::from_ne_bytes).ok().and_then(|length| usize::try_from(length).ok());
        length.filter(|length| *length <= most).ok_or_else(|| io::Error::other("more bytes than are ever sent"))
    };
    let (text, bytes) = (length(&head[..8], MAX_TEXT_BYTES)?, length(&head[8..], MAX_BYTES)?);
    let mut take = |length: usize| {
        let mut taken = vec![0; length];
        stream.read_exact(&mut taken).map(|()| taken)
    };
    let frame = Frame { text: take(text)?, bytes: take(bytes)?, files };
    match received.flags.contains(ReturnFlags::CTRUNC) {
        true => Err(Errno::MFILE.into()),
        false => Ok(Some(frame)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_value_bytes_and_files_come_as_they_were_sent() {
        let (one, other) = UnixStream::pair().unwrap();
        let path = std::env::temp_dir().join(format!("eunomia-frame-{}", std::process::id()));
        std::fs::write(&path, "what is in it").unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let bytes = vec![7; 3 << 20];
        let sending = std::thread::spawn(move || {
            send(&one, &("a", 1), &bytes, &[file.as_fd(), file.as_fd()]).unwrap();
            send(&one, &"next", &[], &[]).unwrap();
        });
        let frame = receive(&other).unwrap().unwrap();
        assert_eq!(frame.value::<(String, u32)>().unwrap(), ("a".to_owned(), 1));
        assert!(frame.bytes.len() == 3 << 20 && frame.bytes.iter().all(|byte| *byte == 7));
        let [first, _] = <[OwnedFd; 2]>::try_from(frame.files).unwrap();
        let mut text = String::new();
        File::from(first).read_to_string(&mut text).unwrap();
        assert_eq!(text, "what is in it");
        assert_eq!(receive(&other).unwrap().unwrap().value::<String>().unwrap(), "next");
        sending.join().unwrap();
        assert!(receive(&other).unwrap().is_none());
    }

    #[test]
    fn what_is_too_long_or_cut_off_is_an_error() {
        let (mut one, other) = UnixStream::pair().unwrap();
        one.write_all(&[0xff; HEAD_BYTES]).unwrap();
        assert!(receive(&other).is_err());
        let (mut one, other) = UnixStream::pair().unwrap();
        one.write_all(&[0; 3]).unwrap();
        drop(one);
        assert!(receive(&other).is_err());
    }
}
