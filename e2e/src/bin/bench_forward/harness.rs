//! Runs programs that are loaded, by `BPF_PROG_TEST_RUN` of the harness program (`e2e/ebpf`), which gives them one packet
//! after another.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    maps::{Array, Map, MapData, PerCpuArray, ProgramArray},
    programs::{ProgramFd, SchedClassifier, TestRun, TestRunAttrs, TestRunOptions, Xdp, XdpMode, xdp::XdpLink},
};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::{frame::Shape, plan::Plan};

/// The built object; `hack/build-ebpf` makes it from `e2e/ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/obj/harness.o");

/// Room for what a run leaves of its last packet.
const ROOM: usize = 256;
/// Frames that are sent at once, as a network card's driver takes them.
const BATCH: u32 = 64;

/// Which kind of program, and from where packets come to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Hook {
    /// TC, from the wire.
    TcIn,
    /// TC, to the wire.
    TcOut,
    /// XDP.
    Xdp,
}

impl Hook {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TcIn => "TC ingress",
            Self::TcOut => "TC egress",
            Self::Xdp => "XDP",
        }
    }
}

/// The packets of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packets<'a> {
    /// What they look like.
    pub(crate) shape: &'a Shape,
    /// From how many clients; a power of two.
    pub(crate) flows: u32,
    /// The first of them.
    pub(crate) first: u32,
    /// How many packets.
    pub(crate) count: u32,
}

/// What is run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target<'a> {
    /// What does nothing.
    Nothing,
    /// One of the harness's own programs.
    Own(&'static str),
    /// A program of others.
    Program(&'a ProgramFd),
}

/// What a run gave.
#[derive(Debug)]
pub(crate) struct Ran {
    /// What the program said of the last packet.
    pub(crate) verdict: i32,
    /// Nanoseconds of the processor a packet, on average, the harness's own part included.
    pub(crate) nanos: f64,
    /// The flow of the last packet.
    pub(crate) flow: u32,
    /// The last packet.
    pub(crate) frame: Vec<u8>,
}

pub(crate) struct Harness {
    ebpf: Ebpf,
    plan: Array<MapData, Plan>,
    tc: ProgramArray<MapData>,
    xdp: ProgramArray<MapData>,
    counted: PerCpuArray<MapData, u64>,
}

/// What came of frames that were really sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Returned {
    /// How many came back.
    pub(crate) frames: u64,
    /// How long it took.
    pub(crate) time: Duration,
}

impl Harness {
    pub(crate) fn load() -> Result<Self> {
        let mut ebpf = Ebpf::load(OBJECT).context("the harness's eBPF object")?;
        for name in ["harness_tc", "null_tc", "least_tc", "load_tc", "lookup_tc"] {
            classifier(&mut ebpf, name)?.load().context(name)?;
        }
        for name in ["harness_xdp", "null_xdp", "least_xdp", "generate", "reflect", "count"] {
            xdp(&mut ebpf, name)?.load().context(name)?;
        }
        Ok(Self {
            plan: map(&mut ebpf, "PLAN")?.try_into()?,
            tc: map(&mut ebpf, "TC_TARGET")?.try_into()?,
            xdp: map(&mut ebpf, "XDP_TARGET")?.try_into()?,
            counted: map(&mut ebpf, "COUNTED")?.try_into()?,
            ebpf,
        })
    }

    /// Runs a program, as if the packets were at an interface. The calling thread must be in the
    /// interface's network namespace.
    pub(crate) fn run(&mut self, hook: Hook, target: Target<'_>, interface: u32, packets: Packets<'_>) -> Result<Ran> {
        let Packets { shape, flows, first, count } = packets;
        self.aim(hook, target)?;
        self.plan.set(0, shape.plan(flows, first)?, 0)?;
        let data_in = shape.bytes(first);
        let mut data_out = [0; ROOM];
        let context = match hook {
            Hook::TcIn | Hook::TcOut => skb_context(interface),
            Hook::Xdp => xdp_context(interface, data_in.len())?,
        };
        let options = TestRunOptions {
            data_in: Some(&data_in),
            data_out: Some(&mut data_out),
            ctx_in: Some(&context),
            repeat: count,
            ..TestRunOptions::new()
        };
        let before = processor_time()?;
        let result = match hook {
            Hook::TcIn | Hook::TcOut => classifier(&mut self.ebpf, "harness_tc")?.test_run(options),
            Hook::Xdp => xdp(&mut self.ebpf, "harness_xdp")?.test_run(options),
        };
        let spent = processor_time()?.saturating_sub(before);
        let result = result.context("BPF_PROG_TEST_RUN")?;
        let length = usize::try_from(result.data_size_out)?;
        ensure!(length <= ROOM, "the packet has grown to {length} bytes");
        Ok(Ran {
            verdict: result.return_value.cast_signed(),
            nanos: spent.as_secs_f64() * 1e9 / f64::from(count),
            flow: first + self.plan.get(&0, 0)?.last,
            frame: data_out[..length].to_vec(),
        })
    }

