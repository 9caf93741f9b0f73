//! What a change costs the agent: one pod more behind one of many services.
//!
//! Each size has a process of its own, so that its memory is its own. There the agent's tables plan the change, and its
//! forwarder carries it out in real maps.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd, AsRawFd},
    process::Command,
    time::Instant,
};

use announcer::{
    forward::{Mode, Wanted, tables::Tables, wanted::Socket},
    model::{Protocol, ServiceName},
};
use anyhow::{Context, Result, ensure};
use clap::Args;
use e2e::bench::{Book, Output, load};

use crate::{
    bed::{self, Bed, Behind},
    record::{Record, Update},
    sitting, table,
};

/// Services.
const SIZES: [u32; 3] = [10, 1_000, 10_000];
/// Of these, how many have a pod on this node, as many as a node may have pods: the others' are all on other nodes.
const LOCAL: u32 = 100;
/// Changes whose cost is measured, each of another service.
const CHANGES: u32 = 10;
const PORT: u16 = 80;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often everything is measured.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Measure once with so many services, and print the record.
    #[arg(long)]
    services: Option<u32>,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(services) = options.services {
        println!("{}", serde_json::to_string(&measure(services)?)?);
        return Ok(());
    }
    let mut book = Book::open(&options.output, "forward/update")?;
    book.write(sitting(&format!("update --rounds {}", options.rounds)))?;
    for round in 1..=options.rounds {
        for services in SIZES {
            let output = Command::new(std::env::current_exe()?)
                .args(["update", "--services", &services.to_string()])
                .output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            book.write(Record::Update(serde_json::from_slice(&output.stdout)?))?;
        }
        eprintln!("  round {round} of {}; {}", options.rounds, load());
    }
    println!("{}", table::all(&book.records));
    Ok(())
}

fn measure(services: u32) -> Result<Update> {
    let mut bed = Bed::new(Mode::Tc, Behind::Pods(1))?;
    let mut wanted = all_services(&bed.wanted, services)?;
    let (plan_micros, _) = change_each(&mut wanted.clone(), services, {
        let mut tables = Tables::default();
        move |wanted| {
            let plan = tables.plan(wanted, Instant::now());
            ensure!(plan.limits.is_empty(), "not all fits: {:?}", plan.limits);
            Ok(plan.writes.len())
        }
    })?;
    let before = resident()?;
    let start = Instant::now();
    let first_writes = bed.apply(&wanted)?;
    let first_seconds = start.elapsed().as_secs_f64();
    let resident_bytes = resident()?.saturating_sub(before);
    let (apply_micros, writes) = change_each(&mut wanted, services, |wanted| bed.apply(wanted))?;
    let map_bytes = bed.maps()?.into_iter().map(|(_, bytes)| bytes).sum();
    Ok(Update { services, first_writes, first_seconds, plan_micros, apply_micros, writes, resident_bytes, map_bytes })
}

/// Does what is given for all services, then for some of them, one after another, with one pod more; microseconds and
/// writes for each of the latter.
fn change_each(
    wanted: &mut Wanted,
    services: u32,
    mut carry_out: impl FnMut(&Wanted) -> Result<usize>,
) -> Result<(Vec<f64>, Vec<usize>)> {
    carry_out(wanted)?;
    let (mut micros, mut writes) = (Vec::new(), Vec::new());
    for change in 0..CHANGES {
        let number = services / CHANGES * change;
        ensure!(is_local(number, services), "service {number} has no pod here");
        let targets = wanted.services.get_mut(&socket(number)).context("no such service")?;
        targets.local.insert(pod(number, 1), 1);
        *targets.nodes.entry("n0".parse()?).or_default() += 1;
        let start = Instant::now();
        writes.push(carry_out(wanted)?);
        micros.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok((micros, writes))
}

/// Whether a service has a pod on this node: evenly spread over all.
fn is_local(number: u32, services: u32) -> bool {
    number.is_multiple_of((services / LOCAL).max(1))
}

/// Many services instead of one, each with a pod on each of three nodes.
fn all_services(bed: &Wanted, services: u32) -> Result<Wanted> {
    let mut wanted = bed.clone();
    wanted.services.clear();
    wanted.vips.clear();
    let me = wanted.nodes.values().next().context("no node")?.clone();
    let mut names = Vec::new();
    for number in 0..4_u16 {
        let mut node = me.clone();
        node.me = number == 0;
        node.macs.values_mut().for_each(|mac| *mac = bed::mac_of(number));
        let name: membership::NodeName = format!("n{number}").parse()?;
        names.push(name.clone());
        wanted.nodes.insert(name, node);
    }
    for number in 0..services {
        let service = ServiceName { namespace: "default".to_owned(), name: format!("s{number}") };
        let local = is_local(number, services);
        let serving = if local { &names[..3] } else { &names[1..] };
        let nodes = serving.iter().map(|name| (name.clone(), 1)).collect();
        let targets = bed::targets(service, nodes, if local { [pod(number, 0)].into() } else { [].into() });
        let socket = socket(number);
        wanted.vips.insert(socket.vip);
        wanted.services.insert(socket, targets);
    }
    Ok(wanted)
}

fn socket(number: u32) -> Socket {
    let vip = IpAddr::V4(Ipv4Addr::from_bits(0x0a50_0000 + number));
    Socket { vip, port: PORT, protocol: Protocol::Tcp }
}

fn pod(service: u32, number: u32) -> (IpAddr, u16) {
    (IpAddr::V4(Ipv4Addr::from_bits(0x0a60_0000 + service * 2 + number)), 8080)
}

/// Bytes of memory that this process has.
fn resident() -> Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split_whitespace().nth(1).context("/proc/self/statm")?.parse()?;
    Ok(pages * 4096)
}

/// Bytes of memory that the kernel says a map takes.
pub(crate) fn map_bytes(map: &impl AsFd) -> Result<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd()))?;
    let memory = info.lines().find_map(|line| line.strip_prefix("memlock:")).context("fdinfo without memlock")?;
    Ok(memory.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_services_that_change_are_others_each_and_have_a_pod_here() {
        for services in SIZES {
            let changed: Vec<_> = (0..CHANGES).map(|change| services / CHANGES * change).collect();
            assert!(changed.iter().all(|number| *number < services && is_local(*number, services)), "{changed:?}");
            assert!(changed.windows(2).all(|pair| pair[0] < pair[1]), "{changed:?}");
            assert!((0..services).filter(|number| is_local(*number, services)).count() <= LOCAL as usize);
        }
    }
}
