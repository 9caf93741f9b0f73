//! The clear, authenticated head of every datagram.
//!
//! ```text
//!  byte 0      1           9              17               25                  33
//!  | version   | sender id | generation   | sender session | recipient session | counter | nonce 24 | sealed | tag 16 |
//! ```
//! All numbers are 8 bytes, big-endian. The sender id is xxh3 of the sender's name. The recipient session is 0 while
//! the sender does not know it, and then the sealed content is a greeting. The header is what the cipher calls
//! associated data: readable by all, changeable by none.

use crate::stats::RejectReason;

/// The version of header and frames of gossip.
pub(crate) const GOSSIP_VERSION: u8 = 1;
/// The version of header and signals of the watch. Both share a port: the first byte tells which a datagram is for.
pub(crate) const WATCH_VERSION: u8 = 0x81;
/// Where the recipient's session begins.
#[cfg(feature = "io")]
pub(crate) const RECIPIENT_AT: u32 = 25;
/// Bytes of a header.
pub(crate) const HEADER_LEN: usize = 41;

/// See the module's drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Hash of the sender's name.
    pub(crate) sender: u64,
    /// The sender's generation.
    pub(crate) generation: u64,
    /// Drawn by the sender's agent when it started.
    pub(crate) session: u64,
    /// The receiver's session, as far as the sender knows; 0: it does not.
    pub(crate) recipient: u64,
    /// Grows with each datagram of the sender.
    pub(crate) counter: u64,
}

impl Header {
    pub(crate) fn encode(&self, version: u8) -> Vec<u8> {
        let mut out = Vec::with_capacity(if version == WATCH_VERSION { 128 } else { 1400 });
        out.push(version);
        for number in [self.sender, self.generation, self.session, self.recipient, self.counter] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out
    }

    /// Splits a datagram into its header, the header's bytes and the rest.
    pub(crate) fn decode(expected: u8, datagram: &[u8]) -> Result<(Self, &[u8], &[u8]), RejectReason> {
        let (head, rest) = datagram.split_at_checked(HEADER_LEN).ok_or(RejectReason::Malformed)?;
        let (version, mut numbers) = head.split_first().ok_or(RejectReason::Malformed)?;
        if *version != expected {
            return Err(RejectReason::WrongVersion);
        }
        let mut next = || {
            let (number, others) = numbers.split_first_chunk::<8>().ok_or(RejectReason::Malformed)?;
            numbers = others;
            Ok(u64::from_be_bytes(*number))
        };
        let header =
            Self { sender: next()?, generation: next()?, session: next()?, recipient: next()?, counter: next()? };
        Ok((header, head, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_its_documented_bytes() {
        let header = Header { sender: 1, generation: 2, session: 3, recipient: 4, counter: 5 };
        let mut expected = vec![1];
        for number in 1..=5u8 {
            expected.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, number]);
        }
        assert_eq!(header.encode(GOSSIP_VERSION), expected);
        let (decoded, head, rest) = Header::decode(GOSSIP_VERSION, &expected).unwrap();
        assert_eq!((decoded, head.len(), rest.len()), (header, HEADER_LEN, 0));
    }

    #[test]
    fn short_and_foreign_headers_are_refused() {
        assert_eq!(Header::decode(GOSSIP_VERSION, &[1; HEADER_LEN - 1]).unwrap_err(), RejectReason::Malformed);
        assert_eq!(Header::decode(GOSSIP_VERSION, &[2; HEADER_LEN]).unwrap_err(), RejectReason::WrongVersion);
    }
}
