//! What the watch says: five short messages, sealed like gossip under a version byte of their own.
//!
//! ```text
//!   beat    "I am alive, and say so every 50 ms"          to each watcher, on schedule, and in answer to a ping
//!   ping    "are you?"                                    to who is late
//!   ask     "when did you last hear that life of X?"      to the other watchers of who is overdue
//!   answer  "so many microseconds ago", or "I cannot say"
//!   deaf    "I have heard nobody for so long"             to all, once, by who finds itself cut off
//! ```
//! A life is named by its session, which no two lives share. The encoding is postcard's; the whole content must be read.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Signal {
    /// The sender lives.
    Beat {
        /// The sender's interval, microseconds.
        interval_us: u32,
    },
    /// The sender lives, and wants a beat at once.
    Ping {
        /// The sender's interval, microseconds.
        interval_us: u32,
    },
    /// The sender does not hear the node `about`.
    Ask {
        /// Whom it is about.
        about: u64,
        /// Which life.
        session: u64,
    },
    /// The answer to that.
    Answer {
        /// Whom it is about.
        about: u64,
        /// Which life.
        session: u64,
        /// For how long the sender has not heard it, microseconds. `None`: it does not watch it, or has just begun to.
        silent_us: Option<u32>,
    },
    /// The sender hears nobody: it is cut off, at least in the direction towards it.
    Deaf {
        /// For how long, microseconds.
        silent_us: u32,
    },
}

impl Signal {
    pub(crate) fn encode(self) -> Vec<u8> {
        // Numbers only: there is nothing that could fail.
        postcard::to_stdvec(&self).unwrap_or_default()
    }

    /// `None` unless the bytes are one message and nothing else.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes(bytes) {
            Ok((signal, [])) => Some(signal),
            _ => None,
        }
    }
}

/// Whole microseconds, as far as they fit.
pub(crate) fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn signals_survive_the_wire_and_are_short() {
        let all = [
            Signal::Beat { interval_us: 50_000 },
            Signal::Ping { interval_us: u32::MAX },
            Signal::Ask { about: u64::MAX, session: 1 },
            Signal::Answer { about: 1, session: 2, silent_us: Some(3) },
            Signal::Answer { about: 1, session: 2, silent_us: None },
            Signal::Deaf { silent_us: 155_000 },
        ];
        for signal in all {
            assert_eq!(Signal::decode(&signal.encode()), Some(signal));
        }
        assert_eq!(all[0].encode().len(), 4, "the one that is sent all the time");
        let mut long = all[0].encode();
        long.push(0);
        assert_eq!(Signal::decode(&long), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Signal::decode(&bytes);
        }
    }
}
