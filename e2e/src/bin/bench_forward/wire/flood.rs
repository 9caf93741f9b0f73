//! What a flood of one VIP costs the clients of another, beside what any traffic of that rate costs them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{JoinHandle, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use e2e::{
    bench::{Book, Output, load},
    scenario::{DNS, WEB},
    topology::{Host, Mac},
};

use super::{
    blast::{BATCH, LENGTH, UDP, ip_frame, open, send},
    connections::{self, Server},
    side::{ANYWHERE, Contender, FLOODED, Side, sunk},
};
use crate::{
    bed::stay_on,
    plan::Plan,
    record::{Flooded, Record},
    sitting, table,
};

const TCP_PROTOCOL: u8 = 6;
const UDP_PROTOCOL: u8 = 17;
/// The pause before the first look, in which tables fill.
const WARM: Duration = Duration::from_millis(300);

/// So many connections may hang before a measurement is given up.
const HUNG: u32 = 3;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often everything is measured.
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Packets of the flood a second.
    #[arg(long, default_value_t = 40_000)]
    rate: u32,
    /// Only contenders in whose names this is.
    #[arg(long, default_value = "")]
    only: String,
    #[command(flatten)]
    output: Output,
}

/// What comes to the flooded VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nothing,
    /// From one port.
    Datagrams,
    /// Opening packets, each from another client.
    Syns,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Nothing, Self::Datagrams, Self::Syns];

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Datagrams => "datagrams of one flow",
            Self::Syns => "SYNs from everywhere",
        }
    }
}

/// A flood, until it is dropped.
struct Flood {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Result<()>>>>,
}

impl Flood {
    fn start(kind: Kind, from: &Host, through: Mac, rate: u32) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let frames = (0..BATCH).map(|_| frame(kind, from, through)).collect::<Vec<_>>();
        let over = Arc::clone(&stop);
        let thread = from.ns.thread("flood", move || flood(kind, frames, rate, &over))?;
        Ok(Self { stop, thread: Some(thread) })
    }

    fn end(mut self) -> Result<()> {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| anyhow!("the flood's thread panicked"))???;
        }
        Ok(())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

/// A frame to the flooded VIP.
fn frame(kind: Kind, from: &Host, through: Mac) -> [u8; LENGTH] {
    let protocol = if kind == Kind::Syns { TCP_PROTOCOL } else { UDP_PROTOCOL };
    let mut frame = ip_frame(from, through, FLOODED, protocol);
    let segment = &mut frame[UDP..];
    segment[..2].copy_from_slice(&40_000_u16.to_be_bytes());
    if kind == Kind::Syns {
        segment[2..4].copy_from_slice(&WEB.to_be_bytes());
        (segment[12], segment[13]) = (0x50, 2);
    } else {
        segment[2..4].copy_from_slice(&DNS.to_be_bytes());
        segment[4..6].copy_from_slice(&26_u16.to_be_bytes());
    }
    frame
}

/// Makes it another client's.
fn disguise(frame: &mut [u8; LENGTH], number: u32) {
    let hash = number.wrapping_mul(0x9e37_79b1);
    let [a, b, c, d] = hash.to_be_bytes();
    frame[26..30].copy_from_slice(&[ANYWHERE[0], ANYWHERE[1] + (a & 1), b, c]);
    frame[UDP..UDP + 2].copy_from_slice(&(1024 + u16::from_be_bytes([d, a]) / 2).to_be_bytes());
    frame[24..26].fill(0);
    let sum = Plan::checksum(words(&frame[14..UDP]));
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame[UDP + 16..UDP + 18].fill(0);
    let covered = words(&frame[26..]) + u32::from(TCP_PROTOCOL) + (LENGTH - UDP) as u32;
    frame[UDP + 16..UDP + 18].copy_from_slice(&Plan::checksum(covered).to_be_bytes());
}

fn words(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum()
}

