//! What a datagram says once it is opened: one frame, in postcard encoding.
//!
//! The whole frame must be read and nothing may follow it; the encoding's enum tag is the frame's number, so variants
//! are only ever added at the end (and the header's version tells incompatible formats apart).

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{cells::Batch, digest::Page, identity::Identity};

/// Bytes a frame may have: with header, nonce and tag, and the headers of UDP and IPv6 below, 1,329 bytes on the wire.
pub(crate) const FRAME_MAX: usize = 1200;

/// The content of a datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Frame<'a> {
    /// "I do not know your session": the only frame accepted without a session. Answered by a Hello.
    Greet,
    /// "This is my session": answers a greeting, and datagrams for an earlier session or of an earlier generation.
    Hello(Hello),
    /// A packet of the SWIM library.
    Swim(#[serde(borrow)] &'a [u8]),
    /// "I suspect you": lets the suspect refute at once instead of when the rumour reaches it.
    Suspicion(Suspicion),
    /// Cells of one document.
    Cells(Batch),
    /// What the sender has of which documents; answered with what it lacks, and by a page if `answer` is asked.
    Digest(Page),
    /// The sender leaves the cluster.
    Goodbye(Identity),
    /// "This life is over, and its watchers agree": goes to all. To the node itself it means that others believe so, and
    /// that it should renew itself.
    Death(Identity),
    /// "Your generation is not the highest of your name; the one who has that was heard at this address": goes before a
    /// [`Frame::Hello`] that says so, if the receiver is elsewhere.
    Namesake(SocketAddr),
    /// "This life is over, and the next begins within so many milliseconds; the machine goes on": instead of a goodbye.
    Restart(Identity, u32),
}

/// See [`Frame::Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// Who answers.
    pub(crate) identity: Identity,
    /// The generation in the header of the datagram that is answered.
    pub(crate) echo_generation: u64,
    /// The counter in it.
    pub(crate) echo_counter: u64,
    /// The receiver was heard in this session under this generation, which is not below its own.
    pub(crate) outrun_by: Option<u64>,
}

/// See [`Frame::Suspicion`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Suspicion {
    /// Who is suspected.
    pub(crate) suspect: Identity,
    /// The incarnation that a refutation must exceed.
    pub(crate) incarnation: u16,
    /// Whom to tell.
    pub(crate) by: Identity,
}

impl<'a> Frame<'a> {
    /// The frame's bytes; `None` if it is longer than a frame may be.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        postcard::to_stdvec(self).ok().filter(|bytes| bytes.len() <= FRAME_MAX)
    }

    /// The frame in `bytes`; `None` unless they are one frame and nothing else.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        match postcard::take_from_bytes(bytes) {
            Ok((frame, [])) => Some(frame),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_survive_the_wire() {
        let identity = Identity {
            name: "n1".parse().unwrap(),
            address: "[fe80::1]:9651".parse().unwrap(),
            generation: 7,
            renewal: 1,
        };
        let hello = Hello { identity: identity.clone(), echo_generation: 7, echo_counter: 9, outrun_by: Some(8) };
        for frame in [
            Frame::Greet,
            Frame::Hello(hello),
            Frame::Swim(b"ping"),
            Frame::Goodbye(identity.clone()),
            Frame::Death(identity.clone()),
            Frame::Restart(identity, 10_000),
            Frame::Namesake("[fe80::1]:9651".parse().unwrap()),
        ] {
            let bytes = frame.encode().unwrap();
            assert_eq!(Frame::decode(&bytes), Some(frame));
        }
    }

    #[test]
    fn a_frame_is_followed_by_nothing() {
        let mut bytes = Frame::Greet.encode().unwrap();
        assert_eq!(bytes, [0]);
        bytes.push(0);
        assert_eq!(Frame::decode(&bytes), None);
        assert_eq!(Frame::decode(&[]), None);
    }

    #[test]
    fn a_frame_that_would_fragment_is_not_made() {
        assert!(Frame::Swim(&[0; FRAME_MAX]).encode().is_none());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..1300)) {
            if let Some(frame) = Frame::decode(&bytes) {
                prop_assert!(frame.encode().is_some());
            }
        }
    }
}
