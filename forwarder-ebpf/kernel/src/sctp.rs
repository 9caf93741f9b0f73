//! What SCTP's packets say of an association, in TCP's terms. And what is said to who asks for an SCTP port that a VIP does not have
//! (RFC 9260, 8.4): an abort, as [`crate::refuse`] says it for TCP and UDP. It is as short as a packet can be, so that its checksum
//! is made in passing.

use aya_ebpf::{bindings::BPF_F_RECOMPUTE_CSUM, programs::TcContext};

use crate::{
    assembly,
    parse::{ETHERNET, Frame, Packet, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN},
    refuse::{HOPS, change_tail, ip_length, set_length},
    rewrite::{self, Refused},
};

/// Types of chunks (RFC 9260, 3.2).
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN_COMPLETE: u8 = 14;

/// Ports, tag and checksum, and a chunk with nothing in it.
const LENGTH: u32 = 12 + 4;
/// "The tag is the one you sent."
const REFLECTED: u8 = 1;
/// The polynomial of CRC32c, its bits in reverse.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// What a packet says whose first chunk is of this type.
#[inline(always)]
pub fn flags(chunk: u8) -> u8 {
    match chunk {
        INIT => TCP_SYN,
        INIT_ACK => TCP_SYN | TCP_ACK,
        ABORT => TCP_RST,
        SHUTDOWN_COMPLETE => TCP_RST | TCP_FIN,
        _ => TCP_ACK,
    }
}

/// Makes an SCTP packet the abort that answers it.
#[inline(always)]
pub fn abort(ctx: &TcContext, frame: &Frame, packet: &Packet) -> Result<(), Refused> {
    let at = packet.transport;
    let [a, b, c, d, t, u, v, w, .., chunk, _, _, _]: [u8; LENGTH as usize] = ctx.load(at as usize)?;
    // Who opens an association names the tag by which it wants to be answered.
    let (tag, reflected) =
        if chunk == INIT { (ctx.load((at + LENGTH) as usize)?, 0) } else { ([t, u, v, w], REFLECTED) };
    let [t, u, v, w]: [u8; 4] = tag;
    let ip_length = ip_length(ctx, packet)?;
    let mut answer = [c, d, a, b, t, u, v, w, 0, 0, 0, 0, ABORT, reflected, 0, 4];
    let [e, f, g, h] = crc32c(&answer).to_le_bytes();
    [answer[8], answer[9], answer[10], answer[11]] = [e, f, g, h];
    change_tail(ctx, at + LENGTH)?;
    set_length(ctx, packet, ip_length, at - ETHERNET + LENGTH)?;
    ctx.store(at as usize, &answer, BPF_F_RECOMPUTE_CSUM as u64)?;
    rewrite::turn_back(ctx, packet, frame, HOPS)
}

#[inline(always)]
fn crc32c(bytes: &[u8; LENGTH as usize]) -> u32 {
    let mut crc = u32::MAX;
    for word in bytes.as_chunks::<4>().0 {
        crc ^= u32::from_le_bytes(*word);
        let mut turn = 0;
        while turn < u32::BITS {
            crc = (crc >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(crc & 1));
            turn = assembly::once_more(turn);
        }
    }
    !crc
}
