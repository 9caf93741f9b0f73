//! What a packet costs: each program alone, without the network stack.
//!
//! In each round all cases are run one after another, each from as many clients as a column says, and before each the
//! harness with a program that does nothing, which is subtracted. What becomes of packets is checked byte by byte: of
//! some before the first round, and of the last one of each run.

use announcer::forward::Mode;
use anyhow::{Context, Result, ensure};
use clap::Args;
use e2e::bench::{Book, Output, load};

use crate::{
    bed::{Bed, Behind},
    frame::{Family, Outcome, Segment, Shape},
    harness::{Harness, Hook, Packets, Ran, Target},
    record::{Record, Timed},
    sitting, table,
};

/// The columns: how many clients send.
pub(crate) const COLUMNS: [u32; 3] = [1, 1 << 16, 1 << 20];
/// Packets that are checked before anything is measured.
const CHECKED: u32 = 64;
/// TC's answers: the next program's turn, to the stack, and out by an interface.
const TC_NEXT: i32 = -1;
const TC_OK: i32 = 0;
const TC_REDIRECT: i32 = 7;
/// XDP's: to the stack, and back out.
const XDP_PASS: i32 = 2;
const XDP_TX: i32 = 3;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often everything is measured.
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// Packets of a run.
    #[arg(long, default_value_t = 1 << 20)]
    packets: u32,
    /// Only cases in whose names this is.
    #[arg(long, default_value = "")]
    only: String,
    #[command(flatten)]
    output: Output,
}

/// One line of the table.
struct Case {
    name: &'static str,
    hook: Hook,
    /// One of the harness's programs, in the place of the agent's.
    own: Option<&'static str>,
    /// Which of the beds.
    bed: usize,
    shape: Shape,
    outcome: Outcome,
    verdict: i32,
    /// As many clients as the flow table holds; the others are not measured.
    most: u32,
}

/// All beds with their cases.
struct Suite {
    beds: Vec<Bed>,
    cases: Vec<Case>,
}

impl Suite {
    fn build(mode: Mode) -> Result<Self> {
        let behind = [Behind::Others(3), Behind::Others(100), Behind::Pods(100), Behind::Pods(100)];
        let single = [Behind::Pods(1), Behind::Pods(1)];
        let beds = behind.into_iter().chain(single).map(|behind| Bed::new(mode, behind)).collect::<Result<Vec<_>>>()?;
        let mut suite = Self { beds, cases: Vec::new() };
        for (number, family) in Family::BOTH.into_iter().enumerate() {
            if mode == Mode::Xdp {
                suite.add_xdp(family, 2 + number);
            } else {
                suite.add_tc(family, 2 + number, 4 + number);
            }
        }
        suite.add_scale(mode);
        Ok(suite)
    }

    fn add_tc(&mut self, family: Family, local: usize, single: usize) {
        let to_vip = Bed::to_vip(family, Segment::Ack);
        for (bed, name) in [(0, "steered to one of 2 other nodes"), (1, "steered to one of 99 other nodes")] {
            self.add(name, Hook::TcIn, bed, to_vip, self.beds[bed].outcome(family), TC_REDIRECT);
        }
        self.add("to a pod here, known flow", Hook::TcIn, local, to_vip, self.beds[local].outcome(family), TC_NEXT);
        let replies = Bed::reply_outcome(family);
        self.add("a pod's reply, known flow", Hook::TcOut, single, Bed::from_pod(family), replies, TC_NEXT);
        self.add("no VIP, in", Hook::TcIn, 0, Bed::to_node(family), Outcome::Untouched, TC_NEXT);
        self.add("no VIP, out", Hook::TcOut, 0, Bed::from_node(family), Outcome::Untouched, TC_NEXT);
    }

