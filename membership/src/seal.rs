//! Sealing: authenticated encryption of datagrams under the cluster's keys.
//!
//! The cipher is XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha), whose nonce of 24 bytes is long enough to be drawn
//! at random for every datagram by every node without coordination. A [`KeyRing`] holds several keys so that a key
//! is exchanged without an outage: add the new key last on every node, then move it first, then drop the old one.
//! Nonces are arguments: what seals has no randomness of its own.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chacha20poly1305::{AeadInPlace as _, KeyInit as _, Tag, XChaCha20Poly1305, XNonce};

/// Bytes of a nonce.
pub const NONCE_LEN: usize = 24;
/// Bytes of the authentication tag.
pub(crate) const TAG_LEN: usize = 16;
/// Bytes of a key.
const KEY_LEN: usize = 32;
/// A datagram under a foreign key costs one attempt per key, so their number is bounded.
const MAX_KEYS: usize = 8;

/// The cluster's keys: the first seals, all open.
#[derive(Clone)]
pub struct KeyRing {
    keys: Vec<XChaCha20Poly1305>,
}

/// Why a key file's text is not a key ring.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No key in it at all.
    #[error("no key: give one base64 key of 32 bytes a line, as `head -c 32 /dev/urandom | base64` makes")]
    Empty,
    /// A line that is not base64.
    #[error(
        "line {line}: not base64: a key is 32 bytes in standard base64, as `head -c 32 /dev/urandom | base64` makes"
    )]
    NotBase64 {
        /// Counted from 1.
        line: usize,
    },
    /// A key of another length.
    #[error("line {line}: the key has {bytes} bytes, it must have 32")]
    WrongLength {
        /// Counted from 1.
        line: usize,
        /// How many bytes it has.
        bytes: usize,
    },
    /// More keys than are tried for each datagram.
    #[error("line {line}: too many keys, at most 8 are accepted: drop those that no node seals with")]
    TooMany {
        /// Counted from 1.
        line: usize,
    },
}

/// A new key, as a line of a key file.
#[must_use]
pub fn new_key() -> String {
    STANDARD.encode(rand::random::<[u8; KEY_LEN]>())
}

impl KeyRing {
    /// Reads a key file: one base64 key of 32 bytes a line; blank lines and lines that start with `#` are skipped.
    ///
    /// # Errors
    /// Names the line at fault; an empty ring is an error, too.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        for (index, content) in text.lines().enumerate() {
            let line = index + 1;
            let content = content.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let bytes = STANDARD.decode(content).map_err(|_| KeyError::NotBase64 { line })?;
            let key = <[u8; KEY_LEN]>::try_from(bytes.as_slice())
                .map_err(|_| KeyError::WrongLength { line, bytes: bytes.len() })?;
            if keys.len() == MAX_KEYS {
                return Err(KeyError::TooMany { line });
            }
            keys.push(XChaCha20Poly1305::new(&key.into()));
        }
        if keys.is_empty() { Err(KeyError::Empty) } else { Ok(Self { keys }) }
    }

    /// Appends to `out`, which is the clear header, the nonce, `payload` sealed, and the tag over both.
    pub(crate) fn seal(&self, nonce: [u8; NONCE_LEN], out: &mut Vec<u8>, payload: &[u8]) {
        let header_len = out.len();
        out.extend_from_slice(&nonce);
        let start = out.len();
        out.extend_from_slice(payload);
        let (clear, sealed) = out.split_at_mut(start);
        // A ring is never empty, and only a payload of 256 GiB is too long for the cipher.
        let Some(Ok(tag)) = self
            .keys
            .first()
            .map(|key| key.encrypt_in_place_detached(XNonce::from_slice(&nonce), &clear[..header_len], sealed))
        else {
            out.clear();
            return;
        };
        out.extend_from_slice(&tag);
    }

    /// Opens `sealed` (nonce, ciphertext, tag), authenticated together with `header`; `None` if no key fits.
    pub(crate) fn open(&self, header: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_at_checked(NONCE_LEN)?;
        let (ciphertext, tag) = rest.split_at_checked(rest.len().checked_sub(TAG_LEN)?)?;
        self.keys.iter().find_map(|key| {
            let mut payload = ciphertext.to_vec();
            key.decrypt_in_place_detached(XNonce::from_slice(nonce), header, &mut payload, Tag::from_slice(tag))
                .ok()?;
            Some(payload)
        })
    }
}

/// Where nonces come from. At the edge this is the system's generator: one of this process's own would repeat itself when
/// a snapshot of its machine is started twice, and two datagrams under one key and nonce are as good as open.
pub struct Nonces(Box<dyn FnMut() -> [u8; NONCE_LEN] + Send>);

impl Nonces {
    /// Nonces drawn by `draw`, which must not repeat itself.
    pub fn new(draw: impl FnMut() -> [u8; NONCE_LEN] + Send + 'static) -> Self {
        Self(Box::new(draw))
    }

    /// Nonces from a seeded generator, for simulations.
    #[cfg(test)]
    pub(crate) fn seeded(mut rng: rand::rngs::StdRng) -> Self {
        Self::new(move || {
            let mut nonce = [0; NONCE_LEN];
            rand::Rng::fill_bytes(&mut rng, &mut nonce);
            nonce
        })
    }

    pub(crate) fn next(&mut self) -> [u8; NONCE_LEN] {
        (self.0)()
    }
}

impl fmt::Debug for Nonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonces")
    }
}

impl fmt::Debug for KeyRing {
    /// Keys do not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({} keys)", self.keys.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const B: &str = "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=";

    fn sealed(ring: &KeyRing) -> Vec<u8> {
        let mut out = b"head".to_vec();
        ring.seal([7; NONCE_LEN], &mut out, b"payload");
        out
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let old = KeyRing::parse(A).unwrap();
        let both = KeyRing::parse(&format!("# new first\n\n{B}\n  {A}\n")).unwrap();
        let new = KeyRing::parse(B).unwrap();
        let from_old = sealed(&old);
        let from_both = sealed(&both);
        assert_eq!(both.open(b"head", &from_old[4..]).unwrap(), b"payload");
        assert_eq!(new.open(b"head", &from_both[4..]).unwrap(), b"payload");
        assert_eq!(old.open(b"head", &from_both[4..]), None);
    }

    #[test]
    fn a_changed_bit_anywhere_does_not_open() {
        let ring = KeyRing::parse(A).unwrap();
        let datagram = sealed(&ring);
        for bit in 0..datagram.len() * 8 {
            let mut bad = datagram.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(ring.open(&bad[..4], &bad[4..]), None, "bit {bit}");
        }
        for len in 4..datagram.len() {
            assert_eq!(ring.open(b"head", &datagram[4..len]), None);
        }
    }

    #[test]
    fn errors_name_the_line() {
        let error = |text: &str| KeyRing::parse(text).unwrap_err();
        assert_eq!(error("# nothing\n\n"), KeyError::Empty);
        assert_eq!(error(&format!("{A}\n???\n")), KeyError::NotBase64 { line: 2 });
        assert_eq!(error("# key\nAAAA\n"), KeyError::WrongLength { line: 2, bytes: 3 });
        assert_eq!(error(&format!("{A}\n").repeat(9)), KeyError::TooMany { line: 9 });
    }
}