    /// Attaches one of the harness's own XDP programs to an interface in the calling thread's namespace, in its driver.
    pub(crate) fn attach(&mut self, name: &str, interface: &str) -> Result<XdpLink> {
        let program = xdp(&mut self.ebpf, name)?;
        let id = program.attach(interface, XdpMode::Driver).with_context(|| format!("{name} on {interface}"))?;
        Ok(program.take_link(id)?)
    }

    /// Sends real frames out of an interface, at which `count` must be attached, and counts those that come back.
    pub(crate) fn send(&mut self, interface: u32, packets: Packets<'_>) -> Result<Returned> {
        let Packets { shape, flows, first, count } = packets;
        self.plan.set(0, shape.plan(flows, first)?, 0)?;
        let data_in = shape.bytes(first);
        let context = xdp_context(interface, data_in.len())?;
        let options = TestRunOptions {
            data_in: Some(&data_in),
            ctx_in: Some(&context),
            repeat: count,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        let before = self.counted()?;
        let start = Instant::now();
        xdp(&mut self.ebpf, "generate")?.test_run(options).context("BPF_PROG_TEST_RUN with live frames")?;
        let time = start.elapsed();
        // The last may be on their way, if the kernel left them to a thread of its own.
        let deadline = Instant::now() + Duration::from_millis(200);
        while self.counted()? - before < u64::from(count) && Instant::now() < deadline {
            std::thread::yield_now();
        }
        Ok(Returned { frames: self.counted()? - before, time })
    }

    fn counted(&self) -> Result<u64> {
        Ok(self.counted.get(&0, 0)?.iter().sum())
    }

    fn aim(&mut self, hook: Hook, target: Target<'_>) -> Result<()> {
        let own = match (target, hook) {
            (Target::Nothing, Hook::TcIn | Hook::TcOut) => "null_tc",
            (Target::Nothing, Hook::Xdp) => "null_xdp",
            (Target::Own(name), _) => name,
            (Target::Program(fd), _) => return self.set(hook, fd),
        };
        let program = self.ebpf.program(own).with_context(|| format!("the harness has no program {own}"))?;
        let fd = program.fd()?.try_clone()?;
        self.set(hook, &fd)
    }

    fn set(&mut self, hook: Hook, program: &ProgramFd) -> Result<()> {
        let targets = if hook == Hook::Xdp { &mut self.xdp } else { &mut self.tc };
        targets.set(0, program, 0).context("the program under test")
    }
}

/// What the calling thread has had of the processor. What the kernel says of a run is the time that passed, in which
/// others may have had it.
fn processor_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// A `struct __sk_buff` up to its `ifindex`, which alone is said: the kernel refuses most else.
fn skb_context(interface: u32) -> Vec<u8> {
    const IFINDEX: usize = 40;
    let mut context = vec![0; IFINDEX + 4];
    context[IFINDEX..].copy_from_slice(&interface.to_ne_bytes());
    context
}

/// A `struct xdp_md`: where the data ends, and the interface.
fn xdp_context(interface: u32, length: usize) -> Result<Vec<u8>> {
    let words = [0, u32::try_from(length)?, 0, interface, 0, 0];
    Ok(words.into_iter().flat_map(u32::to_ne_bytes).collect())
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf.program_mut(name).with_context(|| format!("the harness has no program {name}"))?;
    Ok(program.try_into()?)
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("the harness has no program {name}"))?;
    Ok(program.try_into()?)
}

fn map(ebpf: &mut Ebpf, name: &str) -> Result<Map> {
    ebpf.take_map(name).with_context(|| format!("the harness has no map {name}"))
}