    fn add_xdp(&mut self, family: Family, local: usize) {
        let to_vip = Bed::to_vip(family, Segment::Ack);
        for (bed, name) in [(0, "steered to one of 2 other nodes"), (1, "steered to one of 99 other nodes")] {
            self.add(name, Hook::Xdp, bed, to_vip, self.beds[bed].outcome(family), XDP_TX);
        }
        self.add("to a pod here: left to TC", Hook::Xdp, local, to_vip, Outcome::Untouched, XDP_PASS);
        self.add("no VIP, in", Hook::Xdp, 0, Bed::to_node(family), Outcome::Untouched, XDP_PASS);
    }

    fn add(&mut self, name: &'static str, hook: Hook, bed: usize, shape: Shape, outcome: Outcome, verdict: i32) {
        let most = COLUMNS[COLUMNS.len() - 1];
        self.cases.push(Case { name, hook, own: None, bed, shape, outcome, verdict, most });
    }

    /// The harness's own programs, which tell of the machine.
    fn add_scale(&mut self, mode: Mode) {
        let scale: &[_] = match mode {
            Mode::Xdp => &[("*the least: hash, array, MAC rewrite*", Hook::Xdp, "least_xdp", XDP_TX)],
            _ => &[
                ("*the least: hash, array, MAC rewrite*", Hook::TcIn, "least_tc", TC_REDIRECT),
                ("*a read of 20 bytes by a helper*", Hook::TcIn, "load_tc", TC_OK),
                ("*a lookup in a hash map*", Hook::TcIn, "lookup_tc", TC_OK),
            ],
        };
        for (name, hook, own, verdict) in scale {
            self.add(name, *hook, 0, Bed::to_vip(Family::V4, Segment::Ack), Outcome::Any, *verdict);
            if let Some(case) = self.cases.last_mut() {
                case.own = Some(own);
            }
        }
    }

    /// Makes flows known where the case's name says so, as many as the table holds.
    fn warm(&mut self, harness: &mut Harness) -> Result<()> {
        for case in self.cases.iter_mut().filter(|case| case.name.ends_with("known flow")) {
            case.most = warm(harness, &self.beds[case.bed], case.shape.family())?;
            eprintln!("  {}, {}: {} flows are held", case.name, case.shape.family(), case.most);
        }
        Ok(())
    }
}

/// Begins connections from as many clients as the bed remembers; how many.
fn warm(harness: &mut Harness, bed: &Bed, family: Family) -> Result<u32> {
    let (syn, ack) = (Bed::to_vip(family, Segment::Syn), Bed::to_vip(family, Segment::Ack));
    let mut flows = COLUMNS[COLUMNS.len() - 1];
    loop {
        let mut pass = |shape: &Shape| -> Result<u64> {
            let before = bed.begun()?;
            let packets = Packets { shape, flows, first: 0, count: flows };
            bed.run(harness, Hook::TcIn, bed.program(Hook::TcIn)?, packets)?;
            Ok(bed.begun()? - before)
        };
        for shape in [&syn, &ack] {
            pass(shape)?;
        }
        // A connection that is known does not begin anew.
        let missed = pass(&syn)?;
        pass(&ack)?;
        if missed <= u64::from(flows / 1000) {
            return Ok(flows);
        }
        flows /= 2;
        ensure!(flows > 1, "no flow is remembered");
    }
}

impl Case {
    /// That a packet came to what it should.
    fn check(&self, ran: &Ran) -> Result<()> {
        ensure!(ran.verdict == self.verdict, "the program says {}, not {}", ran.verdict, self.verdict);
        self.outcome.check(&self.shape.bytes(ran.flow), &ran.frame)
    }

    fn run(&self, harness: &mut Harness, bed: &Bed, packets: Packets<'_>) -> Result<Ran> {
        let target = match self.own {
            Some(name) => Target::Own(name),
            None => bed.program(self.hook)?,
        };
        let ran = bed.run(harness, self.hook, target, packets)?;
        self.check(&ran).with_context(|| self.describe())?;
        Ok(ran)
    }

    fn describe(&self) -> String {
        format!("{}, {}, {}", self.name, self.hook.name(), self.shape.family())
    }