/// Sends at an even pace, or as fast as it can if that is less.
fn flood(kind: Kind, mut frames: Vec<[u8; LENGTH]>, rate: u32, over: &AtomicBool) -> Result<()> {
    stay_on(0)?;
    let socket = open("eth0")?;
    let (start, mut number) = (Instant::now(), 0_u32);
    while !over.load(Relaxed) {
        let due = start + Duration::from_secs_f64(f64::from(number) / f64::from(rate));
        sleep(due.saturating_duration_since(Instant::now()));
        for frame in &mut frames {
            if kind == Kind::Syns {
                disguise(frame, number);
            }
            number = number.wrapping_add(1);
        }
        send(&socket, &frames)?;
    }
    Ok(())
}

/// One contender's clients, beside one kind of flood.
fn measure(side: &mut Side, contender: Contender, kind: Kind, options: &Options) -> Result<Flooded> {
    side.put(contender)?;
    let servers = side.servers().map(|host| Server::start(&host.ns)).collect::<Result<Vec<_>>>()?;
    let (client, target) = (side.client(), side.target(contender));
    connections::one(&client.ns, target.tcp[0]).context("one connection")?;
    let flood = (kind != Kind::Nothing).then(|| Flood::start(kind, client, side.balancer().mac, options.rate));
    let flood = flood.transpose()?;
    sleep(WARM);
    let before = side.servers().map(sunk).sum::<Result<u64>>()?;
    let begun = Instant::now();
    let (connections, failed) = connections::many_that_may_fail(&client.ns, &target.tcp, options.seconds)?;
    let (trips, hung) = trips(client, target.tcp[0])?;
    let failed = failed + hung;
    let came = side.servers().map(sunk).sum::<Result<u64>>()? - before;
    let kilo_packets = came as f64 / begun.elapsed().as_secs_f64() / 1e3;
    flood.map_or(Ok(()), Flood::end)?;
    drop(servers);
    let (contender, flood) = (contender.name().to_owned(), kind.name().to_owned());
    Ok(Flooded { contender, flood, kilo_packets, connections, failed, trips })
}

/// The median and the 99th percentile of round trips, in microseconds; and how many connections for them hung before one did not.
fn trips(client: &Host, target: SocketAddr) -> Result<([f64; 2], u32)> {
    let mut hung = 0;
    let mut trips = loop {
        match connections::round_trips(&client.ns, target) {
            Ok(trips) => break trips,
            Err(error) if hung == HUNG => return Err(error).context("round trips"),
            Err(_) => hung += 1,
        }
    };
    trips.sort_by(f64::total_cmp);
    let at = |part: f64| trips.get((trips.len() as f64 * part) as usize).copied().context("no round trips");
    Ok(([at(0.5)?, at(0.99)?], hung))
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut book = Book::open(&options.output, "forward/flood")?;
    let Options { rounds, seconds, rate, .. } = options;
    book.write(sitting(&format!("flood --rounds {rounds} --seconds {seconds} --rate {rate}")))?;
    let mut sides = Side::all(&options.only)?;
    for round in 1..=options.rounds {
        for side in &mut sides {
            let here = side.contenders(&options.only);
            for contender in here.into_iter().filter(|contender| contender.balances()) {
                for kind in Kind::ALL {
                    let flooded = measure(side, contender, kind, options);
                    let flooded = flooded.with_context(|| format!("{}, {}", contender.name(), kind.name()))?;
                    book.write(Record::Flooded(flooded))?;
                }
            }
        }
        eprintln!("  round {round} of {}; {}", options.rounds, load());
    }
    println!("{}", table::all(&book.records));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syn_of_anybodys_has_checksums_that_another_parser_finds_right() {
        use pnet_packet::{ipv4, tcp};

        let mut frame = [0; LENGTH];
        frame[14..34].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 6, 0, 0, 0, 0, 0, 0, 10, 77, 0, 101]);
        (frame[UDP + 12], frame[UDP + 13]) = (0x50, 2);
        for number in [0, 1, 77, 65_537] {
            disguise(&mut frame, number);
            let packet = ipv4::Ipv4Packet::new(&frame[14..]).expect("a packet");
            assert_eq!(packet.get_checksum(), ipv4::checksum(&packet));
            let segment = tcp::TcpPacket::new(&frame[UDP..]).expect("a segment");
            let right = tcp::ipv4_checksum(&segment, &packet.get_source(), &packet.get_destination());
            assert_eq!(segment.get_checksum(), right);
        }
    }
}
