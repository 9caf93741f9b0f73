//! Frames that are really sent: from one end of a veth pair to the XDP program at the other, which sends them back.
//!
//! Neither end makes socket buffers of them, so this is the way of a packet through a network card's driver, less the
//! card. The kernel sends by `BPF_PROG_TEST_RUN` with live frames, all on one CPU.

use announcer::forward::Mode;
use anyhow::{Context, Result, ensure};
use clap::Args;
use e2e::{
    bench::{Book, Output, load},
    netns::Netns,
};

use crate::{
    bed::{self, Bed, Behind, PEER, UPLINK},
    frame::{Family, Segment},
    harness::{Harness, Packets, Returned},
    packets::COLUMNS,
    record::{Live, Record},
    sitting, table,
};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often everything is measured.
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// Frames of a run.
    #[arg(long, default_value_t = 2_000_000)]
    frames: u32,
    #[command(flatten)]
    output: Output,
}

/// Who sends back.
enum Reflector {
    /// One of the harness's programs.
    Own(&'static str, Netns),
    /// The agent's.
    Crier(Box<Bed>),
}

struct Contender {
    name: &'static str,
    family: Family,
    reflector: Reflector,
}

fn contenders() -> Result<Vec<Contender>> {
    let own = [("sent back as it is", "reflect"), ("the least: hash, array, MAC rewrite", "least_xdp")];
    let mut all = Vec::new();
    for (name, program) in own {
        let reflector = Reflector::Own(program, bed::namespace()?);
        all.push(Contender { name, family: Family::V4, reflector });
    }
    for family in Family::BOTH {
        match Bed::new(Mode::Xdp, Behind::Others(100)) {
            Ok(bed) => {
                let name = "Crier, steered to one of 99 other nodes";
                all.push(Contender { name, family, reflector: Reflector::Crier(Box::new(bed)) });
            }
            Err(error) => eprintln!("Crier's XDP program is left out: {error:#}"),
        }
    }
    Ok(all)
}

impl Contender {
    fn ns(&self) -> &Netns {
        match &self.reflector {
            Reflector::Own(_, ns) => ns,
            Reflector::Crier(bed) => &bed.ns,
        }
    }

    fn send(&self, harness: &mut Harness, flows: u32, count: u32) -> Result<Returned> {
        let shape = Bed::to_vip(self.family, Segment::Ack);
        self.ns().run(|| {
            bed::stay_on_one_cpu()?;
            let _counts = harness.attach("count", PEER)?;
            let _reflects = match &self.reflector {
                Reflector::Own(program, _) => Some(harness.attach(program, UPLINK)?),
                Reflector::Crier(_) => None,
            };
            let peer = nix::net::if_::if_nametoindex(PEER)?;
            harness.send(peer, Packets { shape: &shape, flows, first: 0, count })
        })
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut book = Book::open(&options.output, "forward/live")?;
    book.write(sitting(&format!("live --rounds {} --frames {}", options.rounds, options.frames)))?;
    let mut harness = Harness::load()?;
    let contenders = contenders()?;
    for round in 1..=options.rounds {
        for contender in &contenders {
            for flows in COLUMNS {
                let returned = contender.send(&mut harness, flows, options.frames);
                let returned = returned.with_context(|| format!("{}, {}", contender.name, contender.family))?;
                ensure!(returned.frames > 0, "{}: no frame came back", contender.name);
                book.write(Record::Live(Live {
                    contender: contender.name.to_owned(),
                    family: contender.family,
                    flows,
                    sent: options.frames,
                    returned: returned.frames,
                    seconds: returned.time.as_secs_f64(),
                }))?;
            }
        }
        eprintln!("  round {round} of {}; {}", options.rounds, load());
    }
    println!("{}", table::all(&book.records));
    Ok(())
}
