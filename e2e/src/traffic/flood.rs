//! Datagrams that nobody answers, many of them.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::udp_to;

/// Sends one datagram again and again, from the calling thread's namespace, in bursts a millisecond apart. How many
/// were sent.
///
/// # Errors
/// When there is no way to `target`.
pub fn flood(target: SocketAddr, datagram: &[u8], per_second: u32, time: Duration) -> Result<u32> {
    let socket = udp_to(target)?;
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < time {
        let due = (start.elapsed().as_secs_f64() * f64::from(per_second)) as u32;
        let burst = due.saturating_sub(sent);
        // What a full queue refuses is not sent.
        sent += (0..burst).map(|_| u32::from(socket.send(datagram).is_ok())).sum::<u32>();
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(sent)
}