    /// Some packets, looked at one by one; those of the harness itself too.
    fn check_some(&self, harness: &mut Harness, bed: &Bed) -> Result<()> {
        for first in 0..CHECKED {
            let packets = Packets { shape: &self.shape, flows: 1, first, count: 1 };
            self.run(harness, bed, packets)?;
            let ran = bed.run(harness, self.hook, Target::Nothing, packets)?;
            Outcome::Untouched.check(&self.shape.bytes(ran.flow), &ran.frame).context("the harness")?;
        }
        Ok(())
    }

    fn measure(&self, harness: &mut Harness, bed: &Bed, column: u32, packets: u32) -> Result<Timed> {
        let flows = column.min(self.most);
        let packets = Packets { shape: &self.shape, flows, first: 0, count: packets.max(flows) };
        let own = bed.run(harness, self.hook, Target::Nothing, packets)?;
        let ran = self.run(harness, bed, packets)?;
        Ok(self.timed(column, &packets, &ran, &own))
    }

    fn timed(&self, column: u32, packets: &Packets<'_>, ran: &Ran, own: &Ran) -> Timed {
        Timed {
            case: self.name.to_owned(),
            hook: self.hook,
            family: self.shape.family(),
            column,
            flows: packets.flows,
            packets: packets.count,
            nanos: ran.nanos - own.nanos,
            harness: own.nanos,
        }
    }
}

/// New connections, each from another client: in a flow table that is empty, then in the same when it is full.
fn begin_connections(harness: &mut Harness, family: Family, book: &mut Book<Record>) -> Result<()> {
    let bed = Bed::new(Mode::Tc, Behind::Pods(100))?;
    let shape = Bed::to_vip(family, Segment::Syn);
    let case = Case {
        name: NEW,
        hook: Hook::TcIn,
        own: None,
        bed: 0,
        shape,
        outcome: bed.outcome(family),
        verdict: TC_NEXT,
        most: COLUMNS[COLUMNS.len() - 1],
    };
    let mut first = 0;
    for column in &COLUMNS[1..] {
        let packets = Packets { shape: &shape, flows: *column, first, count: *column };
        let own = bed.run(harness, case.hook, Target::Nothing, packets)?;
        let before = bed.begun()?;
        let ran = case.run(harness, &bed, packets)?;
        let begun = bed.begun()? - before;
        ensure!(begun == u64::from(*column), "of {column} connections {begun} were new");
        book.write(Record::Packets(case.timed(*column, &packets, &ran, &own)))?;
        first += column;
    }
    Ok(())
}

const NEW: &str = "to a pod here, new flow (SYN)";

pub(crate) fn run(options: &Options) -> Result<()> {
    let text = format!("--rounds {} --packets {}", options.rounds, options.packets);
    let mut book = Book::open(&options.output, "forward/packets")?;
    book.write(sitting(&format!("packets {text}")))?;
    let mut harness = Harness::load()?;
    let mut suites = vec![Suite::build(Mode::Tc)?];
    match Suite::build(Mode::Xdp) {
        Ok(suite) => suites.push(suite),
        Err(error) => eprintln!("XDP is left out: {error:#}"),
    }
    for suite in &mut suites {
        suite.cases.retain(|case| case.name.contains(&options.only));
        suite.warm(&mut harness)?;
        for case in &suite.cases {
            case.check_some(&mut harness, &suite.beds[case.bed])?;
        }
    }
    for round in 1..=options.rounds {
        for suite in &suites {
            for case in &suite.cases {
                for column in COLUMNS {
                    let timed = case.measure(&mut harness, &suite.beds[case.bed], column, options.packets)?;
                    book.write(Record::Packets(timed))?;
                }
            }
        }
        if NEW.contains(&options.only) {
            for family in Family::BOTH {
                begin_connections(&mut harness, family, &mut book)?;
            }
        }
        eprintln!("  round {round} of {}; {}", options.rounds, load());
    }
    println!("{}", table::all(&book.records));
    Ok(())
}
