//! How a standby finds out whether a segment floods always (a hub, a bridge that does not learn): there, it would see
//! every frame for the owner and carry all of them a second time.
//!
//! The standby sends the owner an *ask* with a nonce. The owner sends an *echo* addressed to itself, then an *answer* to
//! the standby. A switch that learns drops the echo, since its addressee is behind the port by which it came (and it
//! learns that port by it); a segment that floods delivers it to the standby, where the kernel program sees it, before
//! the answer. So an answer without an echo shows that the owner lives and that frames to it are not flooded.
//!
//! Ethernet frames of the local experimental type 0x88B5 (IEEE 802, clause 9.2.3): magic, version, kind, nonce, zeroes.

use membership::document::Mac;

/// The Ethernet type.
pub const ETHERTYPE: u16 = 0x88b5;
/// Bytes of a frame: the shortest that Ethernet has, without its check sequence.
pub const LENGTH: usize = 60;

const HEADER: usize = 14;
/// "crier", and the version.
const MAGIC: [u8; 6] = *b"crier\x01";

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Are you there, and does this segment flood?
    Ask,
    /// To oneself.
    Echo,
    /// An echo was sent before this.
    Answer,
}

/// A frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Ethernet destination.
    pub destination: Mac,
    /// Ethernet source.
    pub source: Mac,
    /// What it says.
    pub kind: Kind,
    /// The asker's number.
    pub nonce: u64,
}

impl Frame {
    /// Reads a frame; `None` if it is no such frame. What follows the nonce is not looked at.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, type_high, type_low] = *header;
        if u16::from_be_bytes([type_high, type_low]) != ETHERTYPE {
            return None;
        }
        let rest = rest.strip_prefix(&MAGIC)?;
        let (kind, rest) = rest.split_first()?;
        let kind = match kind {
            1 => Kind::Ask,
            2 => Kind::Echo,
            3 => Kind::Answer,
            _ => return None,
        };
        let nonce = u64::from_be_bytes(*rest.first_chunk()?);
        Some(Self { destination: [d0, d1, d2, d3, d4, d5], source: [s0, s1, s2, s3, s4, s5], kind, nonce })
    }

    /// The frame's bytes.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let kind = match self.kind {
            Kind::Ask => 1,
            Kind::Echo => 2,
            Kind::Answer => 3,
        };
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.extend_from_slice(&self.destination);
        bytes.extend_from_slice(&self.source);
        bytes.extend_from_slice(&ETHERTYPE.to_be_bytes());
        bytes.extend_from_slice(&MAGIC);
        bytes.push(kind);
        bytes.extend_from_slice(&self.nonce.to_be_bytes());
        bytes.resize(LENGTH, 0);
        bytes
    }

    /// What the node with this MAC sends when it hears the frame, in this order; nothing unless it is an ask for it.
    #[must_use]
    pub fn replies(&self, mac: Mac) -> Option<[Self; 2]> {
        let from_another = self.source != mac && self.source[0] & 1 == 0;
        (self.kind == Kind::Ask && self.destination == mac && from_another).then_some([
            Self { destination: mac, source: mac, kind: Kind::Echo, nonce: self.nonce },
            Self { destination: self.source, source: mac, kind: Kind::Answer, nonce: self.nonce },
        ])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Mac = [2, 0, 0, 0, 0, 0x0a];
    const B: Mac = [2, 0, 0, 0, 0, 0x0b];

    #[test]
    fn an_ask_is_answered_after_an_echo_to_oneself() {
        let ask = Frame { destination: A, source: B, kind: Kind::Ask, nonce: 7 };
        let [echo, answer] = ask.replies(A).unwrap();
        assert_eq!((echo.source, echo.destination, echo.kind), (A, A, Kind::Echo));
        assert_eq!((answer.source, answer.destination, answer.kind, answer.nonce), (A, B, Kind::Answer, 7));
    }

    #[test]
    fn nothing_else_is_answered() {
        let ask = Frame { destination: A, source: B, kind: Kind::Ask, nonce: 7 };
        assert_eq!(ask.replies(B), None, "another's");
        assert_eq!(Frame { source: A, ..ask }.replies(A), None, "from oneself");
        assert_eq!(Frame { source: [0xff; 6], ..ask }.replies(A), None, "from nobody in particular");
        for kind in [Kind::Echo, Kind::Answer] {
            assert_eq!(Frame { kind, ..ask }.replies(A), None, "{kind:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_emitted_is_parsed(destination: Mac, source: Mac, nonce: u64, which in 0..3usize) {
            let kind = [Kind::Ask, Kind::Echo, Kind::Answer][which];
            let frame = Frame { destination, source, kind, nonce };
            prop_assert_eq!(Frame::parse(&frame.emit()), Some(frame));
            prop_assert_eq!(frame.emit().len(), LENGTH);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Frame::parse(&bytes);
        }
    }
}
